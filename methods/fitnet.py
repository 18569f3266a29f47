"""FitNets: hints for thin deep networks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import target


class FitNet(Method):
    """weight * mean_{n,c,h,w} (ReLU(BN(conv(S))) - T)^2 of one feature.

    S [N, C_s, H_s, W_s], T [N, C_t, H_t, W_t]. The convolution goes to the teacher's width, and its form follows from
    the strides:
        equal: 1x1.
        the student's map twice as large: 3x3, stride 2, padding 1.
        the student's map half as large: transposed 4x4, stride 2, padding 1.
    Any other ratio is refused. One phase, with the task loss from the start, as RepDistiller's tables have it; the
    paper first trains on the hint alone.

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
            shown = min(len(info.channels), len(info.strides))
            if not 0 <= hint_layer < shown:
                raise MethodError(
                    f"fitnet: hint_layer is {hint_layer}, but the {who} shows {shown} features with known strides; "
                    "use an index from 0 that both networks have"
                )
        channels = setting.teacher.channels[hint_layer]
        self.regressor = nn.Sequential(self._convolution(), nn.BatchNorm2d(channels), nn.ReLU())

    def _convolution(self) -> nn.Module:
        student, teacher = self.setting.student, self.setting.teacher
        shape = student.channels[self.hint_layer], teacher.channels[self.hint_layer]
        own, other = student.strides[self.hint_layer], teacher.strides[self.hint_layer]
        if own == other:
            return nn.Conv2d(*shape, kernel_size=1)
        if 2 * own == other:
            return nn.Conv2d(*shape, kernel_size=3, stride=2, padding=1)
        if own == 2 * other:
            return nn.ConvTranspose2d(*shape, kernel_size=4, stride=2, padding=1)
        raise MethodError(
            f"fitnet: feature {self.hint_layer} has stride {own} in the student and {other} in the teacher; there is "
            "a regressor for equal strides and for a factor of 2, so choose another hint_layer"
        )

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        regressed = self.regressor(student.features[self.hint_layer])
        hint = target(self.name, regressed, teacher.features[self.hint_layer], "regressed features")
        return {self.name: self.weight * F.mse_loss(regressed, hint)}
