"""PKT: probabilistic knowledge transfer."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Batch, Method, Outputs, Setting
from .functional import pooled_pair

EPS = 1e-7
"""Added to norms and, inside the logarithm, to probabilities, as released."""


class PKT(Method):
    """KL between the student's and the teacher's distributions of similarities to the other images of the batch.

        p_ij = k_ij / sum_j k_ij,  k_ij = (cos(f_i, f_j) + 1) / 2
        loss = weight * mean_{ij} p_ij(T) * log((p_ij(T) + 1e-7) / (p_ij(S) + 1e-7))

    S [N, D_s], T [N, D_t], the pooled features. The mean is over all N^2 entries, hence the large weight.

    Args:
        setting: the run's shapes.
        weight: factor on the loss.
    """

    name = "pkt"
    citation = (
        "N. Passalis, A. Tefas. Learning deep representations with probabilistic knowledge transfer. ECCV 2018. "
        "https://github.com/passalis/probabilistic_kt"
    )
    tasks = frozenset({"classification"})

    def __init__(self, setting: Setting, weight: float = 30_000.0) -> None:
        super().__init__(setting)
        self.weight = weight

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        s, t = (similarity_distribution(pooled) for pooled in pooled_pair(self.name, student, teacher))
        return {self.name: self.weight * (t * ((t + EPS) / (s + EPS)).log()).mean()}


def similarity_distribution(embeddings: Tensor) -> Tensor:
    """p of the class docstring: [N, D] -> [N, N]; every row sums to 1."""
    unit: Tensor = embeddings / (torch.linalg.vector_norm(embeddings, dim=1, keepdim=True) + EPS)
    kernel = (unit @ unit.T + 1) / 2
    return kernel / kernel.sum(dim=1, keepdim=True)
