"""FSP: the flow of the solution procedure."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import level_pairs, match_sizes


class FSP(Method):
    """Before the task is learned, the student copies the Gram matrices between neighbouring stages.

        G_l[n,i,j] = mean_{h,w} F_l[n,i,h,w] F_{l+1}[n,j,h,w];  the larger map is average-pooled to the smaller
        loss = sum over neighbours l of mean_{n,i,j} (G_l(student) - G_l(teacher))^2

    F: stem to last stage, [N, C, h, w]. Widths of student and teacher must agree. The loss is that of the first
    `initial_epochs`, where it stands alone and without a factor; the released code (RepDistiller) then trains with the
    cross-entropy alone, so that its weight of 50 multiplies nothing, and so does this method unless `joint` is set.

    Args:
        setting: the run's shapes.
        weight: factor on the loss where `joint` keeps it beside the task; it does not touch the initial epochs.
        initial_epochs: 30.
        joint: keep the loss, times weight, after the initial epochs.
    """

    name = "fsp"
    citation = (
        "J. Yim, D. Joo, J. Bae, J. Kim. A gift from knowledge distillation: fast optimization, network minimization "
        "and transfer learning. CVPR 2017. As released in https://github.com/HobbitLong/RepDistiller"
    )
    tasks = frozenset({"classification"})

    def __init__(self, setting: Setting, weight: float = 50.0, initial_epochs: int = 30, joint: bool = False) -> None:
        super().__init__(setting)
        if initial_epochs < 1:
            raise MethodError(f"fsp: initial_epochs is {initial_epochs}; it must be at least 1")
        self.weight, self.initial_epochs, self.joint = weight, initial_epochs, joint
        student, teacher = setting.student.channels, setting.teacher.channels
        if student != teacher:
            raise MethodError(
                f"fsp: widths of student and teacher must agree, and are {student} and {teacher}; "
                "choose a teacher that is deeper, not wider"
            )
        if len(student) < 2:
            raise MethodError(f"fsp: it needs at least two features and the networks show {len(student)}")

    def initial(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """The loss, without weight."""
        return {self.name: self._loss(student, teacher)}

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Nothing, or with `joint` the weighted loss."""
        return {self.name: self.weight * self._loss(student, teacher)} if self.joint else {}

    def _loss(self, student: Outputs, teacher: Outputs) -> Tensor:
        own, other = (tuple(gram(a, b) for a, b in pairwise(out.features)) for out in (student, teacher))
        pairs = level_pairs(self.name, own, other, "FSP matrices")
        return torch.stack([F.mse_loss(s, t) for s, t in pairs]).sum()


def gram(lower: Tensor, upper: Tensor) -> Tensor:
    """G of two neighbouring maps, [N, C, h, w] and [N, D, h', w'] -> [N, C, D]."""
    lower, upper = match_sizes(lower, upper)
    return torch.einsum("nchw,ndhw->ncd", lower, upper) / lower[0, 0].numel()
