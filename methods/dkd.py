"""DKD: decoupled knowledge distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Method, MethodError, Outputs, Setting
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
        if temperature <= 0:
            raise MethodError(f"dkd: temperature is {temperature}; it must be positive")
        if warmup_epochs < 0:
            raise MethodError(f"dkd: warmup_epochs is {warmup_epochs}; use a number of epochs, or 0 for none")
        self.weight, self.alpha, self.beta = weight, alpha, beta
        self.temperature, self.warmup_epochs = temperature, warmup_epochs

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `tckd` and `nckd`; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        labels, temperature = batch.targets, self.temperature
        if labels.shape != s.shape[:1]:
            raise MethodError(
                f"dkd: targets have shape {tuple(labels.shape)} for {len(s)} images; it needs one class per image, so "
                "choose a recipe without mixup and cutmix"
            )
        factor = self.weight * warmup(self.epoch, self.warmup_epochs, s)
        tckd = kl_divergence(binary_logits(s, labels, temperature), binary_logits(t, labels, temperature), 1.0)
        nckd = kl_divergence(non_target_logits(s, labels), non_target_logits(t, labels), temperature)
        return {"tckd": factor * self.alpha * temperature**2 * tckd, "nckd": factor * self.beta * nckd}


def binary_logits(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """(log p_y, log(1 - p_y)) of p = softmax(logits / temperature): [N, K], [N] -> [N, 2]."""
    log_p = F.log_softmax(logits / temperature, dim=1)
    log_rest = non_target_logits(log_p, targets).logsumexp(dim=1)
    return torch.stack([log_p.gather(1, targets[:, None])[:, 0], log_rest], dim=1)


def non_target_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The logits of the non-target classes: [N, K], [N] -> [N, K - 1]."""
    classes = logits.shape[1]
    columns = torch.arange(classes - 1, device=logits.device).expand(len(logits), -1)
    return logits.gather(1, columns + (columns >= targets[:, None]))
