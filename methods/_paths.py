"""Stage losses of Adaptive Distillation.

Formulas: models/distillation_losses of wyze-AI/AdaptiveDistillation. Targets have no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .functional import target

EPS = 1e-6
"""Added to the norm of an attention map, as released."""


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over [N, H*W] of the squared difference of attention maps; [N, C_s, H, W] and [N, C_t, H, W]."""
    s, t = _attention_map(student), _attention_map(teacher)
    return F.mse_loss(s, target("ad", s, t, "attention maps [N, H*W]"))


def _attention_map(feature: Tensor) -> Tensor:
    summed = feature.square().sum(dim=1).flatten(1)
    norms: Tensor = torch.linalg.vector_norm(summed, dim=1, keepdim=True)
    return summed / (norms + EPS)


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over [N, C, C] of the squared difference of channel Grams A A' and B B'; maps are [N, C, H, W].

    The rows of A and B are channels, as unit vectors over space. Unlike the maximum mean discrepancy of the NST paper,
    this needs corresponding channels. If a map has fewer positions than channels, the Grams are not computed: with
    D = A - B and M = A + B, |A A' - B B'|^2 = (<D'D, M'M> + <D'M, M'D>) / 2, with one row per position in each matrix
    (16 instead of 2048 at the last stage of a CIFAR ResNet50). D keeps the precision if A and B are nearly equal.
    """
    teacher = target("ad", student, teacher, "features")
    a, b = F.normalize(student.flatten(2), dim=2), F.normalize(teacher.flatten(2), dim=2)
    images, channels, positions = a.shape
    if channels <= positions:
        return F.mse_loss(a @ a.mT, b @ b.mT)
    difference, total = a - b, a + b
    cross = difference.mT @ total
    squares = (difference.mT @ difference * (total.mT @ total)).sum() + (cross * cross.mT).sum()
    return squares / 2 / (images * channels**2)


def feature_map(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over [N, C] of the squared difference of spatial means; [N, C, H, W] maps of any two sizes."""
    s, t = student.mean(dim=(2, 3)), teacher.mean(dim=(2, 3))
    return F.mse_loss(s, target("ad", s, t, "spatial means"))
