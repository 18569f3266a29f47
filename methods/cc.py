"""CC: correlation congruence for knowledge distillation."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import pooled_pair


class CC(Method):
    """Correlation, between neighbours in the batch, of how far the student is from the teacher.

        delta_n = |E_s(S_n) - E_t(T_n)|                      [N, embed_dim]
        loss = weight * mean_n <delta_n, delta_{n+1}>        over the N - 1 pairs of neighbours

    S [N, D_s], T [N, D_t], the pooled features; E_s and E_t are linear layers that train with the student, E_t too, as
    released. This is the loss of RepDistiller, which had it from the paper's authors, and the one behind the tables;
    the paper's own formula compares kernel matrices. A single image has no neighbour and costs nothing.

    Args:
        setting: the run's shapes.
        weight: factor on the loss.
        embed_dim: width of the embeddings; 128 is the default of RepDistiller's script.
    """

    name = "cc"
    citation = (
        "B. Peng, X. Jin, J. Liu, D. Li, Y. Wu, Y. Liu, S. Zhou, Z. Zhang. Correlation congruence for knowledge "
        "distillation. ICCV 2019. As in https://github.com/HobbitLong/RepDistiller"
    )
    tasks = frozenset({"classification"})

    def __init__(self, setting: Setting, weight: float = 0.02, embed_dim: int = 256) -> None:
        super().__init__(setting)
        dims = setting.student.pooled_dim, setting.teacher.pooled_dim
        if dims[0] is None or dims[1] is None:
            raise MethodError(
                f"cc: pooled_dim is {dims[0]} for the student and {dims[1]} for the teacher; "
                "choose networks that pool before they classify"
            )
        if embed_dim < 1:
            raise MethodError(f"cc: embed_dim is {embed_dim}; it must be at least 1")
        self.weight = weight
        self.embed_student = nn.Linear(dims[0], embed_dim)
        self.embed_teacher = nn.Linear(dims[1], embed_dim)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        own, other = pooled_pair(self.name, student, teacher)
        return {self.name: self.weight * congruence(self.embed_student(own), self.embed_teacher(other))}


def congruence(student: Tensor, teacher: Tensor) -> Tensor:
    """The loss of two embeddings [N, D], unweighted."""
    delta = (student - teacher).abs()
    return (delta[:-1] * delta[1:]).sum() / max(len(delta) - 1, 1)
