"""Af-DCD: augmentation-free dense contrastive distillation for segmentation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import kl_divergence, logits_pair, target

PATCH = 4
"""Rows and columns of a patch, inside which positions are contrasted."""


class AfDCD(Method):
    """A map that is rebuilt from a masked student feature comes close to the teacher's, and contrasts its entries.

        R = generator(M * align(S)),  M[n, 1, h, w] = 0 with probability mask_ratio, else 1, drawn in each forward
        feature = feature_weight / N * sum_{n,c,h,w} (R - T)^2
        d(a, b) = L1 distance of entries a of R and b of T, in maps reduced by max pooling of `pool` x `pool`
        contrast = contrast_weight / (N H' W') * sum_a -log(e(a, a) / (e(a, a) + sum_b e(a, b))),  e = exp(-d / tau)
        kd = kd_weight * KL(softmax(teacher) || softmax(student)), mean over pixels

    S [N, C_s, h, w], T [N, C, h, w]: the backbones' last maps, before the decoder. An entry is one of `groups` groups
    of consecutive channels at one position of the pooled map [H', W']; b are the entries of the other groups in the
    same 4x4 patch. align is a 1x1 convolution where widths differ. generator: conv3x3 - ReLU - conv3x3, of width C.
    Rows and columns beyond the last whole patch take no part in `contrast` (as released for CamVid: 44 of 45), nor in
    H' W'; where the pooled map is smaller than a patch, the patch is as small (our choice).

    Args:
        setting: the run's shapes.
        feature_weight: Cityscapes 2e-6; CamVid 8e-6; Pascal VOC and ADE20K 1e-6; COCO-Stuff 5e-6.
        contrast_weight: Cityscapes, Pascal VOC and COCO-Stuff 5e-3; CamVid 1e-2; ADE20K 4e-2.
        kd_weight: Cityscapes, CamVid and Pascal VOC 1; ADE20K and COCO-Stuff 0.5.
        tau: temperature of the distances.
        mask_ratio: share of masked positions.
        enhanced: a larger generator, the mean of conv3x3(a) and conv3x3(b) with a = ReLU(conv3x3(x)), b =
            ReLU(conv3x3(a)). Which one the paper's tables have cannot be told from the released scripts.
        pool: size of the max pooling; CamVid 1.
        groups: number of groups of channels.
        max_norm: norm at which the gradient of align and generator together is clipped; null for no clipping.
    """

    name = "afdcd"
    citation = (
        "J. Fan, C. Li, X. Liu, M. Song, A. Yao. Augmentation-free dense contrastive knowledge distillation for "
        "efficient semantic segmentation. NeurIPS 2023. https://github.com/OSVAI/Af-DCD"
    )
    tasks = frozenset({"segmentation"})
    min_classes = 2

    def __init__(
        self,
        setting: Setting,
        feature_weight: float = 2e-6,
        contrast_weight: float = 5e-3,
        kd_weight: float = 1.0,
        tau: float = 0.07,
        mask_ratio: float = 0.75,
        enhanced: bool = False,
        pool: int = 4,
        groups: int = 16,
        max_norm: float | None = 15.0,
    ) -> None:
        super().__init__(setting)
        if tau <= 0 or not 0 <= mask_ratio <= 1:
            raise MethodError(
                f"afdcd: tau is {tau} and mask_ratio {mask_ratio}; tau must be positive and mask_ratio from 0 to 1"
            )
        if max_norm is not None and max_norm <= 0:
            raise MethodError(f"afdcd: max_norm is {max_norm}; it must be positive, or null for no clipping")
        if pool < 1 or groups < 2:
            raise MethodError(f"afdcd: pool is {pool} and groups {groups}; they must be at least 1 and 2")
        if min(len(setting.student.channels), len(setting.teacher.channels)) < 2:
            raise MethodError(
                "afdcd: a network has no map before the one that its classifier reads; choose another one"
            )
        student, channels = setting.student.channels[-2], setting.teacher.channels[-2]
        if channels % groups:
            raise MethodError(
                f"afdcd: the teacher's map has {channels} channels, which cannot be divided into {groups} groups; "
                f"set groups to {math.gcd(channels, groups)}, or another divisor"
            )
        self.feature_weight, self.contrast_weight, self.kd_weight = feature_weight, contrast_weight, kd_weight
        self.tau, self.mask_ratio, self.pool, self.groups, self.max_norm = tau, mask_ratio, pool, groups, max_norm
        self.align = nn.Identity() if student == channels else nn.Conv2d(student, channels, kernel_size=1)
        self.generator = EnhancedGenerator(channels) if enhanced else _generator(channels)

    def clip_norms(self) -> list[tuple[list[nn.Parameter], float]]:
        return [] if self.max_norm is None else [(list(self.parameters()), self.max_norm)]

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `feature`, `contrast` and `kd`; see the class."""
        rebuilt = self.rebuilt(student.features[-2])
        goal = target(self.name, rebuilt, teacher.features[-2], "backbones' last maps")
        s, t = logits_pair(self.name, student, teacher)
        return {
            "feature": self.feature_weight * (rebuilt - goal).square().sum() / len(goal),
            "contrast": self.contrast_weight * self.contrast(rebuilt, goal),
            "kd": self.kd_weight * kl_divergence(s, t, 1.0),
        }

    def rebuilt(self, student: Tensor) -> Tensor:
        """R of the class."""
        images, _, height, width = student.shape
        visible = torch.rand(images, 1, height, width, device=student.device) <= 1 - self.mask_ratio
        rebuilt: Tensor = self.generator(self.align(student) * visible)
        return rebuilt

    def contrast(self, rebuilt: Tensor, teacher: Tensor) -> Tensor:
        """The unweighted term of two maps [N, C, h, w]."""
        entries, goals = (patches(self._pooled(x), self.groups) for x in (rebuilt, teacher))
        scores = -torch.cdist(entries, goals, p=1) / self.tau
        place = torch.arange(entries.shape[1], device=entries.device)
        group = place % self.groups
        left_out = (group[:, None] == group) & (place[:, None] != place)
        log_p = scores.masked_fill(left_out, -math.inf).log_softmax(dim=2)
        positions = entries.shape[0] * entries.shape[1] // self.groups  # of all images
        return -log_p.diagonal(dim1=1, dim2=2).sum() / positions

    def _pooled(self, features: Tensor) -> Tensor:
        if min(features.shape[2:]) < self.pool:
            size = "x".join(map(str, features.shape[2:]))
            raise MethodError(
                f"afdcd: a map of {size} is smaller than pool {self.pool}; lower pool or use larger images"
            )
        return F.max_pool2d(features, self.pool) if self.pool > 1 else features


class EnhancedGenerator(nn.Module):
    """The larger generator of the class above, [N, C, H, W] -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second, self.from_first, self.from_second = (_conv3x3(channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x).relu()
        b = self.second(a).relu()
        mean: Tensor = (self.from_first(a) + self.from_second(b)) / 2
        return mean


def patches(features: Tensor, groups: int) -> Tensor:
    """The entries of each patch, [N, C, H, W] -> [patches, positions * groups, C / groups].

    The groups of a position are next to each other. What does not fill a patch at the right and the bottom is left out.
    """
    images, channels, *size = features.shape
    rows, columns = (min(PATCH, length) for length in size)
    down, across = size[0] // rows, size[1] // columns
    whole = features[:, :, : down * rows, : across * columns]
    split = whole.reshape(images, groups, channels // groups, down, rows, across, columns)
    return split.permute(0, 3, 5, 4, 6, 1, 2).reshape(images * down * across, rows * columns * groups, -1)


def _generator(channels: int) -> nn.Sequential:
    return nn.Sequential(_conv3x3(channels), nn.ReLU(), _conv3x3(channels))


def _conv3x3(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel_size=3, padding=1)
