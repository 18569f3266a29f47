"""EKD (our reading): evolutionary knowledge distillation, a teacher learned beside its student."""

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

    Several teachers are one network, each with initial weights and modules of its own and its own first line. Of the
    student's terms against a teacher, KL and distance, the mean over teachers counts; its gradient is that of following
    the mean of their softened probabilities, and the mean of their unit(g).

    With n snapshots the student follows, in place of the step's teacher, the last of n copies of it, frozen and in eval
    mode, taken at k / (n + 1) of the training, k = 1..n. That is RCO-like (X. Jin et al. Knowledge distillation via
    route constrained optimization. ICCV 2019), but RCO's copies are of a teacher trained before, while this route is
    walked as it is made. So the student first learns from the labels alone: `early_task` is alpha CE(z_m^S) and the KL
    0 until there is a copy, then the other way round; it is not smoothed, whatever the recipe's labels are. There is
    one teacher and no module: set against `guided: false`, this tells what a teacher is worth that changes with every
    step, and does not lag behind.

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
        teachers: how many learn beside the student, 1 to 3.
        snapshots: n; 0 follows the step's teacher.
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
        return int(options.get("teachers", 1))  # rows may be older than the option

    @classmethod
    def teacher_snapshots(cls, options: dict[str, Any]) -> int:
        return int(options.get("snapshots", 0))

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
        self.teacher_modules = nn.ModuleList(
            GuidedModules(teacher, teacher.pooled_dim, self.setting.num_classes) for _ in range(self.teachers)
        )

    def beside_teachers(self) -> list[nn.Module]:
        return list(self.teacher_modules) if self.guided else []

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """The teachers' terms (`teacher_...`, in which alone they carry gradients, summed) and the student's.

        Raises:
            MethodError: more or fewer teachers show outputs than learn.
        """
        taught = (teacher,) if self.snapshots else (teacher, *teacher.others)
        if len(taught) != self.teachers:
            raise MethodError(f"ekd: teachers is {self.teachers} and {len(taught)} show outputs; give it those of each")
        terms = self._soft_target(batch, student, teacher.others if self.snapshots else taught)
        if self.teacher_mode == "online":
            terms["teacher_task"] = _sum(F.cross_entropy(cast(Tensor, one.logits), batch.targets) for one in taught)
        return terms | self._guided_terms(batch, student, taught) if self.guided else terms

    def _soft_target(self, batch: Batch, student: Outputs, followed: tuple[Outputs, ...]) -> dict[str, Tensor]:
        """What the student's own logits learn with the share alpha: from those it follows, else from the labels."""
        kl = [self._kl(*logits_pair(self.name, student, one)) for one in followed]
        nothing = torch.zeros((), device=batch.inputs.device)
        terms = {"soft_target": self.alpha * _mean(kl) if kl else nothing}
        if self.snapshots:  # both terms at every step: the harness keeps the mean of each over an epoch
            labels = F.cross_entropy(cast(Tensor, student.logits), batch.targets)
            terms["early_task"] = nothing if kl else self.alpha * labels
        return terms

    def _guided_terms(self, batch: Batch, student: Outputs, taught: tuple[Outputs, ...]) -> dict[str, Tensor]:
        shown = [modules(one) for modules, one in zip(self.teacher_modules, taught, strict=True)]
        features, logits = self.student_modules(student)
        terms = {"guided_feature": self.beta * _mean(_sum(map(unit_distance, features, others)) for others, _ in shown)}
        if not logits:  # a single stage, whose logits are the networks' own
            return terms
        terms["teacher_guided"] = _sum(F.cross_entropy(z, batch.targets) for _, soft in shown for z in soft)
        terms["guided_soft"] = self.alpha * _mean(_sum(map(self._kl, logits, soft)) for _, soft in shown)
        if self.guided_task:
            terms["guided_task"] = (1 - self.alpha) * _sum(F.cross_entropy(z, batch.targets) for z in logits)
        return terms

    def _kl(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kl_divergence(student, teacher, self.temperature)


def unit_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over images of |unit(student) - unit(teacher)|^2 of [N, D] features; no gradient to the teacher's."""
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
    more = [f"teachers is {teachers}"] * (teachers > 1) + [f"snapshots is {snapshots}"] * (snapshots > 0)
    if more and pretrained:
        raise MethodError(f"ekd: {more[0]} and pretrained is true, but a fixed teacher is one; set pretrained to false")
    if len(more) > 1:
        raise MethodError(f"ekd: {' and '.join(more)}; set teachers to 1 or snapshots to 0")
    if snapshots and guided:
        raise MethodError(
            f"ekd: snapshots is {snapshots} and guided is true, but copies are followed without modules; set guided to "
            "false or snapshots to 0"
        )
