"""EKD (our reading): evolutionary knowledge distillation, with a teacher trained together with the student."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._guided import GuidedModules
from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import kl_divergence, logits_pair


class EKD(Method):
    """Online distillation with guided modules: small heads on the stages of teacher and student.

    Our reading: no code was released, and the abstract does not define modules, losses and weights; everything below
    except the online teacher and the "simple guided modules between corresponding teacher-student blocks" is our
    choice. With stages i = 1..m, z_m and g_m the logits and the pooled feature of a network, z_i [N, K] and g_i [N, D]
    those of its guided modules (`_guided.py`; D is the teacher's pooled length), and unit(g) = g / |g|:

        teacher: CE(z_m^T) + sum_{i<m} CE(z_i^T)
        student: (1 - alpha) CE(z_m^S) + alpha KL_4(z_m^S || z_m^T)
                 + sum_{i<m} ((1 - alpha) CE(z_i^S) + alpha KL_4(z_i^S || z_i^T))
                 + beta sum_i mean over images of |unit(g_i^S) - unit(g_i^T)|^2

    Teacher outputs in the student's losses are detached: the teacher and its modules learn only from the first line,
    the student and its modules from the second. The student's target is the teacher of the same step; no averaging.

    Several teachers have the same architecture and different initial weights, each with guided modules and the first
    line as its loss. The student's KL and distance are means over teachers; their gradient is that of the mean of the
    teachers' softened probabilities as target, and of the mean of their unit(g).

    With n snapshots, the student's target is not the teacher of the same step but the latest of n snapshots, frozen and
    in eval mode, taken at k / (n + 1) of the training, k = 1..n. This resembles RCO (X. Jin et al. Knowledge
    distillation via route constrained optimization. ICCV 2019), whose snapshots are those of a teacher trained before.
    Until the first snapshot the student learns from the labels only: `early_task` is alpha CE(z_m^S), without label
    smoothing, and the KL is 0; afterwards `early_task` is 0. There is one teacher and no guided module: the comparison
    with `guided: false` measures the benefit of a teacher that changes with every step.

    Args:
        setting: the run's shapes; both networks have the same number of stages.
        alpha: weight of the soft targets; the task_weight is 1 - alpha.
        beta: factor on the guided features; 0 omits them.
        temperature: of every KL.
        pretrained: the ablation with a frozen, pretrained teacher; its guided modules still train.
        guided: False is the ablation without modules, one-way online distillation of the logits (then beta and
            guided_task have no effect).
        guided_task: False omits the cross-entropy of the student's guided logits; that of the teacher's stays, as the
            only loss of the teacher's modules.
        teachers: number of online teachers, 1 to 3.
        snapshots: n; 0 uses the teacher of the same step.
    """

    name = "ekd"
    label: ClassVar[str] = "EKD (our reading)"
    citation = (
        "K. Zhang, C. Zhang, S. Li, D. Zeng, S. Ge. Student network learning via evolutionary knowledge distillation "
        "(our reading: no code was released). IEEE TCSVT 2022. https://doi.org/10.1109/TCSVT.2021.3090902"
    )
    tasks = frozenset({"classification"})
    min_classes = 2
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
        teachers: int = 1,
        snapshots: int = 0,
    ) -> None:
        super().__init__(setting)
        if not 0 <= alpha <= 1:
            raise MethodError(f"ekd: alpha is {alpha}; it is a share, from 0 to 1")
        if beta < 0:
            raise MethodError(f"ekd: beta is {beta}; it must not be negative")
        if temperature <= 0:
            raise MethodError(f"ekd: temperature is {temperature}; it must be positive")
        _check_teachers(teachers, snapshots, pretrained, guided)
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.guided, self.guided_task = guided, guided_task
        self.teachers, self.snapshots = teachers, snapshots
        self.teacher_mode = "frozen" if pretrained else "online"
        self.task_weight = 1 - alpha
        if guided:
            self._build_modules()

    @classmethod
    def mode(cls, options: dict[str, Any]) -> str:
        return "frozen" if options["pretrained"] else "online"

    @classmethod
    def online_teachers(cls, options: dict[str, Any]) -> int:
        return int(options.get("teachers", 1))  # rows may be older than this option

    @classmethod
    def teacher_snapshots(cls, options: dict[str, Any]) -> int:
        return int(options.get("snapshots", 0))

    def _build_modules(self) -> None:
        student, teacher = self.setting.student, self.setting.teacher
        stages = [len(info.channels) - 1 for info in (student, teacher)]
        if stages[0] != stages[1] or stages[0] < 1:
            raise MethodError(
                f"ekd: the student has {stages[0]} stages and the teacher {stages[1]}; choose a teacher and a "
                "student with the same number, and at least one, or set guided to false"
            )
        for side, info in (("student", student), ("teacher", teacher)):
            if info.pooled_dim is None or len(info.strides) != len(info.channels):
                raise MethodError(
                    f"ekd: the NetworkInfo of the {side} has no pooled_dim or not all strides, and guided modules need "
                    "both; choose another classifier or set guided to false"
                )
        assert teacher.pooled_dim is not None
        self.student_modules = GuidedModules(student, teacher.pooled_dim, self.setting.num_classes)
        self.teacher_modules = nn.ModuleList(
            GuidedModules(teacher, teacher.pooled_dim, self.setting.num_classes) for _ in range(self.teachers)
        )

    def teacher_side_modules(self) -> list[nn.Module]:
        return list(self.teacher_modules) if self.guided else []

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms of the teachers (`teacher_...`, summed; only these have gradients for them) and of the student.

        Raises:
            MethodError: the number of teacher outputs is not `teachers`.
        """
        teachers = (teacher,) if self.snapshots else (teacher, *teacher.others)
        if len(teachers) != self.teachers:
            raise MethodError(f"ekd: teachers is {self.teachers} and there are outputs of {len(teachers)}; pass all")
        terms = self._soft_target(batch, student, teacher.others if self.snapshots else teachers)
        if self.teacher_mode == "online":
            terms["teacher_task"] = _sum(F.cross_entropy(cast(Tensor, t.logits), batch.targets) for t in teachers)
        return terms | self._guided_terms(batch, student, teachers) if self.guided else terms

    def _soft_target(self, batch: Batch, student: Outputs, teachers: tuple[Outputs, ...]) -> dict[str, Tensor]:
        """Terms of the student's logits with weight alpha: KL to the teachers, or without any the cross-entropy."""
        kl = [self._kl(*logits_pair(self.name, student, t)) for t in teachers]
        zero = torch.zeros((), device=batch.inputs.device)
        terms = {"soft_target": self.alpha * _mean(kl) if kl else zero}
        if self.snapshots:  # both terms at every step, since a run records the mean of each term over an epoch
            labels = F.cross_entropy(cast(Tensor, student.logits), batch.targets)
            terms["early_task"] = zero if kl else self.alpha * labels
        return terms

    def _guided_terms(self, batch: Batch, student: Outputs, teachers: tuple[Outputs, ...]) -> dict[str, Tensor]:
        guided = [modules(t) for modules, t in zip(self.teacher_modules, teachers, strict=True)]
        features, logits = self.student_modules(student)
        terms = {"guided_feature": self.beta * _mean(_sum(map(unit_distance, features, t)) for t, _ in guided)}
        if not logits:  # with a single stage there are no guided logits
            return terms
        terms["teacher_guided"] = _sum(F.cross_entropy(z, batch.targets) for _, soft in guided for z in soft)
        terms["guided_soft"] = self.alpha * _mean(_sum(map(self._kl, logits, soft)) for _, soft in guided)
        if self.guided_task:
            terms["guided_task"] = (1 - self.alpha) * _sum(F.cross_entropy(z, batch.targets) for z in logits)
        return terms

    def _kl(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kl_divergence(student, teacher, self.temperature)


def unit_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over images of |unit(student) - unit(teacher)|^2 of [N, D] features; the teacher's is detached."""
    difference = F.normalize(student, dim=1) - F.normalize(teacher.detach(), dim=1)
    return difference.square().sum(dim=1).mean()


def _sum(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()


def _mean(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()


def _check_teachers(teachers: int, snapshots: int, pretrained: bool, guided: bool) -> None:
    if not 1 <= teachers <= 3:
        raise MethodError(f"ekd: teachers is {teachers}; it must be 1, 2 or 3")
    if snapshots < 0:
        raise MethodError(f"ekd: snapshots is {snapshots}; it must not be negative")
    active = [f"teachers is {teachers}"] * (teachers > 1) + [f"snapshots is {snapshots}"] * (snapshots > 0)
    if active and pretrained:
        raise MethodError(
            f"ekd: {active[0]} and pretrained is true, but that is one frozen teacher; set pretrained to false"
        )
    if len(active) > 1:
        raise MethodError(f"ekd: {' and '.join(active)}; set teachers to 1 or snapshots to 0")
    if snapshots and guided:
        raise MethodError(
            f"ekd: snapshots is {snapshots} and guided is true, but snapshots have no guided modules; set guided to "
            "false or snapshots to 0"
        )
