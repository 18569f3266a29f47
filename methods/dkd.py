"""DKD: decoupled knowledge distillation."""

from __future__ import annotations

from torch import Tensor

from ._logits import binary_logits, class_labels, non_target_logits, require_positive, require_warmup
from .base import Batch, Method, Outputs, Setting
from .functional import kl_divergence, logits_pair, warmup


class DKD(Method):
    """KD split into the target class against the rest, and the distribution over the non-target classes.

        p = softmax(z / T);  b = (p_y, 1 - p_y);  r = softmax(z / T) over the classes except y
        tckd = alpha * T^2 * KL(b(teacher) || b(student)),  nckd = beta * T^2 * KL(r(teacher) || r(student))
        both are means over images, times weight, times min(e / warmup_epochs, 1), in the e-th epoch, from 1

    z [N, K] logits, y [N] labels. With two classes nckd would be 0, so three are needed. Both terms are computed from
    log-probabilities.

    Args:
        setting: the run's shapes.
        weight: factor on both terms.
        alpha: factor on tckd.
        beta: factor on nckd. CIFAR-100: 8; 6 for vgg13 to vgg8 or MobileNetV2 and for wrn_40_2 to
            wrn_16_2 or wrn_40_1; 2 for resnet56 to resnet20 and resnet110 to resnet32.
        temperature: T.
        warmup_epochs: epochs until the full weight, by `epoch`; 0 is the full weight from the start.
    """

    name = "dkd"
    citation = (
        "B. Zhao, Q. Cui, R. Song, Y. Qiu, J. Liang. Decoupled knowledge distillation. CVPR 2022. "
        "https://github.com/megvii-research/mdistiller"
    )
    tasks = frozenset({"classification"})
    min_classes = 3
    one_class_per_image = True

    def __init__(
        self,
        setting: Setting,
        weight: float = 1.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        warmup_epochs: int = 20,
    ) -> None:
        super().__init__(setting)
        require_positive(self.name, temperature=temperature)
        require_warmup(self.name, warmup_epochs)
        self.weight, self.alpha, self.beta = weight, alpha, beta
        self.temperature, self.warmup_epochs = temperature, warmup_epochs

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `tckd` and `nckd`; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        labels, temperature = class_labels(self.name, batch, s), self.temperature
        factor = self.weight * warmup(self.epoch, self.warmup_epochs, s)
        tckd = kl_divergence(binary_logits(s, labels, temperature), binary_logits(t, labels, temperature), 1.0)
        nckd = kl_divergence(non_target_logits(s, labels), non_target_logits(t, labels), temperature)
        return {"tckd": factor * self.alpha * temperature**2 * tckd, "nckd": factor * self.beta * nckd}
