"""CAT-KD: class attention transfer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import classifier_of, last_maps, target

MAX_RESOLUTION = 64
"""Larger than last maps are; a class's map of r x r takes memory by the square."""


class CATKD(Method):
    """The student's class maps match the teacher's, at a low resolution.

        CAM[n, k] = W[k] . F[n]                                 F [N, D, h, w], W [K, D], no bias -> [N, K, h, w]
        A = adaptive average pooling of CAM to r x r; with normalise each class's map is a unit vector
        loss = weight * mean over [N, K, r, r] of (A_student - A_teacher)^2

    F is the map that the classifier pools (`last_map`), W the classifier's weights; the student's get gradients.
    The student has no bias, as released: that of its classifier is held at 0 (`student_bias`), so its logits are
    the spatial means of its class maps. Rows count these K zeros as parameters, for the saved student keeps the names
    of its network. Released options that are left out: only the highest or lowest classes, and binary teacher maps.

    Args:
        setting: the run's shapes; needs both networks' classifiers.
        weight: CIFAR-100: resnet110 to resnet32 1.8, resnet32x4 to resnet8x4 15, resnet56 to resnet20 0.7, vgg13 to
            vgg8 4.5, wrn_40_2 to wrn_16_2 12 and to wrn_40_1 1.5, all without normalise; with it resnet32x4 to
            ShuffleNets 600 and wrn_40_2 to ShuffleNetV1 80 (both resolution 4), ResNet50 to MobileNetV2 40, vgg13 to
            MobileNetV2 15. ImageNet: ResNet34 to ResNet18 0.5 (resolution 4, without normalise), ResNet50 to
            MobileNetV1 10.
        resolution: r.
        normalise: divide each class's map by its norm.
        task_weight: factor on the task loss; 0 is the paper's transfer of class maps alone.
    """

    name = "catkd"
    citation = (
        "Z. Guo, H. Yan, H. Li, X. Lin. Class attention transfer based knowledge distillation. CVPR 2023. "
        "https://github.com/GzyAftermath/CAT-KD"
    )
    tasks = frozenset({"classification"})
    student_bias = False

    def __init__(
        self,
        setting: Setting,
        weight: float = 400.0,
        resolution: int = 2,
        normalise: bool = True,
        task_weight: float = 1.0,
    ) -> None:
        super().__init__(setting)
        if not 1 <= resolution <= MAX_RESOLUTION:
            raise MethodError(f"catkd: resolution is {resolution}; it must be from 1 to {MAX_RESOLUTION}")
        for who, info in (("student", setting.student), ("teacher", setting.teacher)):
            classifier_of(self.name, info, who)
        self.weight, self.resolution, self.normalise, self.task_weight = weight, resolution, normalise, task_weight

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        infos = (self.setting.student, self.setting.teacher)
        maps = zip(last_maps(self.name, student, teacher), infos, strict=True)
        s, t = (self._class_maps(feature, classifier_of(self.name, info, "network").weight) for feature, info in maps)
        return {self.name: self.weight * F.mse_loss(s, target(self.name, s, t, "class maps"))}

    def _class_maps(self, feature: Tensor, weight: Tensor) -> Tensor:
        """[N, D, h, w] -> [N, K, r * r]."""
        pooled = F.adaptive_avg_pool2d(feature, self.resolution)  # linear, as the classifier is, and smaller before it
        maps = weight @ pooled.flatten(2)
        return F.normalize(maps, dim=2) if self.normalise else maps
