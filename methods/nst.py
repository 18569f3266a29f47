"""NST: neuron selectivity transfer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Method, Outputs, Setting
from .functional import match_sizes, stage_channels


class NST(Method):
    """Squared maximum mean discrepancy between student and teacher channels, as samples of spatial patterns.

        f_c = F_c / ||F_c||                                  each channel over H*W
        k(f, g) = <f, g>^2
        stage loss = mean_{n,c,c'} k(t, t) + mean k(s, s) - 2 mean k(s, t);  summed over stages, times weight

    S [N, C_s, H_s, W_s], T [N, C_t, H_t, W_t], every stage, without the stem; the larger of two maps is first reduced
    to the smaller size by adaptive average pooling. The kernel k is polynomial; the loss does not depend on the order
    of channels, and widths may differ.

    Args:
        setting: the run's shapes.
        weight: factor on the sum.
    """

    name = "nst"
    citation = (
        "Z. Huang, N. Wang. Like what you like: knowledge distill via neuron selectivity transfer. arXiv 2017. "
        "https://arxiv.org/abs/1707.01219; weight of https://github.com/HobbitLong/RepDistiller"
    )
    tasks = frozenset({"classification"})

    def __init__(self, setting: Setting, weight: float = 50.0) -> None:
        super().__init__(setting)
        stage_channels(self.name, setting)
        self.weight = weight

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        stages = zip(student.features[1:], teacher.features[1:], strict=True)
        total = torch.stack([discrepancy(*match_sizes(s, t)) for s, t in stages]).sum()
        return {self.name: self.weight * total}


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """The unweighted stage loss of [N, C_s, H, W] and [N, C_t, H, W]."""
    s, t = (F.normalize(features.flatten(2), dim=2) for features in (student, teacher))
    return _kernel(t, t) + _kernel(s, s) - 2 * _kernel(s, t)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """Mean of <a_c, b_d>^2 over images and channels: [N, C, H*W], [N, D, H*W] -> []."""
    return (a @ b.mT).square().mean()
