"""NKD: normalized knowledge distillation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ._logits import non_target_logits, require_positive
from .base import Batch, Method, Outputs, Setting
from .functional import logits_pair


class NKD(Method):
    """Cross-entropies with the teacher's probability of the target class, and with its distribution over the others.

        p = softmax(z);  r = softmax(z / T) over the classes except y
        target = - weight * p_y(teacher) * log p_y(student)
        non_target = - weight * gamma * T^2 * sum over the others of r(teacher) * log r(student)
        both are means over images

    z [N, K] logits, y [N] labels; of mixed labels [N, K] y is the class with the largest share, as released. The target
    term has no temperature. Neither term subtracts the teacher's entropy. With two classes non_target would be 0, so
    three are needed.

    Args:
        setting: the run's shapes.
        weight: factor on both terms.
        gamma: factor on the non-target term. ImageNet 1.5; CIFAR-100 3.5; DeiT students 1.
        temperature: T. ImageNet and DeiT students 1; CIFAR-100 3.
    """

    name = "nkd"
    citation = (
        "Z. Yang, A. Zeng, Z. Li, T. Zhang, C. Yuan, Y. Li. From knowledge distillation to self-knowledge distillation"
        ": a unified approach with normalized loss and customized soft labels. ICCV 2023. "
        "https://github.com/yzd-v/cls_KD"
    )
    tasks = frozenset({"classification"})
    min_classes = 3

    def __init__(self, setting: Setting, weight: float = 1.0, gamma: float = 1.5, temperature: float = 1.0) -> None:
        super().__init__(setting)
        require_positive(self.name, temperature=temperature)
        self.weight, self.gamma, self.temperature = weight, gamma, temperature

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `target` and `non_target`; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        labels = batch.targets if batch.targets.ndim == 1 else batch.targets.argmax(dim=1)
        target_p = F.softmax(t, dim=1).gather(1, labels[:, None])[:, 0]
        others_s, others_t = (non_target_logits(z, labels) / self.temperature for z in (s, t))
        factor = self.weight * self.gamma * self.temperature**2
        return {
            "target": self.weight * (target_p * F.cross_entropy(s, labels, reduction="none")).mean(),
            "non_target": factor * F.cross_entropy(others_s, F.softmax(others_t, dim=1)),
        }
