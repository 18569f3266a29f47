"""The interface between a network, a batch and a distillation method.

Nothing here knows about datasets, recipes or the harness: a method needs torch and this file alone, so it can be
lifted into any training script.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

Item = TypeVar("Item")

VOID = 255
"""Label of pixels that count for nothing in the targets of segmentation."""


class MethodError(ValueError):
    """A method was asked for something it cannot do; the message says what and how to mend it."""


@dataclass
class Outputs:
    """What a network shows a method for one batch of N images.

    Attributes:
        logits: classification [N, K]; segmentation [N, K, h, w]; dense detectors one [N, A*K, H, W] per pyramid
            level (A anchors a location); two-stage detectors the RPN's objectness, one [N, A, H, W] per level.
        features: maps from shallow to deep, [N, C, H, W]; classifiers show the stem and every stage, segmenters also
            the map that their classifier reads, detectors their pyramid levels.
        pooled: [N, D], what the classifier reads.
        boxes: dense detectors one [N, A*4, H, W] of box deltas per level; two-stage detectors the RPN's.
        extra: whatever else a family has to show. Two-stage detectors: `proposals` (one [R_i, 4] per image, pixels),
            `roi_logits` [sum R_i, K + 1] with the background first, `roi_boxes` [sum R_i, B * 4] for B boxes a
            proposal (torchvision K + 1, detectron2 K, or 1 where classes share a box). FCOS:
            `centerness`, one [N, 1, H, W] per level. Classifiers: `pre_activations`, the stages (`features` without
            the stem) before their last ReLU. Segmenters with an auxiliary head: `aux_logits` [N, K, h', w'].
        losses: the network's own task losses, scalars by name, when it was given targets.
        others: an online teacher's: what further teachers show, in order (`Method.online_teachers`), or else the last
            copy of it, without gradients, once there is one (`Method.teacher_snapshots`).
    """

    logits: Tensor | tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    pooled: Tensor | None = None
    boxes: tuple[Tensor, ...] = ()
    extra: dict[str, Tensor | tuple[Tensor, ...]] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    others: tuple[Outputs, ...] = ()

    def float(self) -> Outputs:
        """The same outputs in float32; tensors that are float32 already are not copied."""
        return self._each(Tensor.float)

    def detach(self) -> Outputs:
        """The same outputs without their gradients."""
        return self._each(Tensor.detach)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Outputs:
        def apply(value: Any) -> Any:
            return tuple(map(change, value)) if isinstance(value, tuple) else change(value)

        return replace(
            self,
            logits=apply(self.logits),
            features=apply(self.features),
            pooled=None if self.pooled is None else apply(self.pooled),
            boxes=apply(self.boxes),
            extra={name: apply(value) for name, value in self.extra.items()},
            others=tuple(other._each(change) for other in self.others),
        )


@dataclass
class Batch:
    """What the data says about N samples.

    Attributes:
        inputs: normalised images [N, 3, H, W].
        targets: the task's; classification int64 [N], or float32 [N, K] where a recipe mixes images; segmentation
            int64 [N, H, W] at the size of the inputs, VOID where a pixel counts for nothing.
        index: int64 [N], each sample's position in the training set.
        full_inputs: what the teacher sees where the student sees less (low-resolution tables); else None.
    """

    inputs: Tensor
    targets: Any
    index: Tensor
    full_inputs: Tensor | None = None

    @property
    def teacher_inputs(self) -> Tensor:
        """What the teacher sees, [N, 3, H', W']."""
        return self.inputs if self.full_inputs is None else self.full_inputs


@dataclass(frozen=True)
class NetworkInfo:
    """The shapes behind `Outputs`.

    Attributes:
        channels: channels of each feature.
        strides: input pixels per feature pixel, for each feature.
        pooled_dim: length of `Outputs.pooled`.
        classifier: the final linear layer, where there is one.
        norms: the BatchNorm that ends in each of `pre_activations`, where there is one.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...] = ()
    pooled_dim: int | None = None
    classifier: nn.Module | None = None
    norms: tuple[nn.Module, ...] = ()


@dataclass(frozen=True)
class Setting:
    """What a method may know when it is built.

    Attributes:
        task: "classification", "detection" or "segmentation".
        num_classes: K.
        num_samples: training samples.
        student: the student's shapes.
        teacher: the teacher's.
        train_targets: classification: label of every training sample, int64 [num_samples]; None where unknown.
        steps_per_epoch: optimiser steps an epoch, for warm-ups that are counted in epochs; None where unknown.
    """

    task: str
    num_classes: int
    num_samples: int
    student: NetworkInfo
    teacher: NetworkInfo
    train_targets: Tensor | None = None
    steps_per_epoch: int | None = None


