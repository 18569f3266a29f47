"""FitNets: hints for thin deep networks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import target


class FitNet(Method):
    """Squared error between one feature of the student, regressed to the teacher's shape, and the teacher's (hint).

        loss = weight * mean_{n,c,h,w} (ReLU(BN(conv(S))) - T)^2

    S [N, C_s, H_s, W_s], T [N, C_t, H_t, W_t]. The convolution has the teacher's width and depends on the strides:
        equal: 1x1.
        the student's map twice as large: 3x3, stride 2, padding 1.
        the student's map half as large: transposed 4x4, stride 2, padding 1.
    Any other ratio is an error. One phase, with the task loss from the start, as in RepDistiller's tables; the paper
    first trains on the hint alone.

    Args:
        setting: the run's shapes.
        weight: factor on the loss.
        hint_layer: index of the feature; 0 is the stem, so 2 is the second stage.
    """

    name = "fitnet"
    citation = (
        "A. Romero, N. Ballas, S. E. Kahou, A. Chassang, C. Gatta, Y. Bengio. FitNets: hints for thin deep nets. "
        "ICLR 2015. As in https://github.com/HobbitLong/RepDistiller"
    )
    tasks = frozenset({"classification"})

    def __init__(self, setting: Setting, weight: float = 100.0, hint_layer: int = 2) -> None:
        super().__init__(setting)
        self.weight, self.hint_layer = weight, hint_layer
        for who, info in (("student", setting.student), ("teacher", setting.teacher)):
            count = min(len(info.channels), len(info.strides))
            if not 0 <= hint_layer < count:
                raise MethodError(
                    f"fitnet: hint_layer is {hint_layer}, but the {who} has {count} features with known strides; "
                    "use an index from 0 that both networks have"
                )
        channels = setting.teacher.channels[hint_layer]
        self.regressor = nn.Sequential(self._convolution(), nn.BatchNorm2d(channels), nn.ReLU())

    def _convolution(self) -> nn.Module:
        student, teacher = self.setting.student, self.setting.teacher
        shape = student.channels[self.hint_layer], teacher.channels[self.hint_layer]
        student_stride, teacher_stride = student.strides[self.hint_layer], teacher.strides[self.hint_layer]
        if student_stride == teacher_stride:
            return nn.Conv2d(*shape, kernel_size=1)
        if 2 * student_stride == teacher_stride:
            return nn.Conv2d(*shape, kernel_size=3, stride=2, padding=1)
        if student_stride == 2 * teacher_stride:
            return nn.ConvTranspose2d(*shape, kernel_size=4, stride=2, padding=1)
        raise MethodError(
            f"fitnet: feature {self.hint_layer} has stride {student_stride} in the student and {teacher_stride} in the "
            "teacher; strides must be equal or differ by a factor of 2, so choose another hint_layer"
        )

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        regressed = self.regressor(student.features[self.hint_layer])
        hint = target(self.name, regressed, teacher.features[self.hint_layer], "regressed features")
        return {self.name: self.weight * F.mse_loss(regressed, hint)}
