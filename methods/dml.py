"""DML: deep mutual learning of two networks, both trained from scratch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import kl_divergence, logits_pair


class DML(Method):
    """Student and teacher train together, each with its task loss and the KL to the logits of the other network.

        student: CE(z_s) + weight * KL_T(z_s || z_t)
        teacher: CE(z_t) + weight * KL_T(z_t || z_s)
        KL_T(x || y) = T^2 * KL(softmax(y / T) || softmax(x / T)), mean over images; y is detached

    The teacher is a second student of any architecture. Both are updated after one forward (our choice; the paper
    updates them in turn).

    Args:
        setting: the run's shapes.
        weight: factor on both KL terms.
        temperature: T; 1 in the paper.
    """

    name = "dml"
    citation = (
        "Y. Zhang, T. Xiang, T. M. Hospedales, H. Lu. Deep mutual learning. CVPR 2018. https://arxiv.org/abs/1706.00384"
    )
    tasks = frozenset({"classification"})
    min_classes = 2
    teacher_mode = "online"

    def __init__(self, setting: Setting, weight: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__(setting)
        if temperature <= 0:
            raise MethodError(f"dml: temperature is {temperature}; it must be positive")
        self.weight, self.temperature = weight, temperature

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """`mutual_student`, and the teacher's `teacher_task` and `mutual_teacher`."""
        s, _ = logits_pair(self.name, student, teacher)
        t = teacher.logits  # with gradient
        assert isinstance(t, Tensor)
        return {
            "mutual_student": self.weight * kl_divergence(s, t, self.temperature),
            "mutual_teacher": self.weight * kl_divergence(t, s, self.temperature),
            "teacher_task": F.cross_entropy(t, batch.targets),
        }
