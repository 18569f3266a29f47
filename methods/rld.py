"""RLD: refined logit distillation."""

from __future__ import annotations

from torch import Tensor

from ._logits import binary_logits, class_labels, kl_of_rows, require_positive, require_warmup
from .base import Batch, Method, Outputs, Setting
from .functional import logits_pair, warmup

MASKED = -1e9
"""Logit of a class that is left out; its probability is 0."""


class RLD(Method):
    """The teacher's confidence for the true class, and its distribution over the classes that it ranks below.

        p = softmax(z / alpha_temperature);  b_c = (p_c, 1 - p_c);  m the teacher's top class
        r = softmax(z / temperature) over the classes whose logit of the teacher is below that of y
        scd = alpha * alpha_temperature^2 * KL(b_m(teacher) || b_y(student))
        mcd = beta * temperature^2 * KL(r(teacher) || r(student))
        both are means over images, times min(e / warmup_epochs, 1), in the e-th epoch, from 1

    z [N, K] logits, y [N] labels. Where the true class is the teacher's last, no class is left and mcd is 0. With two
    classes it is always 0, so three are needed. `ls+rld` is the released form with standardized logits.

    Args:
        setting: the run's shapes.
        alpha: factor on scd.
        beta: factor on mcd. CIFAR-100 8; ImageNet 0.5 for ResNet34 to ResNet18, 2 for ResNet50 to MobileNetV1.
        temperature: of mcd. CIFAR-100 4; ImageNet 1.
        alpha_temperature: of scd; None is `temperature`, as in the released command for CIFAR-100. The default in the
            released configuration is 1.
        warmup_epochs: epochs until the full weight, by `epoch`; 0 is the full weight from the start. ImageNet 1.
    """

    name = "rld"
    citation = (
        "W. Sun, D. Chen, S. Lyu, G. Chen, C. Chen, C. Wang. Knowledge distillation with refined logits. ICCV 2025. "
        "https://github.com/zju-SWJ/RLD"
    )
    tasks = frozenset({"classification"})
    min_classes = 3
    one_class_per_image = True

    def __init__(
        self,
        setting: Setting,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        alpha_temperature: float | None = None,
        warmup_epochs: int = 20,
    ) -> None:
        super().__init__(setting)
        self.alpha_temperature = temperature if alpha_temperature is None else alpha_temperature
        require_positive(self.name, temperature=temperature, alpha_temperature=self.alpha_temperature)
        require_warmup(self.name, warmup_epochs)
        self.alpha, self.beta, self.temperature, self.warmup_epochs = alpha, beta, temperature, warmup_epochs

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `scd` and `mcd`; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        labels = class_labels(self.name, batch, s)
        confidence = (
            binary_logits(s, labels, self.alpha_temperature),
            binary_logits(t, t.argmax(dim=1), self.alpha_temperature),
        )
        left_out = t >= t.gather(1, labels[:, None])
        below = [(z / self.temperature).masked_fill(left_out, MASKED) for z in (s, t)]
        factor = warmup(self.epoch, self.warmup_epochs, s)
        return {
            "scd": factor * self.alpha * self.alpha_temperature**2 * kl_of_rows(*confidence).mean(),
            "mcd": factor * self.beta * self.temperature**2 * kl_of_rows(*below).mean(),
        }
