"""AB: distillation of activation boundaries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import level_pairs, pre_activations, stage_channels


class AB(Method):
    """The student's neurons first learn to be active where the teacher's are, then the task.

        d(s, t) = (s + margin)^2 where t <= 0 and s > -margin;  (s - margin)^2 where t > 0 and s <= margin;  else 0
        loss = 3/1000 * sum over stages l of 1 / 2^(stages - l) * 1/N sum_{n,c,h,w} d(connector_l(S_l), T_l)

    S, T: `pre_activations`, [N, C, h, w]; l counts from 1. If widths or sizes differ, a connector maps the
    student's map to the teacher's shape: a 1x1 convolution, or a strided or transposed one for a map of twice or half
    the size, with BatchNorm. In the `initial_epochs` the unweighted loss is the only one; the released code
    (RepDistiller) then trains with the cross-entropy alone, and so does this method unless `joint` is set. A norm that
    follows the last stage (Wide ResNets) stays as it is in the initial epochs, as released.

    Args:
        setting: the run's shapes.
        weight: factor on the loss after the initial epochs, with `joint`.
        initial_epochs: epochs of the initial phase; 30 in the released scripts.
        margin: distance from 0 that pre-activations shall keep.
        joint: add the weighted loss to the task loss after the initial epochs.
    """

    name = "ab"
    citation = (
        "B. Heo, M. Lee, S. Yun, J. Y. Choi. Knowledge transfer via distillation of activation boundaries formed by "
        "hidden neurons. AAAI 2019. As released in https://github.com/HobbitLong/RepDistiller"
    )
    tasks = frozenset({"classification"})

    def __init__(
        self,
        setting: Setting,
        weight: float = 1.0,
        initial_epochs: int = 30,
        margin: float = 1.0,
        joint: bool = False,
    ) -> None:
        super().__init__(setting)
        if initial_epochs < 1:
            raise MethodError(f"ab: initial_epochs is {initial_epochs}; it must be at least 1")
        self.weight, self.initial_epochs, self.margin, self.joint = weight, initial_epochs, margin, joint
        widths = stage_channels(self.name, setting)
        same = (1,) * len(widths)  # if strides are unknown, `level_pairs` still detects maps of different sizes
        strides = zip(setting.student.strides[1:] or same, setting.teacher.strides[1:] or same, strict=True)
        self.connectors = nn.ModuleList(_connector(*w, *s) for w, s in zip(widths, strides, strict=True))

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
        maps = zip(self.connectors, pre_activations(student), strict=False)
        connected = tuple(connector(feature) for connector, feature in maps)
        pairs = level_pairs(self.name, connected, pre_activations(teacher), "connected pre-activations")
        losses = [boundary(s, t, self.margin) / 2 ** (len(pairs) - i - 1) for i, (s, t) in enumerate(pairs)]
        return 3e-3 * torch.stack(losses).sum()


def boundary(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Sum over all elements of d(student, teacher), divided by N; two [N, C, h, w] maps."""
    # Beyond the margin, on the correct side, the distance is clamped to 0.
    wrong = torch.where(teacher > 0, margin - student, margin + student).clamp_min(0)
    return wrong.square().sum() / len(student)


def _connector(student: int, teacher: int, student_stride: int, teacher_stride: int) -> nn.Module:
    """From a map of `student` channels to one of `teacher` channels; strides are input pixels per feature pixel."""
    if student_stride == teacher_stride:
        if student == teacher:
            return nn.Identity()
        conv: nn.Module = nn.Conv2d(student, teacher, kernel_size=1)
    elif 2 * student_stride == teacher_stride:
        conv = nn.Conv2d(student, teacher, kernel_size=3, stride=2, padding=1)
    elif student_stride == 2 * teacher_stride:
        conv = nn.ConvTranspose2d(student, teacher, kernel_size=4, stride=2, padding=1)
    else:
        raise MethodError(
            f"ab: a stage of the student has stride {student_stride} and the teacher's {teacher_stride}; "
            "sizes may differ by a factor of 2 at most, so choose networks of more similar families"
        )
    return nn.Sequential(conv, nn.BatchNorm2d(teacher))
