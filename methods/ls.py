"""LS: logit standardization, a wrapper around a method on logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from ._logits import standardized
from .base import Batch, Method, Outputs, Setting
from .functional import logits_pair
from .mlkd import MLKD


class LS(Method):
    """A method on logits that reads those of both networks standardized over the classes.

        Z(z) = (z - mean(z)) / (std(z) + 1e-7), for each image, with the unbiased standard deviation
        loss = the base's loss of Z(student) and Z(teacher)

    z [N, K] logits. The gradient passes through the student's mean and standard deviation. The task loss reads the
    logits as they are. With two classes Z depends on the larger logit alone, so three are needed.

    The base's options are those of the base; some of their defaults are others, as released:
        kd: temperature 2 and weight 9 (3 and 9 for vgg13 to vgg8 or MobileNetV2, resnet32x4 to wrn_16_2 or wrn_40_2 and
            wrn_40_2 to MobileNetV2; 4 and 12 for resnet110 to resnet20; 3 and 1 for ResNet50 to MobileNetV2). ImageNet:
            the same with task_weight 1.
        dkd: temperature 2 and weight 9, which multiplies both of its terms. beta 8 for resnet32x4 to resnet8x4,
            ShuffleNetV2 or wrn_40_2, else 2. The weight is 12 for wrn_40_2 to wrn_40_1 or wrn_16_2; 15 for vgg13 to
            vgg8, resnet110 to resnet32 or resnet20 and wrn_40_2 or ResNet50 to MobileNetV2; 18 for wrn_40_2 to
            resnet8x4 and, at temperature 3, for resnet56 to resnet20; 9 at temperature 3 for vgg13 to MobileNetV2.
        ctkd: weight 9, t_start 2 and t_end 40. The paper's range is not in the released code: this is what the logged
            temperatures imply. In all of its logs the temperature is at its floor by epoch 10, so that this is kd at
            temperature 2.
        mlkd: temperature 2 and weight 9 (6 for vgg13 teachers and resnet32x4 to ShuffleNetV2); its KL terms alone read
            standardized logits.
        rld: temperature 2, alpha 9 and beta 72, as released with rld.

    The paper names the standard deviation a temperature; in the code T stays as a factor of its own.

    Args:
        setting: the run's shapes.
        base: the wrapped method.
    """

    name = "ls"
    citation = (
        "S. Sun, W. Ren, J. Li, R. Wang, X. Cao. Logit standardization in knowledge distillation. CVPR 2024. "
        "https://github.com/sunshangquan/logit-standardization-KD"
    )
    tasks = frozenset({"classification"})
    min_classes = 3
    wraps = ("ctkd", "dkd", "kd", "mlkd", "rld")
    wrapped_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ctkd": {"weight": 9.0, "t_start": 2.0, "t_end": 40.0},
        "dkd": {"weight": 9.0, "temperature": 2.0},
        "kd": {"weight": 9.0, "temperature": 2.0},
        "mlkd": {"weight": 9.0, "temperature": 2.0},
        "rld": {"alpha": 9.0, "beta": 72.0, "temperature": 2.0},
    }

    def __init__(self, setting: Setting, base: Method) -> None:
        super().__init__(setting)
        self.name = f"ls+{base.name}"  # type: ignore[misc]
        self.base = base
        self.task_weight = base.task_weight
        if isinstance(base, MLKD):
            base.in_kl = standardized

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """The base's terms."""
        if isinstance(self.base, MLKD):
            return self.base(batch, student, teacher)
        s, t = logits_pair(self.name, student, teacher)
        return self.base(batch, replace(student, logits=standardized(s)), replace(teacher, logits=standardized(t)))
