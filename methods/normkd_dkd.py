"""NormKD on DKD: decoupled soft targets with a temperature for each image."""

from __future__ import annotations

from torch import Tensor

from ._logits import binary_logits, class_labels, kl_of_rows, non_target_logits, require_positive, standardized
from .base import Batch, Outputs, Setting
from .dkd import DKD
from .functional import logits_pair, warmup
from .normkd import NormKD, teacher_temperature


class NormKDOnDKD(DKD):
    """DKD whose temperatures are proportional to the standard deviations of an image's logits.

        T(z) = temperature_norm * std(z), for each image and network, with the unbiased standard deviation
        p = softmax(z / T(z));  b = (p_y, 1 - p_y);  r = softmax(z / T(z)) over the classes except y
        tckd = alpha * T(teacher)^2 * KL(b(teacher) || b(student))
        nckd = beta * T(teacher)^2 * KL(r(teacher) || r(student))
        both are means over images, times weight, times min(e / warmup_epochs, 1), in the e-th epoch, from 1

    z [N, K] logits, y [N] labels. The gradient passes through T(student). 1e-7 is added to the standard deviations that
    divide, as in NormKD.

    Args:
        setting: the run's shapes.
        weight: factor on both terms.
        alpha: factor on tckd.
        beta: factor on nckd.
        temperature_norm: 2.
        warmup_epochs: epochs until the full weight, by `epoch`; 0 is the full weight from the start.
    """

    name = "normkd_dkd"
    citation = NormKD.citation

    def __init__(
        self,
        setting: Setting,
        weight: float = 1.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature_norm: float = 2.0,
        warmup_epochs: int = 20,
    ) -> None:
        require_positive(self.name, temperature_norm=temperature_norm)
        super().__init__(setting, weight, alpha, beta, temperature_norm, warmup_epochs)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `tckd` and `nckd`; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        labels, norm = class_labels(self.name, batch, s), self.temperature
        squares = teacher_temperature(t, norm).square()
        s, t = standardized(s), standardized(t)
        tckd = kl_of_rows(binary_logits(s, labels, norm), binary_logits(t, labels, norm))
        nckd = kl_of_rows(non_target_logits(s, labels) / norm, non_target_logits(t, labels) / norm)
        factor = self.weight * warmup(self.epoch, self.warmup_epochs, s)
        return {
            "tckd": factor * self.alpha * (squares * tckd).mean(),
            "nckd": factor * self.beta * (squares * nckd).mean(),
        }
