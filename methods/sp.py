"""SP: similarity-preserving knowledge distillation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Method, Outputs, Setting


class SP(Method):
    """Squared error between similarity matrices of the images of a batch.

        G(F) = row-normalized (f f^T),  f = F as [N, C*H*W]
        loss = weight / N^2 * sum (G(S) - G(T))^2

    S [N, C_s, H_s, W_s], T [N, C_t, H_t, W_t], the last stage; widths and sizes may differ.

    Args:
        setting: the run's shapes.
        weight: factor on the loss.
    """

    name = "sp"
    citation = (
        "F. Tung, G. Mori. Similarity-preserving knowledge distillation. ICCV 2019. https://arxiv.org/abs/1907.09682; "
        "weight of https://github.com/HobbitLong/RepDistiller"
    )
    tasks = frozenset({"classification"})

    def __init__(self, setting: Setting, weight: float = 3000.0) -> None:
        super().__init__(setting)
        self.weight = weight

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        difference = similarity(student.features[-1]) - similarity(teacher.features[-1])
        return {self.name: self.weight * difference.square().mean()}


def similarity(features: Tensor) -> Tensor:
    """Inner products of the images' features, with rows of unit length: [N, C, H, W] -> [N, N]."""
    flat = features.flatten(1)
    return F.normalize(flat @ flat.T, dim=1)
