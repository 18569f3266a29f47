"""PKD: distillation for object detectors by the Pearson correlation of feature maps."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import FeatureMethod, MethodError, Setting
from .functional import target

Item = TypeVar("Item")

EPS = 1e-6
"""Added to the standard deviations, as released."""


class PKD(FeatureMethod):
    """Squared error between feature maps whose channels are standardized over the images and positions of a batch.

        Z(F)_c = (F_c - mean_{n,h,w} F_c) / (std_{n,h,w} F_c + 1e-6)                 unbiased deviation
        level loss = 1/2 * mean_{n,c,h,w} (Z(S) - Z(T))^2;  summed over levels, times weight

    S [N, C_s, H_s, W_s], T [N, C, H, W]. A channel's term is about 1 minus the Pearson correlation of S and T. Where
    sizes differ, S is resized to the teacher's size by bilinear interpolation. Padding takes part, and the gradient
    goes through mean and deviation.

    Args:
        setting: the run's shapes.
        weight: Faster R-CNN R101 -> R50 and Mask R-CNN Swin -> RetinaNet R50: 6; RetinaNet X101 -> R50, FCOS X101 ->
            RetinaNet R50 and RepPoints X101 -> R50: 10.
        levels: compared pyramid levels, from the finest; all, if there are fewer. Released: 4, which are P2 to P5 of
            two-stage detectors and P3 to P6 of RetinaNet.
        chunk: images that share mean and deviation, 2 (on one device) in the released recipe; the loss is the mean over
            chunks. None is the whole batch.
        resize_student: False resizes the teacher's map instead of the student's.
        align: see `FeatureMethod`; the released code has no layer, so pyramids of equal widths have none here either.
    """

    name = "pkd"
    citation = (
        "W. Cao, Y. Zhang, J. Gao, A. Cheng, K. Cheng, J. Cheng. PKD: general distillation framework for object "
        "detectors via Pearson correlation coefficient. NeurIPS 2022. As released in "
        "https://github.com/open-mmlab/mmrazor"
    )
    tasks = frozenset({"detection"})

    def __init__(
        self,
        setting: Setting,
        weight: float = 6.0,
        levels: int = 4,
        chunk: int | None = None,
        resize_student: bool = True,
        align: str | None = "conv1x1_if_unequal",
    ) -> None:
        if levels < 1:
            raise MethodError(f"pkd: levels is {levels}; it must be at least 1")
        if chunk is not None and chunk < 1:
            raise MethodError(f"pkd: chunk is {chunk}; use a number of images or null")
        self.levels, self.chunk, self.resize_student = levels, chunk, resize_student
        super().__init__(setting, weight, align)

    def maps(self, features: tuple[Item, ...]) -> tuple[Item, ...]:
        """The compared levels."""
        return features[: self.levels]

    def compare(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
        """Half the mean squared error of two standardized maps [N, C, H, W], of one size after resizing."""
        if student.shape[2:] != teacher.shape[2:]:
            if self.resize_student:
                student = _resized(student, teacher)
            else:
                teacher = _resized(teacher, student)
        teacher = target(self.name, student, teacher, f"features of level {level}")
        images = len(student)
        chunk = min(self.chunk or images, images)
        if (images % chunk or chunk) * student[0, 0].numel() < 2:
            raise MethodError(
                f"pkd: level {level} is 1x1 for a single image, so a channel has one value and no deviation; use more "
                "images or larger ones, a larger chunk, or fewer levels"
            )
        pairs = zip(chunks(student, chunk), chunks(teacher, chunk), strict=True)
        errors = [len(s) * F.mse_loss(standardized(s), standardized(t)) for s, t in pairs]
        return torch.stack(errors).sum() / (2 * -(-images // chunk))


def chunks(features: Tensor, size: int) -> list[Tensor]:
    """Maps [N, C, H, W] in chunks of images, [chunks, images, C, H, W]; a last chunk of fewer images comes alone."""
    pieces = features.split(len(features) // size * size)
    return [piece.unflatten(0, (-1, min(size, len(piece)))) for piece in pieces]


def standardized(features: Tensor) -> Tensor:
    """Z of the class: every channel of [chunks, N, C, H, W] with mean 0 and deviation 1 over images and positions."""
    dims = (1, 3, 4)
    return (features - features.mean(dim=dims, keepdim=True)) / (features.std(dim=dims, keepdim=True) + EPS)


def _resized(features: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(features, like.shape[2:], mode="bilinear", align_corners=False)
