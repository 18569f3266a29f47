"""DML: deep mutual learning of two networks that both begin untrained."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import kl_divergence, logits_pair


class DML(Method):
    """Each network mimics the other's logits beside its own task.

        student: CE(z_s) + weight * KL_T(z_s || z_t)
        teacher: CE(z_t) + weight * KL_T(z_t || z_s)
        KL_T(x || y) = T^2 * KL(softmax(y / T) || softmax(x / T)), mean over images; y is detached

    The teacher is a second student, of whatever architecture. Both step at once from one forward (our choice; the
    paper's algorithm updates them in turn).

    Args:
        setting: the run's shapes.
        weight: factor on both KL terms.
        temperature: T; the paper has none.
    """

    name = "dml"
    citation = (
        "Y. Zhang, T. Xiang, T. M. Hospedales, H. Lu. Deep mutual learning. CVPR 2018. https://arxiv.org/abs/1706.00384"
    )
    tasks = frozenset({"classification"})
    teacher_mode = "online"

    def __init__(self, setting: Setting, weight: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__(setting)
        if temperature <= 0:
            raise MethodError(f"dml: temperature is {temperature}; it must be positive")
        self.weight, self.temperature = weight, temperature

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """`mutual_student`, and the teacher's `teacher_task` and `mutual_teacher`."""
        own, _ = logits_pair(self.name, student, teacher)
        peer = teacher.logits  # with its gradient
        assert isinstance(peer, Tensor)
        return {
            "mutual_student": self.weight * kl_divergence(own, peer, self.temperature),
            "mutual_teacher": self.weight * kl_divergence(peer, own, self.temperature),
            "teacher_task": F.cross_entropy(peer, batch.targets),
        }
