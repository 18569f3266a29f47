"""WTTM: weighted transformed teacher matching."""

from __future__ import annotations

from torch import Tensor

from .base import Setting
from .ttm import TTM


class WTTM(TTM):
    """TTM with a weight for each image, which is larger the less certain the teacher is.

        q = p(teacher)^exponent / n,  n = sum over classes of p(teacher)^exponent;  p = softmax(z)
        loss = weight * n * KL(q || p(student)), mean over images

    z [N, K] logits.

    Args:
        setting: the run's shapes.
        weight: 4 beside CRD with its weight 0.8, `crd+wttm`. Values for WTTM alone are not released.
        exponent: 0.2 beside CRD.
    """

    name = "wttm"

    def __init__(self, setting: Setting, weight: float = 4.0, exponent: float = 0.2) -> None:
        super().__init__(setting, weight, exponent)

    def row_weights(self, transformed: Tensor) -> Tensor:
        """n, [N]."""
        return transformed.logsumexp(dim=1).exp()
