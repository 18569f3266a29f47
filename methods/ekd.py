"""EKD (our reading): evolutionary knowledge distillation, a teacher learned beside its student."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ._guided import GuidedModules
from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import kl_divergence, logits_pair


class EKD(Method):
    """Teacher and student learn together, and guided modules between their stages carry knowledge across.

    Our reading: there is no released code, and the abstract leaves modules, losses and weights open; everything below
    but the online teacher and the "simple guided modules between corresponding teacher-student blocks" is our choice.
    With stages i = 1..m, z_m and g_m a network's own logits and pooled feature, z_i [N, K] and g_i [N, D] those of its
    guided modules (`_guided.py`; D is the teacher's pooled length), and unit(g) = g / |g|:

        teacher: CE(z_m^T) + sum_{i<m} CE(z_i^T)
        student: (1 - alpha) CE(z_m^S) + alpha KL_4(z_m^S || z_m^T)
                 + sum_{i<m} ((1 - alpha) CE(z_i^S) + alpha KL_4(z_i^S || z_i^T))
                 + beta sum_i mean over images of |unit(g_i^S) - unit(g_i^T)|^2

    Every teacher quantity in the student's losses is detached: the teacher and its modules learn from the first line
    alone, the student and its modules from the second. The step's student mimics the step's teacher; no averaging.
    The paper's ablations with RCO-like snapshots and with several teachers are not here; `dml` is a method.

    Args:
        setting: the run's shapes; both networks show the same number of stages.
        alpha: share of the soft targets; the student's own cross-entropy has task_weight 1 - alpha.
        beta: factor on the guided features; 0 leaves them out of the student's loss.
        temperature: of every KL.
        pretrained: the ablation with a fixed teacher, trained before; its guided modules still learn.
        guided: False is the ablation without modules, one-way online distillation of the logits (then neither beta nor
            guided_task has an effect).
        guided_task: False drops the cross-entropy of the student's guided logits; the teacher's keep theirs, which is
            all that they learn from.
    """

    name = "ekd"
    label: ClassVar[str] = "EKD (our reading)"
    citation = (
        "K. Zhang, C. Zhang, S. Li, D. Zeng, S. Ge. Student network learning via evolutionary knowledge distillation "
        "(our reading: no code was released). IEEE TCSVT 2022. https://doi.org/10.1109/TCSVT.2021.3090902"
    )
    tasks = frozenset({"classification"})
    teacher_mode = "online"

    def __init__(
        self,
        setting: Setting,
        alpha: float = 0.5,
        beta: float = 1.0,
        temperature: float = 4.0,
        pretrained: bool = False,
        guided: bool = True,
        guided_task: bool = True,
    ) -> None:
        super().__init__(setting)
        if not 0 <= alpha <= 1:
            raise MethodError(f"ekd: alpha is {alpha}; it is a share, from 0 to 1")
        if beta < 0:
            raise MethodError(f"ekd: beta is {beta}; it must not be negative")
        if temperature <= 0:
            raise MethodError(f"ekd: temperature is {temperature}; it must be positive")
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.guided, self.guided_task = guided, guided_task
        self.teacher_mode = "frozen" if pretrained else "online"
        self.task_weight = 1 - alpha
        if guided:
            self._build_modules()

    @classmethod
    def mode(cls, options: dict[str, Any]) -> str:
        return "frozen" if options["pretrained"] else "online"

    def _build_modules(self) -> None:
        student, teacher = self.setting.student, self.setting.teacher
        stages = [len(info.channels) - 1 for info in (student, teacher)]
        if stages[0] != stages[1] or stages[0] < 1:
            raise MethodError(
                f"ekd: the student shows {stages[0]} stages and the teacher {stages[1]}; choose a teacher and a "
                "student with the same number, and at least one, or set guided to false"
            )
        for side, info in (("student", student), ("teacher", teacher)):
            if info.pooled_dim is None or len(info.strides) != len(info.channels):
                raise MethodError(
                    f"ekd: the {side} names no pooled_dim, or not the stride of every feature, and guided modules need "
                    "both; choose a classifier that names them or set guided to false"
                )
        assert teacher.pooled_dim is not None
        self.student_modules = GuidedModules(student, teacher.pooled_dim, self.setting.num_classes)
        self.teacher_modules = GuidedModules(teacher, teacher.pooled_dim, self.setting.num_classes)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """The teacher's terms (`teacher_...`, in which alone it carries gradients) and the student's."""
        logits, soft = logits_pair(self.name, student, teacher)
        terms = {"soft_target": self.alpha * kl_divergence(logits, soft, self.temperature)}
        if self.teacher_mode == "online":
            assert isinstance(teacher.logits, Tensor)
            terms["teacher_task"] = F.cross_entropy(teacher.logits, batch.targets)
        return terms | self._guided_terms(batch, student, teacher) if self.guided else terms

    def _guided_terms(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        others, other_logits = self.teacher_modules(teacher)
        features, logits = self.student_modules(student)
        terms = {"guided_feature": self.beta * _sum(map(unit_distance, features, others))}
        if not logits:  # a single stage, whose logits are the networks' own
            return terms
        terms["teacher_guided"] = _sum(F.cross_entropy(z, batch.targets) for z in other_logits)
        kl = _sum(kl_divergence(z, soft, self.temperature) for z, soft in zip(logits, other_logits, strict=True))
        terms["guided_soft"] = self.alpha * kl
        if self.guided_task:
            terms["guided_task"] = (1 - self.alpha) * _sum(F.cross_entropy(z, batch.targets) for z in logits)
        return terms


def unit_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over images of |unit(student) - unit(teacher)|^2 of [N, D] features; no gradient to the teacher's."""
    difference = F.normalize(student, dim=1) - F.normalize(teacher.detach(), dim=1)
    return difference.square().sum(dim=1).mean()


def _sum(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()
