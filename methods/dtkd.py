"""DTKD: dynamic temperature knowledge distillation."""

from __future__ import annotations

from torch import Tensor

from ._logits import kl_of_rows, require_positive, require_warmup
from .base import Batch, Method, Outputs, Setting
from .functional import kl_divergence, logits_pair, warmup


class DTKD(Method):
    """KD whose temperatures divide a common one in proportion to the largest logits of student and teacher, and KD.

        a, b = largest logit of student and teacher;  T_s = 2 T a / (a + b);  T_t = 2 T b / (a + b), for each image
        dynamic = alpha * T_s * T_t * KL(softmax(teacher / T_t) || softmax(student / T_s))
        kd = beta * T^2 * KL(softmax(teacher / T) || softmax(student / T))
        both are means over images, times min(e / warmup_epochs, 1), in the e-th epoch, from 1

    z [N, K] logits. The gradient passes through both temperatures, since the student's largest logit is in both. As
    released, nothing bounds them: a largest logit near 0 or below it makes a temperature tiny or negative.

    Args:
        setting: the run's shapes.
        alpha: factor on dynamic. CIFAR-100: 3; 1 for resnet110 to resnet32, resnet56 to resnet20 and wrn_40_2 to
            wrn_40_1; 2 for wrn_40_2 to ShuffleNetV1.
        beta: factor on kd. CIFAR-100: 1; 0.5 for the pairs whose alpha is not 3; 2 for ResNet50 to MobileNetV2.
        temperature: T.
        warmup_epochs: epochs until the full weight, by `epoch`; 0 is the full weight from the start.
    """

    name = "dtkd"
    citation = (
        "Y. Wei, Y. Bai. Dynamic temperature knowledge distillation. arXiv 2024. https://github.com/JinYu1998/DTKD"
    )
    tasks = frozenset({"classification"})
    min_classes = 2

    def __init__(
        self,
        setting: Setting,
        alpha: float = 3.0,
        beta: float = 1.0,
        temperature: float = 4.0,
        warmup_epochs: int = 20,
    ) -> None:
        super().__init__(setting)
        require_positive(self.name, temperature=temperature)
        require_warmup(self.name, warmup_epochs)
        self.alpha, self.beta, self.temperature, self.warmup_epochs = alpha, beta, temperature, warmup_epochs

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `dynamic` and `kd`; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        largest_s, largest_t = s.amax(dim=1, keepdim=True), t.amax(dim=1, keepdim=True)
        temperature_s, temperature_t = (
            2 * self.temperature * largest / (largest_s + largest_t) for largest in (largest_s, largest_t)
        )
        rows = (temperature_s * temperature_t)[:, 0] * kl_of_rows(s / temperature_s, t / temperature_t)
        factor = warmup(self.epoch, self.warmup_epochs, s)
        return {
            "dynamic": factor * self.alpha * rows.mean(),
            "kd": factor * self.beta * kl_divergence(s, t, self.temperature),
        }
