"""Masked generative distillation (MGD in its paper)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import FeatureMethod, MethodError, Setting
from .functional import target


class MaskedGenerative(FeatureMethod):
    """Squared error between the teacher's feature and a small generator's output on the masked student feature.

        M[n, 1, h, w] = 0 with probability mask_ratio, else 1 (drawn in each forward, shared by the channels)
        G = conv3x3 - ReLU - conv3x3, one for each level, of the teacher's width C
        level loss = 1/N * sum_{n,c,h,w} (G(align(S) * M) - T)^2;  summed over levels, times weight

    S [N, C_s, H, W], T [N, C, H, W]. The loss is a sum over positions, hence the small weight. In segmentation the
    paper compares the encoder's last stage; here it is the map before the classifier, as in every feature method.

    Args:
        setting: the run's shapes.
        weight: the paper's alpha; 2e-5 for one-stage detectors and segmenters (two-stage detectors: 5e-7 with
            mask_ratio 0.45).
        mask_ratio: the paper's lambda, the share of masked positions; 0.75 for segmenters.
        train_generator: False keeps the generators' random initial weights, as in the released AKD config.
        align: see `FeatureMethod`; the released code has a convolution only where widths differ, AKD's at every level.
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
        align: str | None = "conv1x1_if_unequal",
    ) -> None:
        super().__init__(setting, weight, align)
        if not 0 <= mask_ratio <= 1:
            raise MethodError(f"masked_generative: mask_ratio is {mask_ratio}; it must be between 0 and 1")
        self.mask_ratio = mask_ratio
        self.generators = nn.ModuleList(_generator(channels) for channels in self.maps(setting.teacher.channels))
        self.generators.requires_grad_(train_generator)

    def compare(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
        """Squared error of the generated [N, C, H, W] map, summed over an image and averaged over images."""
        teacher = target(self.name, student, teacher, f"features of level {level}")
        images, _, height, width = student.shape
        visible = torch.rand(images, 1, height, width, device=student.device) >= self.mask_ratio
        generated: Tensor = self.generators[level](student * visible)
        return (generated - teacher).square().sum() / images


def _generator(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1),
    )
