"""ITRD: information-theoretic representation distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._logits import require_positive
from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import pooled_pair

EPS = 1e-12
"""Added to standard deviations: our choice. The released code divides by 0 where a dimension is 0 for a whole batch."""


class ITRD(Method):
    """Correlation of each dimension of the pooled features over the batch, and mutual information of Gram matrices.

        e = a linear layer of the student's pooled features, in the teacher's width              [N, D]
        c_d = 1/N sum_i e_id t_id, both standardized over the batch with the unbiased deviation  [D]
        correlation = weight * lambda_corr * log2 sum_d |c_d - 1|^(2 alpha)
        G = x x^T of L2-normalized rows, divided by its trace, for x = e (the student's features themselves where the
        widths are equal), t, and for the product of both matrices, element by element           [N, N]
        mutual = weight * lambda_mutual * (sum G_s^2 - sum G_st^2)

    The correlation always uses the linear layer. A perfect match gives c_d = (N - 1) / N. The losses depend on the
    images of a batch; the correlation term is negative where its sum is below 1.

    Args:
        setting: the run's shapes; needs both networks' pooled_dim.
        weight: factor on both terms.
        alpha: of the correlation. The default is that of the released code; wrn_40_2 to wrn_16_2: 1.01. Values of other
            pairs are not released.
        lambda_corr: factor on the correlation.
        lambda_mutual: factor on the mutual information; wrn_40_2 to wrn_16_2: 1.
    """

    name = "itrd"
    citation = (
        "R. Miles, A. Lopez Rodriguez, K. Mikolajczyk. Information theoretic representation distillation. BMVC 2022. "
        "https://github.com/roymiles/ITRD"
    )
    tasks = frozenset({"classification"})

    def __init__(
        self,
        setting: Setting,
        weight: float = 1.0,
        alpha: float = 1.5,
        lambda_corr: float = 2.0,
        lambda_mutual: float = 0.05,
    ) -> None:
        super().__init__(setting)
        require_positive(self.name, alpha=alpha)
        student, teacher = setting.student.pooled_dim, setting.teacher.pooled_dim
        if student is None or teacher is None:
            raise MethodError("itrd: it needs pooled features, and the pooled_dim of a network is unknown")
        self.weight, self.alpha = weight, alpha
        self.lambda_corr, self.lambda_mutual = lambda_corr, lambda_mutual
        self.embed = nn.Linear(student, teacher)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `correlation` and `mutual`; see the class."""
        s, t = pooled_pair(self.name, student, teacher)
        if len(s) < 2:
            raise MethodError("itrd: a batch has one image and no deviation; use a larger batch_size")
        embedded = self.embed(s)
        correlation = (_standardized(embedded) * _standardized(t)).mean(dim=0)
        distance = (correlation - 1).abs().pow(2 * self.alpha).sum().log2()
        gram_s, gram_t = (_gram(x) for x in (embedded if s.shape != t.shape else s, t))
        mutual = _entropy(gram_s) - _entropy(gram_s * gram_t)
        return {
            "correlation": self.weight * self.lambda_corr * distance,
            "mutual": self.weight * self.lambda_mutual * mutual,
        }


def _standardized(features: Tensor) -> Tensor:
    """Each dimension over the batch: [N, D] -> [N, D]."""
    return (features - features.mean(dim=0)) / (features.std(dim=0) + EPS)


def _gram(features: Tensor) -> Tensor:
    """Cosines of rows: [N, D] -> [N, N]."""
    rows = F.normalize(features, dim=1)
    return rows @ rows.T


def _entropy(gram: Tensor) -> Tensor:
    """Sum of the squares of a matrix [N, N] divided by its trace."""
    return (gram / torch.trace(gram).clamp(min=EPS)).square().sum()  # a trace of 0: all features are dead
