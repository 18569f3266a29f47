"""SDD: scale-decoupled distillation, a wrapper around a method on logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ._logits import binary_logits, class_labels, kl_of_rows, non_target_logits
from .base import Batch, Method, MethodError, Outputs, Setting
from .dkd import DKD
from .functional import classifier_of, last_maps, warmup
from .kd import KD
from .nkd import NKD

Rows = dict[str, Tensor]
"""Unreduced losses by term, [R] of R rows."""


class SDD(Method):
    """A method on logits, applied to the logits of regions; regions that disagree with the whole image count twice.

        regions: the 4x4 grid of means of the last map; the 2x2 and the 1x1 grid are means of the 4x4 one
        z[region] = classifier(mean of the region), of both networks; the 1x1 region is the image
        w[n, region] = 2 if the teacher is right in the region and wrong on the image, or the other way round, else 1
        loss = sum over images and regions of w * (the base's loss of that row of logits) / (images * regions)

    The last map [N, D, h, w] is the one that the classifier pools. The student's classifier gets gradients from the
    regions, too. A grid of more cells than a map has pixels repeats them. Options and formulas are the base's, but for
    nkd: as released, its second term is over all classes, the target included,

        non_target = - gamma T^2 sum over all classes of softmax(teacher / T) log softmax(student / T)

    with dkd's settings: temperature 4, gamma 8, a warm-up of 20 epochs; ImageNet temperature 1, gamma 0.5 or 2.
    beta of dkd and gamma of nkd are 8; 6 for vgg13 teachers and wrn_40_2 to wrn_16_2, wrn_40_1 or MobileNetV2; 2 for
    resnet56 to resnet20 and resnet110 to resnet32.

    Args:
        setting: the run's shapes; needs both networks' classifiers.
        base: the wrapped method.
        grids: sides of the grids, as text. Released, by comments of the scripts: "1,2" for resnet32x4 to resnet8x4,
            vgg13 to vgg8 and ResNet34 to ResNet18, and with nkd for ResNet50 or wrn_40_2 to vgg8; "1,2,4" for the
            other pairs that have a comment.
        nkd_warmup_epochs: around nkd alone: epochs until the full weight of its terms; 0 is the full weight from the
            start, None is 20.
    """

    name = "sdd"
    citation = (
        "S. Wei, C. Luo, Y. Luo. Scale decoupled distillation. CVPR 2024. https://github.com/shicaiwei123/SDD-CVPR2024"
    )
    tasks = frozenset({"classification"})
    wraps = ("dkd", "kd", "nkd")
    one_class_per_image = True
    wrapped_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"nkd": {"gamma": 8.0, "temperature": 4.0}}

    def __init__(
        self, setting: Setting, base: Method, grids: str = "1,2,4", nkd_warmup_epochs: int | None = None
    ) -> None:
        super().__init__(setting)
        self.name = f"sdd+{base.name}"  # type: ignore[misc]
        if grids not in ("1,2", "1,2,4"):
            raise MethodError(f"{self.name}: grids is {grids!r}; use '1,2' or '1,2,4'")
        if nkd_warmup_epochs is not None and not isinstance(base, NKD):
            raise MethodError(f"{self.name}: nkd_warmup_epochs has an effect around nkd alone; leave it out")
        warmup_epochs = 20 if nkd_warmup_epochs is None else nkd_warmup_epochs
        if warmup_epochs < 0:
            raise MethodError(f"{self.name}: nkd_warmup_epochs is {warmup_epochs}; use a number of epochs, or 0")
        for who, info in (("student", setting.student), ("teacher", setting.teacher)):
            classifier_of(self.name, info, who)
        self.base, self.task_weight, self.nkd_warmup_epochs = base, base.task_weight, warmup_epochs
        self.grids = [int(side) for side in grids.split(",")]

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """The base's terms."""
        maps = last_maps(self.name, student, teacher)
        infos = (self.setting.student, self.setting.teacher)
        means = [self._means(feature) for feature in maps]
        s, t = (classifier_of(self.name, i, "network")(m) for i, m in zip(infos, means, strict=True))
        labels = class_labels(self.name, batch, s[:, 0])[:, None].expand(s.shape[:2])
        right = t.argmax(dim=2) == labels
        weights = 1.0 + (right != right[:, :1]).to(s.dtype)
        rows = self._rows(s.flatten(0, 1), t.detach().flatten(0, 1), labels.flatten())
        return {name: (weights.flatten() * losses).mean() for name, losses in rows.items()}

    def _means(self, feature: Tensor) -> Tensor:
        """[N, D, h, w] -> the means of all regions, the image first: [N, regions, D]."""
        finest = F.adaptive_avg_pool2d(feature, 4)
        grids = [finest if side == 4 else F.adaptive_avg_pool2d(finest, side) for side in self.grids]
        return torch.cat([grid.flatten(2) for grid in grids], dim=2).transpose(1, 2)

    def _rows(self, s: Tensor, t: Tensor, labels: Tensor) -> Rows:
        """The base's weighted losses of each row of logits [R, K]."""
        base = self.base
        match base:
            case KD():
                return {"kd": base.weight * _softened(s, t, base.temperature)}
            case DKD():
                return _dkd(base, s, t, labels)
            case NKD():
                return _nkd(base, s, t, labels, warmup(self.epoch, self.nkd_warmup_epochs, s))
        raise MethodError(f"{self.name}: it wraps {', '.join(self.wraps)} alone")


def _softened(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(s / T)) of each row."""
    return temperature**2 * kl_of_rows(s / temperature, t / temperature)


def _dkd(base: DKD, s: Tensor, t: Tensor, labels: Tensor) -> Rows:
    temperature = base.temperature
    factor = base.weight * warmup(base.epoch, base.warmup_epochs, s)
    shares = [binary_logits(z, labels, temperature) for z in (s, t)]
    return {
        "tckd": factor * base.alpha * temperature**2 * kl_of_rows(*shares),
        "nckd": factor * base.beta * _softened(non_target_logits(s, labels), non_target_logits(t, labels), temperature),
    }


def _nkd(base: NKD, s: Tensor, t: Tensor, labels: Tensor, ramp: Tensor | float) -> Rows:
    temperature = base.temperature
    target_p = F.softmax(t, dim=1).gather(1, labels[:, None])[:, 0]
    soft = F.cross_entropy(s / temperature, F.softmax(t / temperature, dim=1), reduction="none")
    return {
        "target": ramp * base.weight * target_p * F.cross_entropy(s, labels, reduction="none"),
        "non_target": ramp * base.weight * base.gamma * temperature**2 * soft,
    }
