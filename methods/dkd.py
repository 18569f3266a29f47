"""DKD: decoupled knowledge distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import kl_divergence, logits_pair


class DKD(Method):
    """KD taken apart: how sure of the target class, and how the other classes share the rest.

        p = softmax(z / T);  b = (p_y, 1 - p_y);  r = softmax(z / T) over the classes other than y
        tckd = alpha * T^2 * KL(b(teacher) || b(student)),  nckd = beta * T^2 * KL(r(teacher) || r(student))
        both means over images, times weight, times min(epoch / warmup_epochs, 1), where the first epoch is 1

    z [N, K] logits, y [N] labels. With two classes there is one other class and no nckd, so three are needed. Both
    parts are computed from log-probabilities.

    Args:
        setting: the run's shapes.
        weight: factor on both terms.
        alpha: factor on the target class's part.
        beta: factor on the other classes' part. CIFAR-100: 8; 6 for vgg13 to vgg8 or MobileNetV2 and for wrn_40_2 to
            wrn_16_2 or wrn_40_1; 2 for resnet56 to resnet20 and resnet110 to resnet32.
        temperature: T.
        warmup_epochs: epochs until the full weight; 0 is full from the start. Forwards in training are counted in a
            buffer, so a resumed run goes on where it stopped.
    """

    name = "dkd"
    citation = (
        "B. Zhao, Q. Cui, R. Song, Y. Qiu, J. Liang. Decoupled knowledge distillation. CVPR 2022. "
        "https://github.com/megvii-research/mdistiller"
    )
    tasks = frozenset({"classification"})
    min_classes = 3
    forwards: Tensor

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
        if warmup_epochs and not setting.steps_per_epoch:
            raise MethodError(
                "dkd: warmup_epochs needs the setting's steps_per_epoch; give it, or set warmup_epochs: 0"
            )
        self.weight, self.alpha, self.beta = weight, alpha, beta
        self.temperature, self.warmup_epochs = temperature, warmup_epochs
        self.register_buffer("forwards", torch.zeros((), dtype=torch.long))

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `tckd` and `nckd`; see the class."""
        own, other = logits_pair(self.name, student, teacher)
        labels, temperature = batch.targets, self.temperature
        if labels.shape != own.shape[:1]:
            raise MethodError(
                f"dkd: targets have shape {tuple(labels.shape)} for {len(own)} images; it needs one class an image, so "
                "switch off what mixes labels"
            )
        factor = self.weight * self._warmup()
        tckd = kl_divergence(binary_logits(own, labels, temperature), binary_logits(other, labels, temperature), 1.0)
        nckd = kl_divergence(other_logits(own, labels), other_logits(other, labels), temperature)
        return {"tckd": factor * self.alpha * temperature**2 * tckd, "nckd": factor * self.beta * nckd}

    def _warmup(self) -> Tensor | float:
        """The factor of the present epoch; a tensor, to spare the device a wait."""
        if self.training:
            self.forwards += 1
        if not self.warmup_epochs or not self.setting.steps_per_epoch:
            return 1.0
        epoch = (self.forwards - int(self.training)) // self.setting.steps_per_epoch + 1
        return (epoch / self.warmup_epochs).clamp_max(1.0)


def binary_logits(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """(log p_y, log(1 - p_y)) of p = softmax(logits / temperature): [N, K], [N] -> [N, 2]."""
    log_p = F.log_softmax(logits / temperature, dim=1)
    return torch.stack([log_p.gather(1, targets[:, None])[:, 0], other_logits(log_p, targets).logsumexp(dim=1)], dim=1)


def other_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The logits of the classes that are not the target: [N, K], [N] -> [N, K - 1]."""
    classes = logits.shape[1]
    columns = torch.arange(classes - 1, device=logits.device).expand(len(logits), -1)
    return logits.gather(1, columns + (columns >= targets[:, None]))
