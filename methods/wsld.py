"""WSLD: weighted soft label distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._logits import class_labels, require_positive
from .base import Batch, Method, Outputs, Setting
from .functional import logits_pair

EPS = 1e-7
"""Added to the teacher's cross-entropy, as released."""


class WSLD(Method):
    """Soft targets whose weight is smaller for an image that the student classifies better than the teacher.

        ce = cross-entropy of an image's label at temperature 1
        w = 1 - exp(- ce(student) / (ce(teacher) + 1e-7)), for each image, without gradient
        H = - sum over classes of softmax(teacher / T) * log softmax(student / T)
        loss = weight * T^2 * w * H, mean over images

    z [N, K] logits. H is a cross-entropy: the teacher's entropy stays in the value.

    The released training leaves the teacher in train mode, so that its BatchNorm normalizes by the batch; here a frozen
    teacher is in eval mode unless `teacher_batch_statistics` is true.

    Args:
        setting: the run's shapes.
        weight: ImageNet 2.5; CIFAR-100 2.25, by others.
        temperature: T. ImageNet 2; CIFAR-100 4, by others.
        teacher_batch_statistics: let the teacher's BatchNorm normalize by the batch, as in the released training. The
            released running statistics drift meanwhile, which no output shows; here they stay.
    """

    name = "wsld"
    citation = (
        "H. Zhou, L. Song, J. Chen, Y. Zhou, G. Wang, J. Yuan, Q. Zhang. Rethinking soft labels for knowledge "
        "distillation: a bias-variance tradeoff perspective. ICLR 2021. "
        "https://github.com/bellymonster/Weighted-Soft-Label-Distillation"
    )
    tasks = frozenset({"classification"})
    min_classes = 2
    one_class_per_image = True

    def __init__(
        self,
        setting: Setting,
        weight: float = 2.5,
        temperature: float = 2.0,
        teacher_batch_statistics: bool = False,
    ) -> None:
        super().__init__(setting)
        require_positive(self.name, temperature=temperature)
        self.weight, self.temperature = weight, temperature
        self.teacher_batch_statistics = teacher_batch_statistics

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        labels = class_labels(self.name, batch, s)
        ce_s, ce_t = (F.cross_entropy(z.detach(), labels, reduction="none") for z in (s, t))
        weights = -torch.expm1(-ce_s / (ce_t + EPS))
        soft = F.cross_entropy(s / self.temperature, F.softmax(t / self.temperature, dim=1), reduction="none")
        return {self.name: self.weight * self.temperature**2 * (weights * soft).mean()}
