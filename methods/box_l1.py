"""L1 between raw box outputs: the loss on heads in the released AKD and MasKD configs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import level_pairs, roi_pair


class BoxL1(Method):
    """weight * sum over levels of mean |b_s - b_t|, over all anchors and locations.

    Dense detectors: b is one [N, A*4, H, W] of raw box deltas per pyramid level. Two-stage detectors: b is the RoI
    head's [sum R_i, (K + 1) * 4], one mean; student and teacher must use the same proposals.

    Args:
        setting: the run's shapes.
        weight: factor on the sum; 1 in the configs.
        beta: 0 is L1 (RetinaNet); above 0 smooth L1, quadratic below beta (RepPoints 0.11; also in the RoI head).
    """

    name = "box_l1"
    citation = (
        "The box term of the configs of Y. Zhang, W. Chen, Y. Lu, T. Huang, X. Sun, J. Cao. Avatar knowledge "
        "distillation: self-ensemble teacher paradigm with uncertainty. ACM MM 2023. "
        "https://github.com/Gumpest/AvatarKD; and of https://github.com/hunto/MasKD."
    )
    tasks = frozenset({"detection"})

    def __init__(self, setting: Setting, weight: float = 1.0, beta: float = 0.0) -> None:
        super().__init__(setting)
        if beta < 0:
            raise MethodError(f"box_l1: beta is {beta}; use 0 for L1 or a positive number for smooth L1")
        self.weight = weight
        self.beta = beta

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        if "roi_boxes" in student.extra:
            pairs = [roi_pair(self.name, "roi_boxes", student, teacher)]
        else:
            pairs = level_pairs(self.name, student.boxes, teacher.boxes, "box outputs")
        total = torch.stack([self._mean(s, t) for s, t in pairs]).sum()
        return {self.name: self.weight * total}

    def _mean(self, student: Tensor, teacher: Tensor) -> Tensor:
        # Not `reduction="mean"`, which is NaN without proposals.
        return F.smooth_l1_loss(student, teacher, reduction="sum", beta=self.beta) / max(student.numel(), 1)
