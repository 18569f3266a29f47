"""AB: distillation of activation boundaries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import check_stages, level_pairs


class AB(Method):
    """Before the task is learned, each neuron of the student learns to be active where the teacher's is.

        d(s, t) = (s + margin)^2 where t <= 0 and s > -margin;  (s - margin)^2 where t > 0 and s <= margin;  else 0
        loss = 3/1000 * sum over stages l of 1 / 2^(stages - l) * 1/N sum_{n,c,h,w} d(connector_l(S_l), T_l)

    S, T: `pre_activations`, [N, C, h, w]; l counts from 1. Where width or size differ, a connector brings the student's
    map to the teacher's: a 1x1 convolution, or a strided or transposed one for a map of twice or half the size, with
    BatchNorm. The loss is that of the first `initial_epochs`, where it stands alone and without a factor; the released
    code (RepDistiller) then trains with the cross-entropy alone, and so does this method unless `joint` is set.

    Args:
        setting: the run's shapes.
        weight: factor on the loss where `joint` keeps it beside the task; it does not touch the initial epochs.
        initial_epochs: 30.
        margin: distance that pre-activations keep from 0.
        joint: keep the loss, times weight, after the initial epochs.
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
        widths = check_stages(self.name, setting)
        same = (1,) * len(widths)  # where strides are unknown, `level_pairs` still catches maps of different sizes
        strides = zip(setting.student.strides[1:] or same, setting.teacher.strides[1:] or same, strict=True)
        self.connectors = nn.ModuleList(_connector(*w, *s) for w, s in zip(widths, strides, strict=True))

    def initial(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """The loss, without weight."""
        return {self.name: self._loss(student, teacher)}

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Nothing, or with `joint` the weighted loss."""
        return {self.name: self.weight * self._loss(student, teacher)} if self.joint else {}

    def _loss(self, student: Outputs, teacher: Outputs) -> Tensor:
        maps = zip(self.connectors, _before_relu(student), strict=False)
        own = tuple(connector(feature) for connector, feature in maps)
        pairs = level_pairs(self.name, own, _before_relu(teacher), "connected pre-activations")
        losses = [boundary(s, t, self.margin) / 2 ** (len(pairs) - i - 1) for i, (s, t) in enumerate(pairs)]
        return 3e-3 * torch.stack(losses).sum()


def boundary(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Sum over all elements of d(student, teacher), divided by the images; two [N, C, h, w] maps."""
    # On the right side of the margin the distance to it is cut to 0.
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


def _before_relu(outputs: Outputs) -> tuple[Tensor, ...]:
    maps = outputs.extra.get("pre_activations", ())
    return maps if isinstance(maps, tuple) else (maps,)
