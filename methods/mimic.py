"""Mimic: mean squared error between feature maps, the baseline of feature distillation in dense prediction."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import FeatureMethod
from .functional import target


class Mimic(FeatureMethod):
    """Mean squared error between feature maps.

        loss = weight * sum over levels of mean_{n,c,h,w} (align(S) - T)^2

    S [N, C_s, H, W], T [N, C_t, H, W]; `align` is a 1x1 convolution for each level. In the "+mimic" rows of DIST's
    detection table it has the five pyramid levels and weight 1. On a classifier's stages it is FitNets' hint on every
    stage; on a segmenter's last map it is FitNet in CIRKD's scripts, with weight 10 and together with `kd`.
    """

    name = "mimic"
    citation = (
        "Q. Li, S. Jin, J. Yan. Mimicking very efficient network for object detection. CVPR 2017. "
        "As released in https://github.com/hunto/MasKD (mmrazor, losses/mse.py); "
        "the squared error on aligned features is that of A. Romero et al. FitNets. ICLR 2015."
    )
    tasks = frozenset({"classification", "detection", "segmentation"})

    def compare(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
        """Mean squared error of two [N, C, H, W] maps."""
        return F.mse_loss(student, target(self.name, student, teacher, f"features of level {level}"))
