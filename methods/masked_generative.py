"""Masked generative distillation (MGD in its paper)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import FeatureMethod, MethodError, Setting
from .functional import target


class MaskedGenerative(FeatureMethod):
    """The student's feature, partly masked, must let a small generator restore the teacher's.

        M[n, 1, h, w] = 0 with probability mask_ratio, else 1 (drawn anew each forward, shared by the channels)
        G = conv3x3 - ReLU - conv3x3, one a level, in the teacher's width C
        level loss = 1/N * sum_{n,c,h,w} (G(align(S) * M) - T)^2;  summed over levels, times weight

    S [N, C_s, H, W], T [N, C, H, W]. The sum over positions is not a mean, hence the small weight. The paper's
    segmentation reads the encoder's last stage; here it is the map before the classifier, like every feature method.

    Args:
        setting: the run's shapes.
        weight: the paper's alpha; 2e-5 is the one-stage detectors' and the segmenters' (two-stage: 5e-7 with
            mask_ratio 0.45).
        mask_ratio: the paper's lambda, the share of positions that are masked; its segmenters' is 0.75.
        train_generator: False leaves the generators at their random initial weights, as the released AKD config does.
        align: "conv1x1" or None.
    """

    name = "masked_generative"
    citation = (
        "Z. Yang, Z. Li, M. Shao, D. Shi, Z. Yuan, C. Yuan. Masked generative distillation. ECCV 2022. "
        "https://github.com/yzd-v/MGD"
    )
    tasks = frozenset({"classification", "detection", "segmentation"})

    def __init__(
        self,
        setting: Setting,
        weight: float = 2e-5,
        mask_ratio: float = 0.65,
        train_generator: bool = True,
        align: str | None = "conv1x1",
    ) -> None:
        super().__init__(setting, weight, align)
        if not 0 <= mask_ratio <= 1:
            raise MethodError(f"masked_generative: mask_ratio is {mask_ratio}; it must lie between 0 and 1")
        self.mask_ratio = mask_ratio
        self.generators = nn.ModuleList(_generator(channels) for channels in self.maps(setting.teacher.channels))
        self.generators.requires_grad_(train_generator)

    def compare(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
        """Squared error of the restored [N, C, H, W] map, summed over an image and averaged over images."""
        teacher = target(self.name, student, teacher, f"features of level {level}")
        images, _, height, width = student.shape
        visible = torch.rand(images, 1, height, width, device=student.device) >= self.mask_ratio
        restored: Tensor = self.generators[level](student * visible)
        return (restored - teacher).square().sum() / images


def _generator(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1),
    )
