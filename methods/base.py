"""The interface between a network, a batch and a distillation method.

Independent of data sets, recipes and the rest of the harness: methods need torch and the files of this folder alone, so
the folder can be copied into any training script.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ._data import IGNORE_INDEX, VIEWS, Batch, NetworkInfo, Outputs, Setting
from ._errors import MethodError

__all__ = [
    "IGNORE_INDEX",
    "VIEWS",
    "Batch",
    "FeatureMethod",
    "Method",
    "MethodError",
    "NetworkInfo",
    "Outputs",
    "Setting",
    "StudentHead",
    "Teacher",
]

Item = TypeVar("Item")

ALIGNMENTS = ("conv1x1", "conv1x1_no_bias", "conv1x1_if_unequal", None)
"""Values of the option `align` of methods that compare features."""


class Teacher(Protocol):
    """The frozen teacher that `Method.prepare` receives; only detectors implement `losses_from`."""

    def __call__(self, inputs: Tensor) -> Outputs: ...

    def losses_from(self, features: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """The teacher's task losses when its head reads `features` instead of the teacher's feature maps."""
        ...


class StudentHead(nn.Module, ABC):
    """What a method puts in place of the student's classifier, in training and at inference; saved with the student.

    Attributes:
        method: name of the method, which finds the class again (`Method.head_class`).
        arguments: plain numbers that the class is made with when a saved student is read.
        classifier: its last layer.
    """

    method: ClassVar[str]
    arguments: dict[str, Any]
    classifier: nn.Linear

    @abstractmethod
    def forward(self, outputs: Outputs) -> Outputs:
        """The student's outputs, with the head's `logits`, `pooled` and last map."""

    def __call__(self, outputs: Outputs) -> Outputs:
        result: Outputs = super().__call__(outputs)
        return result


class Method(nn.Module, ABC):
    """A distillation method: `forward` turns two `Outputs` into named, weighted scalar losses.

    A run minimizes `task_weight * task_loss + sum(method(...).values())`. Parameters of a method (alignment layers,
    generators) train together with the student unless they do not require gradients; the saved student contains none
    of them.

    Attributes:
        name: name of the file.
        citation: authors, title, venue, year and URL.
        tasks: the tasks that the method supports.
        needs_teacher: False for training without a teacher, and then without `prepare` and `initial_epochs`.
        min_classes: least number of classes; 2 for methods that compare classes.
        one_class_per_image: a classifier's targets are classes, and no shares of classes as mixed images have them.
        views: further views of every batch that the method reads, of VIEWS; for small images, which are held as arrays.
        joint_views: the student sees the batch and its views in one forward, so that BatchNorm counts all images; else
            in one after the other.
        prepared_prefixes: prefixes of the state dict entries that `prepare` fills.
        teacher_mode: "frozen" or "online" (trained with the student).
        teacher_batch_statistics: the frozen teacher's BatchNorm normalizes by the batch, as in train mode; no tensor of
            the teacher changes by that, and its dropout stays off.
        task_weight: factor on the task loss.
        student_bias: False if the student's classifier has none: its bias is 0 and does not train.
        gradients: "summed", or "separate" where the optimizer gets those of the task loss and of all other terms apart.
        momentum_delta: with separate gradients, by how much the momentum of the task's is below the recipe's, and that
            of the others' above it.
        head_class: class of the method's `student_head`; None for a method without one.
        initial_epochs: epochs of the initial phase, before those of the recipe.
        inherits_head: a detector starts with the neck and head of its frozen teacher, where it has tensors of the same
            names and shapes; all others start as they do.
        epoch: finished epochs, with the fraction of the current one: 1.5 in the middle of the second epoch. The
            training loop sets it before every optimizer step, also after a resume; it is 0.0 in `prepare` and in the
            `initial_epochs`. Schedules and warm-ups read it, with `setting.epochs` where they end with the training.
        step: finished optimizer steps of the training; set with `epoch`. A forward is no step: with gradient
            accumulation (`accumulate` of a recipe) a step has several.
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    tasks: ClassVar[frozenset[str]]
    needs_teacher: ClassVar[bool] = True
    min_classes: ClassVar[int] = 1
    one_class_per_image: ClassVar[bool] = False
    views: ClassVar[tuple[str, ...]] = ()
    joint_views: ClassVar[bool] = False
    prepared_prefixes: ClassVar[tuple[str, ...]] = ()
    head_class: ClassVar[type[StudentHead] | None] = None
    teacher_mode: str = "frozen"
    teacher_batch_statistics: bool = False
    task_weight: float = 1.0
    student_bias: bool = True
    gradients: str = "summed"
    momentum_delta: float = 0.0
    initial_epochs: int = 0
    inherits_head: bool = False
    epoch: float = 0.0
    step: int = 0

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting

    def set_progress(self, step: int, steps_per_epoch: int) -> None:
        """Set `step` and `epoch` of this method and of every method inside it, as a training loop does before a step.

        Args:
            step: finished optimizer steps.
            steps_per_epoch: of the training.
        """
        for module in self.modules():
            if isinstance(module, Method):
                module.step, module.epoch = step, step / steps_per_epoch

    @classmethod
    def mode(cls, options: dict[str, Any]) -> str:
        """The kind of teacher for these resolved options: "none", "frozen" or "online" (trained with the student)."""
        return cls.teacher_mode if cls.needs_teacher else "none"

    @classmethod
    def online_teachers(cls, options: dict[str, Any]) -> int:
        """Number of online teachers for these options: one architecture, each with different initial weights."""
        return 1

    @classmethod
    def teacher_snapshots(cls, options: dict[str, Any]) -> int:
        """Number of snapshots of the online teacher for these options, evenly spaced over training.

        A snapshot is frozen, runs in eval mode, and its outputs are in `Outputs.others` until the next snapshot.
        """
        return 0

    @classmethod
    def bank_bytes(cls, setting: Setting, options: dict[str, Any]) -> int:
        """Memory of banks and queues of embeddings, in bytes; known before anything is built."""
        return 0

    @property
    def preparation_key(self) -> str:
        """Equal for methods whose `prepare` fills `prepared_prefixes` with the same values; a cohort runs it once."""
        return self.name

    def prepare(self, teacher: Teacher, batches: Iterable[Batch]) -> None:
        """A phase before the training of the student, such as training teacher-side modules; `batches` is endless.

        The values of `prepared_prefixes` may depend on the teacher, the batches, the global random state and
        `preparation_key` alone, so `prepare` also initializes the modules that it trains.
        """
        for method in self.submethods():
            method.prepare(teacher, batches)

    def initial(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Losses of the `initial_epochs`, which precede the recipe's epochs and have no task loss (AB, FSP)."""
        raise NotImplementedError(f"{type(self).__name__} has no initial phase")

    def fixed_in_initial_phase(self) -> list[nn.Module]:
        """Modules of the student that stay as they are in the `initial_epochs`: in eval mode and not trained."""
        return [module for method in self.submethods() for module in method.fixed_in_initial_phase()]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters that do not train as the student's do; all others of the method join the recipe's optimizer.

        Each group is a dict of "params", a list of parameters, and of settings: "lr" (constant), "weight_decay" and
        "momentum" in the recipe's optimizer. With "optimizer" ("adam", "adamw" or "sgd") the group has an optimizer of
        its own, and every other key is a setting of torch's class of that name, such as "betas". The optimizers step
        together, after one backward pass; their state is in the checkpoint.
        """
        return [group for method in self.submethods() for group in method.parameter_groups()]

    def clip_norms(self) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters whose gradients are clipped together before each step, with the largest norm of these.

        The `clip_norm` of a recipe acts on all parameters, after this.
        """
        return [limit for method in self.submethods() for limit in method.clip_norms()]

    def teacher_side_modules(self) -> list[nn.Module]:
        """Modules that train with an online teacher, one per teacher, in order; at most one submethod has any."""
        return [module for method in self.submethods() for module in method.teacher_side_modules()]

    def student_head(self) -> StudentHead | None:
        """The head that takes the place of the student's classifier: evaluated, saved and deployed with the student.

        Raises:
            MethodError: several submethods have one.
        """
        heads = [head for method in self.submethods() if (head := method.student_head()) is not None]
        if len(heads) > 1:
            raise MethodError("two methods of the sum replace the student's classifier; leave one out")
        return heads[0] if heads else None

    def learned(self) -> dict[str, float]:
        """Learned values that the paper reports, such as loss weights, by name; includes those of submethods.

        A name that several submethods use gets the submethod's name as prefix: `ad/attention`. Waits for the device.
        """
        values = [
            (method.name, name, value) for method in self.submethods() for name, value in method.learned().items()
        ]
        uses = Counter(name for _, name, _ in values)
        return {name if uses[name] == 1 else f"{method}/{name}": value for method, name, value in values}

    def submethods(self) -> list[Method]:
        """The methods that this one is composed of: summands, or the base of a wrapper."""
        modules = [m for child in self.children() for m in (child if isinstance(child, nn.ModuleList) else [child])]
        return [module for module in modules if isinstance(module, Method)]

    @abstractmethod
    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Named, weighted losses.

        Args:
            batch: of N images.
            student: the student's outputs.
            teacher: the teacher's, without gradients if it is frozen; without a teacher the student's, likewise.
        """

    def __call__(self, batch: Batch, student: Outputs, teacher: Outputs, initial: bool = False) -> dict[str, Tensor]:
        # Ratios of norms and exponentials are too inexact in half precision, so every term is float32.
        teacher = (teacher.detach() if self.teacher_mode == "frozen" else teacher).float()
        with torch.autocast(batch.inputs.device.type, enabled=False):
            if initial:
                return self.initial(batch, student.float(), teacher)
            terms: dict[str, Tensor] = super().__call__(batch, student.float(), teacher)
        return terms


class FeatureMethod(Method):
    """A method that compares the features of student and teacher level by level and sums over levels.

    In segmentation there is one level, the last feature: the map that the classifier reads, as CIRKD's code base
    compares it. Subclasses define `compare`; wrappers such as AKD call `maps`, `aligned`, `compare` and
    `non_feature_terms` themselves.

    Args:
        setting: the run's shapes; student and teacher must have the same number of features.
        weight: factor on the sum.
        align: "conv1x1" puts a 1x1 convolution to the teacher's width on each student feature, "conv1x1_no_bias" one
            without bias, "conv1x1_if_unequal" one where the widths differ; None adds no layer.
    """

    def __init__(self, setting: Setting, weight: float = 1.0, align: str | None = "conv1x1") -> None:
        super().__init__(setting)
        self.weight = weight
        student, teacher = self.maps(setting.student.channels), self.maps(setting.teacher.channels)
        if len(student) != len(teacher):
            raise MethodError(
                f"{self.name}: the student has {len(student)} features and the teacher {len(teacher)}; "
                "choose a teacher and a student of the same family"
            )
        if align not in ALIGNMENTS:
            raise MethodError(
                f"{self.name}: align is {align!r}; use one of {', '.join(map(repr, ALIGNMENTS[:-1]))} or null"
            )
        if align is None and student != teacher:
            raise MethodError(f"{self.name}: align is null but widths differ ({student} and {teacher}); use 'conv1x1'")
        self.align = nn.ModuleList(
            nn.Identity()
            if align is None or (align == "conv1x1_if_unequal" and s == t)
            else nn.Conv2d(s, t, kernel_size=1, bias=align != "conv1x1_no_bias")
            for s, t in zip(student, teacher, strict=True)
        )

    def maps(self, features: tuple[Item, ...]) -> tuple[Item, ...]:
        """The items that belong to compared levels, of one item (map or channels) for each feature of a network."""
        return features[-1:] if self.setting.task == "segmentation" else features

    def aligned(self, student: Outputs, level: int) -> Tensor:
        """The student's feature at `level` in the teacher's width, [N, C_teacher, H, W]."""
        aligned: Tensor = self.align[level](self.maps(student.features)[level])
        return aligned

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
        """Unweighted scalar loss between two maps of one shape, [N, C, H, W]."""

    def non_feature_terms(self, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Named, weighted losses on outputs that are not features; wrappers add them unchanged."""
        return {}

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        levels = enumerate(self.maps(teacher.features))
        total = torch.stack([self.compare(self.aligned(student, i), feature, i) for i, feature in levels]).sum()
        return {self.name: self.weight * total} | self.non_feature_terms(student, teacher)
