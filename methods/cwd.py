"""CWD: channel-wise knowledge distillation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import FeatureMethod, MethodError, Outputs, Setting
from .functional import logits_pair, target


class CWD(FeatureMethod):
    """KL between the student's and the teacher's channels, each a distribution over space.

        q = softmax_{HW}(T / tau),  p = softmax_{HW}(align(S) / tau)
        level loss = tau^2 / (N * C) * sum_{n,c} KL(q || p);  summed over levels, times weight

    S [N, C_s, H, W], T [N, C, H, W]. In segmentation the level is the map before the classifier, and a second term is
    the same loss on the raw logits [N, K, h, w], with classes as channels. CIRKD's scripts also add `kd` and an
    adversarial term: their row is `cwd+kd` or `cwd+kd+adversarial`.

    Args:
        setting: the run's shapes.
        weight: factor on the sum; the paper's value depends on the detector (RepPoints in the AKD configs: 7.5).
            CIRKD's scripts have 50 and divide by N * C_s if the widths differ: with their 128 and 256 channels this is
            100 here.
        tau: temperature; segmentation in CIRKD's scripts 4.
        align: see `FeatureMethod`; "conv1x1_no_bias" in CIRKD's scripts.
        logits_weight: segmentation only: factor on the logits term; 0 omits it; in CIRKD's scripts 3.
    """

    name = "cwd"
    citation = (
        "C. Shu, Y. Liu, J. Gao, Z. Yan, C. Shen. Channel-wise knowledge distillation for dense prediction. ICCV 2021. "
        "https://github.com/irfanICMLL/TorchDistiller; segmentation as run by https://github.com/winycg/CIRKD"
    )
    tasks = frozenset({"classification", "detection", "segmentation"})

    def __init__(
        self,
        setting: Setting,
        weight: float = 1.0,
        tau: float = 1.0,
        align: str | None = "conv1x1",
        logits_weight: float = 0.0,
    ) -> None:
        super().__init__(setting, weight, align)
        if tau <= 0:
            raise MethodError(f"cwd: tau is {tau}; it must be positive")
        if logits_weight and setting.task != "segmentation":
            raise MethodError(f"cwd: logits_weight has no effect in {setting.task}; set it to 0")
        self.tau, self.logits_weight = tau, logits_weight

    def compare(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
        """tau^2 * KL(teacher || student), mean over the N * C channels of [N, C, H, W] maps."""
        return self._divergence(student, target(self.name, student, teacher, f"features of level {level}"))

    def non_feature_terms(self, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """`cwd_logits`, unless its weight is 0."""
        if not self.logits_weight:
            return {}
        return {"cwd_logits": self.logits_weight * self._divergence(*logits_pair(self.name, student, teacher))}

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        log_p = F.log_softmax(student.flatten(2) / self.tau, dim=2)
        log_q = F.log_softmax(teacher.flatten(2) / self.tau, dim=2)
        divergence = F.kl_div(log_p, log_q, reduction="sum", log_target=True)
        channels = student.shape[0] * student.shape[1]
        return self.tau**2 / channels * divergence
