"""BD-KD (our reading): balanced divergence knowledge distillation, online and in both directions of the KL."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ._logits import entropy_of_rows, kl_of_rows, require_positive
from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import logits_pair


class BDKD(Method):
    """Our reading of BD-KD: both networks train, with forward and reverse KL that are weighted image by image.

        student: CE(z_s) + weight * T^2 * mean_i (f_i KL(p_t || p_s) + r_i KL(p_s || p_t))
        teacher: CE(z_t) + weight * T^2 * mean_i KL(p_s || p_t)
        (f_i, r_i) = (1, balance) where the student is less certain than the teacher, H(p_s) > H(p_t); else (balance, 1)

    p = softmax(z / T) of logits [N, K], H their entropy. In the student's terms p_t is detached, in the teacher's p_s,
    and the weights f and r everywhere.

    No code was released. Summaries of the paper state both divergences in the student's loss, weights for
    each sample by the difference of the entropies, and the reverse KL in the teacher's. How the weights depend on
    the entropies is not in what we could read: the step between 1 and `balance` is our choice, with its direction,
    as the reverse KL makes a distribution more certain and the forward KL less. So are all default values.

    Args:
        setting: the run's shapes.
        weight: factor on all KL terms.
        temperature: T.
        balance: weight of the divergence that is favored for an image; 1 treats both alike.
    """

    name = "bdkd"
    citation = (
        "I. Amara, N. Sepahvand, B. H. Meyer, W. J. Gross, J. J. Clark. BD-KD: balancing the divergences for online "
        "knowledge distillation (our reading: no code was released). 2022. https://arxiv.org/abs/2212.12965"
    )
    tasks = frozenset({"classification"})
    min_classes = 2
    teacher_mode = "online"

    def __init__(self, setting: Setting, weight: float = 1.0, temperature: float = 1.0, balance: float = 2.0) -> None:
        super().__init__(setting)
        require_positive(self.name, temperature=temperature)
        if balance < 1:
            raise MethodError(f"bdkd: balance is {balance}; it is a weight beside 1, so use 1 or more")
        self.weight, self.temperature, self.balance = weight, temperature, balance

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """The student's `forward` and `reverse`, and the teacher's `teacher_task` and `teacher_reverse`."""
        logits_pair(self.name, student, teacher)
        assert isinstance(student.logits, Tensor) and isinstance(teacher.logits, Tensor)
        s, t = student.logits / self.temperature, teacher.logits / self.temperature
        factor = self.weight * self.temperature**2
        uncertain = entropy_of_rows(s) > entropy_of_rows(t)
        forward, reverse = kl_of_rows(s, t.detach()), kl_of_rows(t.detach(), s)
        return {
            "forward": factor * (torch.where(uncertain, 1.0, self.balance) * forward).mean(),
            "reverse": factor * (torch.where(uncertain, self.balance, 1.0) * reverse).mean(),
            "teacher_task": F.cross_entropy(teacher.logits, batch.targets),
            "teacher_reverse": factor * kl_of_rows(t, s.detach()).mean(),
        }
