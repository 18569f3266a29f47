"""CWD: channel-wise knowledge distillation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import FeatureMethod, MethodError, Setting
from .functional import target


class CWD(FeatureMethod):
    """Each channel is a distribution over space; the student's is drawn to the teacher's.

        q = softmax_{HW}(T / tau),  p = softmax_{HW}(align(S) / tau)
        level loss = tau^2 / (N * C) * sum_{n,c} KL(q || p);  summed over levels, times weight

    S [N, C_s, H, W], T [N, C, H, W].

    Args:
        setting: the run's shapes.
        weight: factor on the sum; the paper's value depends on the detector (RepPoints in the AKD configs: 7.5).
        tau: temperature.
        align: "conv1x1" or None.
    """

    name = "cwd"
    citation = (
        "C. Shu, Y. Liu, J. Gao, Z. Yan, C. Shen. Channel-wise knowledge distillation for dense prediction. ICCV 2021. "
        "https://github.com/irfanICMLL/TorchDistiller"
    )
    tasks = frozenset({"classification", "detection", "segmentation"})

    def __init__(self, setting: Setting, weight: float = 1.0, tau: float = 1.0, align: str | None = "conv1x1") -> None:
        super().__init__(setting, weight, align)
        if tau <= 0:
            raise MethodError(f"cwd: tau is {tau}; it must be positive")
        self.tau = tau

    def compare(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
        """tau^2 * KL(teacher || student), mean over the N * C channels of [N, C, H, W] maps."""
        teacher = target(self.name, student, teacher, f"features of level {level}")
        log_p = F.log_softmax(student.flatten(2) / self.tau, dim=2)
        log_q = F.log_softmax(teacher.flatten(2) / self.tau, dim=2)
        divergence = F.kl_div(log_p, log_q, reduction="sum", log_target=True)
        channels = student.shape[0] * student.shape[1]
        return self.tau**2 / channels * divergence