class Teacher(Protocol):
    """What `Method.prepare` may ask of a frozen teacher; `losses_from` is answered by detectors alone."""

    def __call__(self, inputs: Tensor) -> Outputs: ...

    def losses_from(self, features: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """The teacher's own task losses when its head reads `features` in place of its own."""
        ...


class Method(nn.Module, ABC):
    """A distillation method: `forward` turns two `Outputs` into named, weighted scalar losses.

    A run minimises `task_weight * task_loss + sum(method(...).values())`. Parameters of a method (alignment layers,
    generators) train together with the student unless they do not require gradients; none of them is kept in the
    saved student.
    """

    name: ClassVar[str]
    citation: ClassVar[str]
    tasks: ClassVar[frozenset[str]]
    needs_teacher: ClassVar[bool] = True
    min_classes: ClassVar[int] = 2
    prepared: ClassVar[tuple[str, ...]] = ()  # how names in the state dict begin that `prepare` fills
    teacher_mode: str = "frozen"
    task_weight: float = 1.0
    initial_epochs: int = 0

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting

    @classmethod
    def mode(cls, options: dict[str, Any]) -> str:
        """Which teacher these resolved options want: "none", "frozen", or "online" (trained beside the student)."""
        return cls.teacher_mode if cls.needs_teacher else "none"

    @classmethod
    def online_teachers(cls, options: dict[str, Any]) -> int:
        """How many online teachers these options want: one network, each time from initial weights of its own."""
        return 1

    @classmethod
    def teacher_snapshots(cls, options: dict[str, Any]) -> int:
        """How many copies of the one online teacher these options want to be taken, evenly spaced over training.

        A copy is frozen, answers in eval mode, and is shown in `Outputs.others` until the next one takes its place.
        """
        return 0

    @classmethod
    def bank_bytes(cls, setting: Setting, options: dict[str, Any]) -> int:
        """Memory that banks and queues of embeddings will take, in bytes; known before anything is built."""
        return 0

    @property
    def preparation(self) -> str:
        """Equal for methods whose `prepare` fills `prepared` with the very same values, which a cohort does once."""
        return self.name

    def prepare(self, teacher: Teacher, batches: Iterable[Batch]) -> None:
        """An earlier phase, such as training teacher-side modules; `batches` never ends.

        What it leaves in `prepared` may depend on the teacher, the batches, the global random state and `preparation`
        alone: what it trains is initialised in it.
        """
        for part in self.parts():
            part.prepare(teacher, batches)

    def initial(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Losses of the first `initial_epochs`, which come before the recipe's and know no task loss (AB, FSP)."""
        raise NotImplementedError(f"{type(self).__name__} has no initial phase")

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups of this method's own: "params", and "lr" (which then stays), "weight_decay", "momentum"."""
        return [group for part in self.parts() for group in part.parameter_groups()]

    def beside_teachers(self) -> list[nn.Module]:
        """What learns with each teacher and not with the student, in their order; of a sum one part's at most."""
        return [module for part in self.parts() for module in part.beside_teachers()]

    def learned(self) -> dict[str, float]:
        """Figures that training has led to and the paper reports, such as weights of losses; of a whole its parts'.

        A name that several parts use stands behind the part's: `ad/attention`. Waits for the device.
        """
        found = [(part.name, name, value) for part in self.parts() for name, value in part.learned().items()]
        uses = Counter(name for _, name, _ in found)
        return {name if uses[name] == 1 else f"{part}/{name}": value for part, name, value in found}

    def parts(self) -> list[Method]:
        """The methods that this one is made of."""
        inner = [m for child in self.children() for m in (child if isinstance(child, nn.ModuleList) else [child])]
        return [part for part in inner if isinstance(part, Method)]

    @abstractmethod
    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Named, weighted losses. A frozen teacher's outputs carry no gradient."""

    def __call__(self, batch: Batch, student: Outputs, teacher: Outputs, initial: bool = False) -> dict[str, Tensor]:
        # Ratios of norms and exponentials lose their meaning in half precision, so every term is float32.
        teacher = (teacher.detach() if self.teacher_mode == "frozen" else teacher).float()
        with torch.autocast(batch.inputs.device.type, enabled=False):
            if initial:
                return self.initial(batch, student.float(), teacher)
            terms: dict[str, Tensor] = super().__call__(batch, student.float(), teacher)
        return terms


class FeatureMethod(Method):
    """A method that compares the features of student and teacher level by level and sums over levels.

    In segmentation there is one level, the last feature: the map that the classifier reads, as CIRKD's code base
    compares it. Subclasses define `compare`; wrappers such as AKD call `maps`, `aligned`, `compare` and `other_terms`
    themselves.

    Args:
        setting: the run's shapes; student and teacher must show the same number of features.
        weight: factor on the sum.
        align: "conv1x1" puts a 1x1 convolution to the teacher's width on each student feature; None compares as is.
    """

    def __init__(self, setting: Setting, weight: float = 1.0, align: str | None = "conv1x1") -> None:
        super().__init__(setting)
        self.weight = weight
        student, teacher = self.maps(setting.student.channels), self.maps(setting.teacher.channels)
        if len(student) != len(teacher):
            raise MethodError(
                f"{self.name}: the student shows {len(student)} features and the teacher {len(teacher)}; "
                "choose a teacher and a student of the same family"
            )
        if align not in ("conv1x1", None):
            raise MethodError(f"{self.name}: align is {align!r}; use 'conv1x1' or null")
        if align is None and student != teacher:
            raise MethodError(f"{self.name}: align is null but widths differ ({student} and {teacher}); use 'conv1x1'")
        self.align = nn.ModuleList(
            nn.Conv2d(s, t, kernel_size=1) if align else nn.Identity() for s, t in zip(student, teacher, strict=True)
        )

    def maps(self, shown: tuple[Item, ...]) -> tuple[Item, ...]:
        """Those of a network's features, or of their channels, that are compared."""
        return shown[-1:] if self.setting.task == "segmentation" else shown

    def aligned(self, student: Outputs, level: int) -> Tensor:
        """The student's feature at `level` in the teacher's width, [N, C_teacher, H, W]."""
        aligned: Tensor = self.align[level](self.maps(student.features)[level])
        return aligned

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
        """Unweighted scalar loss between two maps of one shape, [N, C, H, W]."""

    def other_terms(self, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Named, weighted losses on anything but features, which a wrapper passes on as they are."""
        return {}

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        levels = enumerate(self.maps(teacher.features))
        total = torch.stack([self.compare(self.aligned(student, i), feature, i) for i, feature in levels]).sum()
        return {self.name: self.weight * total} | self.other_terms(student, teacher)
