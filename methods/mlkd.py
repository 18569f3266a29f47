"""MLKD: multi-level logit distillation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ._logits import require_positive
from .base import Batch, Method, Outputs, Setting
from .functional import kl_divergence, logits_pair

LEVELS = (3.0, 5.0, 2.0, 6.0)
"""Temperatures beside `temperature`."""


class MLKD(Method):
    """Soft targets, class correlations and sample correlations at five temperatures, of a weak and a strong view.

        L = (T, 3, 5, 2, 6);  P = softmax(z / t), [N, K];  w: the batch, s: its strong view
        kd_loss = weight * [ m * sum over L of KL_t(w) + sum over (T, 3, 5) of KL_t(s) + sum over (2, 6) of KL_t(w) ]
        class_correlation  = weight * m_c * sum over L of |P_t' P_t - P_s' P_s|^2 / K                       of w
        sample_correlation = weight * m   * sum over L of |P_t P_t' - P_s P_s'|^2 / N                       of w
        strong_cross_entropy = task_weight * cross-entropy of the student's logits of s
        KL_t = t^2 * KL(softmax(teacher / t) || softmax(student / t)), mean over images

    m: the share of images whose teacher confidence (of w, without temperature) is at or below the median of the
    batch; m_c: the share of classes whose confidence, summed over the batch, is at or below that of all classes.
    Released so: the masks' means alone count, the last two temperatures read w in place of s, the correlations of s
    are not used and have no t^2. The strong view has its own crop and flip, two of 14 operations (not torchvision's
    RandAugment) and a gray square. Each view is a forward of its own, the strong one after the other.

    Released training: learning rate 0.025 and 240 epochs for pairs of one family, 0.01 and 480 or 960 epochs for
    others, falling after 150, 180 and 210 in all: later epochs are at the last, small rate and hardly change anything.

    Args:
        setting: the run's shapes.
        weight: factor on all terms but the cross-entropies: CIFAR-100 0.9; ImageNet 0.5.
        task_weight: factor on the task loss, and on the cross-entropy of the strong view: CIFAR-100 0.1; ImageNet 0.5.
        temperature: T: CIFAR-100 4; ImageNet 1.
    """

    name = "mlkd"
    citation = (
        "Y. Jin, J. Wang, D. Lin. Multi-level logit distillation. CVPR 2023. "
        "https://github.com/Jin-Ying/Multi-Level-Logit-Distillation"
    )
    tasks = frozenset({"classification"})
    min_classes = 2
    views = ("strong",)

    def __init__(
        self, setting: Setting, weight: float = 0.9, task_weight: float = 0.1, temperature: float = 4.0
    ) -> None:
        super().__init__(setting)
        require_positive(self.name, temperature=temperature)
        self.weight, self.task_weight, self.temperature = weight, task_weight, temperature
        self.in_kl: Callable[[Tensor], Tensor] = _unchanged
        """Applied to the logits in the KL terms; logit standardization (`ls+mlkd`) sets it."""

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Four terms; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        strong_s, strong_t = logits_pair(self.name, student.views["strong"], teacher.views["strong"])
        levels = (self.temperature, *LEVELS)
        confidence = F.softmax(t, dim=1)
        images = _share_below_median(confidence.amax(dim=1))
        classes = _share_below_median(confidence.sum(dim=0))
        weak = torch.stack([*map(self._kl(s, t), levels)])
        strong = torch.stack([*map(self._kl(strong_s, strong_t), levels[:3])])
        soft = images * weak.sum() + strong.sum() + weak[3:].sum()
        pairs = [(F.softmax(s / level, dim=1), F.softmax(t / level, dim=1)) for level in levels]
        by_class = [(p_s.T @ p_s - p_t.T @ p_t).square().sum() for p_s, p_t in pairs]
        by_image = [(p_s @ p_s.T - p_t @ p_t.T).square().sum() for p_s, p_t in pairs]
        return {
            "kd_loss": self.weight * soft,
            "class_correlation": self.weight * classes * torch.stack(by_class).sum() / s.shape[1],
            "sample_correlation": self.weight * images * torch.stack(by_image).sum() / len(s),
            "strong_cross_entropy": self.task_weight * F.cross_entropy(strong_s, batch.targets),
        }

    def _kl(self, s: Tensor, t: Tensor) -> Callable[[float], Tensor]:
        s, t = self.in_kl(s), self.in_kl(t)
        return lambda temperature: kl_divergence(s, t, temperature)


def _share_below_median(values: Tensor) -> Tensor:
    """The share of the values at or below their median, which is interpolated."""
    return (values <= values.quantile(0.5)).float().mean()


def _unchanged(logits: Tensor) -> Tensor:
    return logits
