"""SFTN (our reading): a student-friendly teacher network, trained with branches that imitate the student."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._logits import kl_of_rows, require_positive
from .base import Batch, Method, MethodError, NetworkInfo, Outputs, Setting
from .functional import kl_divergence, logits_pair


class SFTN(Method):
    """Our reading of SFTN: a teacher trains with student branches on its stages, and a student learns from it.

        teacher: CE(z_t) + branch_weight * mean_i CE(b_i) + branch_soft_weight * mean_i KL(softmax(z_t) || softmax(b_i))
        student: task_weight * CE(z_s) + weight * T^2 * KL(softmax(z_t / T) || softmax(z_s / T)), z_t detached

    z [N, K] logits; b_i [N, K] are the logits of branch i on stage i of the teacher, i < m of m stages: a 1x1
    convolution to the student's width at stage i, the student's stages i + 1 .. m, spatial mean, linear layer. The
    teacher's gradient is that of its whole line, the KL included, which also reaches z_t.

    **The paper trains the teacher first**, and any method distills it then. Both steps as two runs: this method's run
    saves its teacher as `teacher.pt`, and `--teacher NETWORK=FILE` gives it to `kd` or another method. A run costs one
    training of the teacher, its branches and the student. The student of this run learns beside its teacher, which is
    our addition: its row is no number of the paper's method.

    No code was released. The three terms, branches of the teacher's stages with the student's
    capacity, and the means over branches are from summaries of the paper and from others' code for another task. The
    direction of the KL, its temperature of 1 and the weights are our choice, and so is a stage of a branch: one 3x3
    convolution with BN and ReLU of the student's width, as methods do not see the student's blocks.

    Args:
        setting: the run's shapes; both networks have the same number of stages.
        branch_weight: factor on the branches' cross-entropy.
        branch_soft_weight: factor on the KL between teacher and branches.
        weight: factor on the student's soft targets.
        task_weight: factor on the student's task loss.
        temperature: T of the student's soft targets.
    """

    name = "sftn"
    citation = (
        "D. Y. Park, M.-H. Cha, C. Jeong, D. S. Kim, B. Han. Learning student-friendly teacher networks for knowledge "
        "distillation (our reading: no code was released). NeurIPS 2021. https://arxiv.org/abs/2102.07650"
    )
    tasks = frozenset({"classification"})
    min_classes = 2
    teacher_mode = "online"

    def __init__(
        self,
        setting: Setting,
        branch_weight: float = 1.0,
        branch_soft_weight: float = 1.0,
        weight: float = 0.9,
        task_weight: float = 0.1,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(setting)
        require_positive(self.name, temperature=temperature)
        self.branch_weight, self.branch_soft_weight = branch_weight, branch_soft_weight
        self.weight, self.task_weight, self.temperature = weight, task_weight, temperature
        self.branches = StudentBranches(setting.student, setting.teacher, setting.num_classes)

    def teacher_side_modules(self) -> list[nn.Module]:
        return [self.branches]

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """The teacher's `teacher_task`, `branch_task` and `branch_soft`, and the student's `sftn`."""
        s, target = logits_pair(self.name, student, teacher)
        t = teacher.logits
        assert isinstance(t, Tensor)
        branches = self.branches(teacher)
        task = torch.stack([F.cross_entropy(logits, batch.targets) for logits in branches])
        soft = torch.stack([kl_of_rows(logits, t).mean() for logits in branches])
        return {
            "teacher_task": F.cross_entropy(t, batch.targets),
            "branch_task": self.branch_weight * task.mean(),
            "branch_soft": self.branch_soft_weight * soft.mean(),
            self.name: self.weight * kl_divergence(s, target, self.temperature),
        }


class StudentBranches(nn.Module):
    """A branch on each stage of the teacher except the last.

    Args:
        student: gives the branches' widths.
        teacher: gives the sizes of their maps.
        num_classes: K.
    """

    def __init__(self, student: NetworkInfo, teacher: NetworkInfo, num_classes: int) -> None:
        super().__init__()
        stages = [len(info.channels) - 1 for info in (student, teacher)]
        if stages[0] != stages[1] or stages[0] < 2:
            raise MethodError(
                f"sftn: the student has {stages[0]} stages and the teacher {stages[1]}; choose a teacher and a student "
                "with the same number, and at least two"
            )
        if len(teacher.strides) != len(teacher.channels):
            raise MethodError("sftn: the strides of the teacher's stages are unknown; choose another teacher")
        strides = [max(b // a, 1) for a, b in zip(teacher.strides, teacher.strides[1:], strict=False)]
        self.stages = nn.ModuleList(
            branch(teacher.channels[i], student.channels[i:], strides[i:], num_classes) for i in range(1, stages[0])
        )

    def forward(self, teacher: Outputs) -> list[Tensor]:
        """The logits of each branch, [N, K]."""
        return [module(feature) for module, feature in zip(self.stages, teacher.features[1:-1], strict=True)]


def branch(inputs: int, widths: tuple[int, ...], strides: list[int], num_classes: int) -> nn.Sequential:
    """[N, inputs, H, W] -> logits [N, K]; `widths` are the student's at this stage and all later, `strides` theirs."""
    layers = [*_convolution(inputs, widths[0], 1, 1)]
    for before, after, stride in zip(widths, widths[1:], strides, strict=False):
        layers += _convolution(before, after, 3, stride)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
