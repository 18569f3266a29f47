"""FSP: flow of solution procedure."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import level_pairs, match_sizes


class FSP(Method):
    """The student first matches the teacher's Gram matrices between neighboring stages, then learns the task.

        G_l[n,i,j] = mean_{h,w} F_l[n,i,h,w] F_{l+1}[n,j,h,w];  the larger map is average-pooled to the smaller
        loss = sum over neighboring stages l of mean_{n,i,j} (G_l(student) - G_l(teacher))^2

    F: stem to last stage, [N, C, h, w]. Widths of student and teacher must be equal. In the `initial_epochs` the
    unweighted loss is the only one; the released code (RepDistiller) then trains with the cross-entropy alone, so its
    weight of 50 has no effect, and so does this method unless `joint` is set. A norm that follows the last stage (Wide
    ResNets) keeps its statistics in the initial epochs, as released.

    Args:
        setting: the run's shapes.
        weight: factor on the loss after the initial epochs, with `joint`.
        initial_epochs: epochs of the initial phase; 30 in the released scripts.
        joint: add the weighted loss to the task loss after the initial epochs.
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
                f"fsp: widths of student and teacher must be equal, and are {student} and {teacher}; "
                "choose a teacher that is deeper but not wider"
            )
        if len(student) < 2:
            raise MethodError(f"fsp: it needs at least two features and the networks have {len(student)}")

    def initial(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """The unweighted loss."""
        return {self.name: self._loss(student, teacher)}

    def fixed_in_initial_phase(self) -> list[nn.Module]:
        norm = self.setting.student.final_norm
        return [] if norm is None else [norm]

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """No term; with `joint` the weighted loss."""
        return {self.name: self.weight * self._loss(student, teacher)} if self.joint else {}

    def _loss(self, student: Outputs, teacher: Outputs) -> Tensor:
        student_grams, teacher_grams = (
            tuple(gram(a, b) for a, b in pairwise(outputs.features)) for outputs in (student, teacher)
        )
        pairs = level_pairs(self.name, student_grams, teacher_grams, "FSP matrices")
        return torch.stack([F.mse_loss(s, t) for s, t in pairs]).sum()


def gram(lower: Tensor, upper: Tensor) -> Tensor:
    """G of two neighboring maps, [N, C, h, w] and [N, D, h', w'] -> [N, C, D]."""
    lower, upper = match_sizes(lower, upper)
    return torch.einsum("nchw,ndhw->ncd", lower, upper) / lower[0, 0].numel()
