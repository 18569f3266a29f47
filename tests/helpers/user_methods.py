"""The text of a user's method."""

METHOD = '''"""A method of a user."""

from torch import Tensor, nn

from kdbench.methods.base import Batch, Method, Outputs, Setting


class Mine(Method):
    """Squared difference of logits.

    Args:
        setting: the run's shapes.
        tau: divides the logits.
    """

    name = "{name}"
    citation = "A. User. 2026. https://example.org"
    tasks = frozenset({{"classification"}})

    def __init__(self, setting: Setting, tau: float = 1.0) -> None:
        super().__init__(setting)
        self.tau = tau

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        return {{self.name: nn.functional.mse_loss(student.logits / self.tau, teacher.logits.detach() / self.tau)}}
'''
