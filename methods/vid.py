"""VID: variational information distillation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import match_sizes, stage_channels

EPS = 1e-5
"""Lower bound of predicted variances."""


class Predictor(nn.Module):
    """A Gaussian of the teacher's feature: mean predicted from the student's, one learned variance per channel."""

    def __init__(self, student: int, teacher: int, init_pred_var: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student, teacher, kernel_size=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, kernel_size=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, kernel_size=1, bias=False),
        )
        # softplus(log(exp(v) - 1)) = v, in a form that does not overflow.
        value = init_pred_var - EPS
        self.log_scale = nn.Parameter(torch.full((teacher,), value + math.log(-math.expm1(-value))))

    def variance(self) -> Tensor:
        """softplus(log_scale) + EPS, [C_t]."""
        return F.softplus(self.log_scale) + EPS

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Negative log-likelihood without its constant, mean over elements: [N, C_s, H, W], [N, C_t, H, W] -> []."""
        variance = self.variance()[:, None, None]
        error = (self.mean(student) - teacher).square()
        likelihood: Tensor = 0.5 * (error / variance + variance.log())
        return likelihood.mean()


class VID(Method):
    """Lower bound of the mutual information between the student's and the teacher's features, maximized.

        mu = conv1x1 - ReLU - conv1x1 - ReLU - conv1x1 (S), without biases, all of the teacher's width
        stage loss = mean_{n,c,h,w} 1/2 * ((mu - T)^2 / var_c + log var_c),  var = softplus(log_scale) + 1e-5
        summed over stages, times weight

    S [N, C_s, H_s, W_s], T [N, C_t, H_t, W_t], every stage, without the stem; the larger of two maps is first reduced
    to the smaller size by adaptive average pooling. As a negative log-likelihood, the loss can be negative.

    Args:
        setting: the run's shapes.
        weight: factor on the sum.
        init_pred_var: initial variances.
    """

    name = "vid"
    citation = (
        "S. Ahn, S. X. Hu, A. Damianou, N. D. Lawrence, Z. Dai. Variational information distillation for knowledge "
        "transfer. CVPR 2019. https://github.com/ssahn0215/variational-information-distillation"
    )
    tasks = frozenset({"classification"})

    def __init__(self, setting: Setting, weight: float = 1.0, init_pred_var: float = 5.0) -> None:
        super().__init__(setting)
        if init_pred_var <= EPS:
            raise MethodError(f"vid: init_pred_var is {init_pred_var}; it must be above {EPS}")
        self.weight = weight
        self.predictors = nn.ModuleList(Predictor(s, t, init_pred_var) for s, t in stage_channels(self.name, setting))

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        stages = zip(self.predictors, student.features[1:], teacher.features[1:], strict=True)
        total = torch.stack([predictor(*match_sizes(s, t)) for predictor, s, t in stages]).sum()
        return {self.name: self.weight * total}
