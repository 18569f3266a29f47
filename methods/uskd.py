"""USKD: universal self-knowledge distillation, which makes its soft labels from the student."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ._logits import class_labels, non_target_logits
from .base import Batch, Method, MethodError, Outputs, Setting

EPS = 1e-6
"""Added to the divisors of the ranks, as released."""

SMOOTHING = 0.1
"""Of the labels of the weak logits."""


class USKD(Method):
    """Soft labels without a teacher: of the target by the student, of the others by their rank.

        p = softmax(z), w = softmax of a linear layer of the pooled map of the last stage but one ("weak")
        s = p_y, without gradient
        target = - alpha * (s^2 + 1 - mean over images of s^2) * log p_y
        q_c = 1 / (rank of class c by w_c / (1 - w_y + 1e-6) + log p_c / (1 - log p_y + 1e-6)), highest first; then
              without y, scaled to the sum 1, and without gradient
        non_target = - beta * sum over classes except y of q * log softmax(z over these classes)
        weak = - mu * sum over classes of (0.9 [c = y] + 0.1 / K) * log w
        all are means over images

    z [N, K] logits, y [N] labels. The rank adds a probability and a log-probability, as released. The first mean is one
    of the batch. With two classes non_target would be 0, so three are needed. There is no teacher; the linear layer
    trains with the student and is not saved.

    Args:
        setting: the run's shapes; the student must have two features at least.
        alpha: factor on the target term. ImageNet 1; CIFAR-100 0.1.
        beta: factor on the non-target term. 0.1.
        mu: factor on the weak term. ImageNet 0.005; CIFAR-100 0.1.
    """

    name = "uskd"
    citation = (
        "Z. Yang, A. Zeng, Z. Li, T. Zhang, C. Yuan, Y. Li. From knowledge distillation to self-knowledge distillation"
        ": a unified approach with normalized loss and customized soft labels. ICCV 2023. "
        "https://github.com/yzd-v/cls_KD"
    )
    tasks = frozenset({"classification"})
    needs_teacher = False
    min_classes = 3
    one_class_per_image = True

    def __init__(self, setting: Setting, alpha: float = 1.0, beta: float = 0.1, mu: float = 0.005) -> None:
        super().__init__(setting)
        channels = setting.student.channels
        if len(channels) < 2:
            raise MethodError(f"uskd: it reads the last feature but one, and the student has {len(channels)}")
        self.alpha, self.beta, self.mu = alpha, beta, mu
        self.weak = nn.Linear(channels[-2], setting.num_classes)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `target`, `non_target` and `weak`; see the class. The teacher is not read."""
        logits = student.logits
        if not isinstance(logits, Tensor):
            raise MethodError("uskd: the network has one map of logits per level; it must have one tensor of logits")
        labels = class_labels(self.name, batch, logits)
        weak = self.weak(student.features[-2].mean(dim=(2, 3)))
        log_p = F.log_softmax(logits, dim=1)
        log_target = log_p.gather(1, labels[:, None])[:, 0]
        squares = log_target.detach().exp().square()
        others = F.log_softmax(non_target_logits(logits, labels), dim=1)
        soft = _by_rank(weak.detach(), log_p.detach(), labels)
        return {
            "target": -self.alpha * ((squares + 1 - squares.mean()) * log_target).mean(),
            "non_target": -self.beta * (soft * others).sum(dim=1).mean(),
            "weak": self.mu * F.cross_entropy(weak, labels, label_smoothing=SMOOTHING),
        }


def _by_rank(weak: Tensor, log_p: Tensor, labels: Tensor) -> Tensor:
    """Soft labels of the classes that are not the target, [N, K - 1]: 1 / rank, scaled to the sum 1."""
    w = F.softmax(weak, dim=1)
    scores = _relative(w, labels) + _relative(log_p, labels)
    ranks = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
    zipf = non_target_logits(1 / ranks, labels)
    return zipf / zipf.sum(dim=1, keepdim=True)


def _relative(values: Tensor, labels: Tensor) -> Tensor:
    """values_c / (1 - values_y + EPS), [N, K]."""
    return values / (1 - values.gather(1, labels[:, None]) + EPS)
