"""Dual students (our reading): two students that learn from a frozen teacher and from each other."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from ._logits import entropy_of_rows, kl_of_rows, require_positive
from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import kl_divergence, logits_pair


class DualStudents(Method):
    """Our reading of dual students: two learn a teacher's soft targets, weighted by its certainty, and each other's.

        student a of a and b: CE(z_a) + weight * T^2 * mean_i w_i KL(p_t || p_a)
                              + peer_weight * T^2 * mean_i KL(p_b || p_a)
        w_i = 1 - H(softmax(z_t)) / log K;  p = softmax(z / T)

    z [N, K] logits, H the entropy; p_b is detached in the loss of a, and the other way round. The second student has
    the architecture of the first and other initial weights. It is a module of the method, so it trains in the recipe's
    optimizer, in float32, and is neither saved with the student nor evaluated; it costs as much as the first.

    No code was released. Summaries of the paper state the three terms and the weights w. Temperature, factors and the
    direction of the peers' KL are our choice; the paper's students are a ResNet-18 and a MobileNetV2, here both are one
    architecture.

    Args:
        setting: the run's shapes, and how to make a student (`Setting.new_student`).
        weight: factor on the teacher's soft targets.
        peer_weight: factor on the other student's.
        temperature: T.
    """

    name = "dual_students"
    citation = (
        "A. Gore, A. Dey, A. Mishra. Uncertainty-aware dual-student knowledge distillation for efficient image "
        "classification (our reading: no code was released). 2025. https://arxiv.org/abs/2511.18826"
    )
    tasks = frozenset({"classification"})
    min_classes = 2

    def __init__(
        self, setting: Setting, weight: float = 1.0, peer_weight: float = 1.0, temperature: float = 4.0
    ) -> None:
        super().__init__(setting)
        require_positive(self.name, temperature=temperature)
        self.weight, self.peer_weight, self.temperature = weight, peer_weight, temperature
        self.second = None if setting.new_student is None else setting.new_student()

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """`soft_target` and `peer` of the student; `second_task`, `second_soft_target` and `second_peer` of the other.

        Raises:
            MethodError: the setting does not say how to make a student.
        """
        if self.second is None:
            raise MethodError(f"{self.name}: it trains a second student; give the setting new_student, which makes one")
        s, t = logits_pair(self.name, student, teacher)
        other, _ = logits_pair(self.name, self.second(batch.inputs), teacher)
        certainty = 1 - entropy_of_rows(t) / math.log(t.shape[1])
        first, second = self._terms(s, other, t, certainty), self._terms(other, s, t, certainty)
        task = {"second_task": F.cross_entropy(other, batch.targets)}
        return first | task | {f"second_{name}": term for name, term in second.items()}

    def _terms(self, logits: Tensor, peer: Tensor, teacher: Tensor, certainty: Tensor) -> dict[str, Tensor]:
        soft = certainty * kl_of_rows(logits / self.temperature, teacher / self.temperature)
        return {
            "soft_target": self.weight * self.temperature**2 * soft.mean(),
            "peer": self.peer_weight * kl_divergence(logits, peer, self.temperature),
        }
