"""RKD: relational knowledge distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Method, Outputs, Setting
from .functional import pooled_pair


class RKD(Method):
    """Smooth L1 between distances of pairs and angles of triples of embeddings.

        d_ij = ||f_i - f_j|| / (mean of ||f_i - f_j|| over i != j)
        a_ijk = cos of the angle at i between j and k
        distance = distance_weight * mean_{ij} smooth_l1(d(S), d(T))
        angle = angle_weight * mean_{ijk} smooth_l1(a(S), a(T));  both times weight

    S [N, D_s], T [N, D_t], the pooled features. Means are over all N^2 pairs and N^3 triples, including those with
    equal indices, as released. Equal embeddings have no direction: their cosines are 0. A single image has loss 0.

    Args:
        setting: the run's shapes.
        weight: factor on both terms.
        distance_weight: factor on the distances.
        angle_weight: factor on the angles.
    """

    name = "rkd"
    citation = (
        "W. Park, D. Kim, Y. Lu, M. Cho. Relational knowledge distillation. CVPR 2019. https://github.com/lenscloth/RKD"
    )
    tasks = frozenset({"classification"})

    def __init__(
        self, setting: Setting, weight: float = 1.0, distance_weight: float = 25.0, angle_weight: float = 50.0
    ) -> None:
        super().__init__(setting)
        self.weight, self.distance_weight, self.angle_weight = weight, distance_weight, angle_weight

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `distance` and `angle`; see the class."""
        s, t = (relations(pooled) for pooled in pooled_pair(self.name, student, teacher))
        return {
            "distance": self.weight * self.distance_weight * F.smooth_l1_loss(s[0], t[0]),
            "angle": self.weight * self.angle_weight * F.smooth_l1_loss(s[1], t[1]),
        }


def relations(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Relative distances [N, N] and cosines of angles [N, N, N] (first index the vertex) of embeddings [N, D]."""
    differences = embeddings[None] - embeddings[:, None]
    norms = torch.linalg.vector_norm(differences, dim=2)
    count = len(embeddings)
    mean = norms.sum() / max(count * (count - 1), 1)
    # Dividing by 1 instead of a norm of 0 keeps values and gradients of equal embeddings finite.
    directions = differences / torch.where(norms > 0, norms, 1.0)[:, :, None]
    return norms / torch.where(mean > 0, mean, 1.0), directions @ directions.mT
