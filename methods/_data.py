"""What methods read: outputs of networks, batches, and the shapes of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

VIEWS = ("strong", "rotated_90", "rotated_180", "rotated_270")
"""Further inputs that a method may ask for (`Method.views`), each with a random crop of its own: "strong" has a flip of
its own, two random operations (RandAugment) and a gray square; the others have the flip of `Batch.inputs` and are
rotated counterclockwise by so many degrees."""

IGNORE_INDEX = 255
"""Label of ignored pixels in the targets of segmentation."""


@dataclass
class Outputs:
    """The outputs of one network for a batch of N images.

    Attributes:
        logits: classification [N, K]; segmentation [N, K, h, w]; dense detectors one [N, A*K, H, W] per pyramid
            level (A anchors per location); two-stage detectors the RPN's objectness, one [N, A, H, W] per level.
        features: maps from shallow to deep, [N, C, H, W]; classifiers: the stem and every stage; segmenters: also the
            map before the classifier; detectors: the pyramid levels.
        pooled: [N, D], the input of the classifier.
        boxes: dense detectors one [N, A*4, H, W] of box deltas per level; two-stage detectors the RPN's.
        extra: further outputs of a network family. Two-stage detectors: `proposals` (one [R_i, 4] per image, pixels),
            `roi_logits` [sum R_i, K + 1] with the background first, `roi_boxes` [sum R_i, B * 4] for B boxes a
            proposal (torchvision K + 1, detectron2 K, or 1 where classes share a box). FCOS:
            `centerness`, one [N, 1, H, W] per level. Classifiers: `last_map` [N, D, h, w], whose mean over space is
            `pooled`, or is so before a dropout; absent where `pooled` is another summary, as in a ViT.
            `pre_activations`, the stages (`features` without the stem) before their last ReLU. Segmenters with an
            auxiliary head: `aux_logits` [N, K, h', w'].
        losses: the network's task losses, scalars by name, if it was called with targets.
        others: with online teachers, on the first one's outputs: the outputs of the further teachers, in order
            (`Method.online_teachers`), or of the latest snapshot, without gradients, once there is one
            (`Method.teacher_snapshots`).
        views: the network's outputs for each of `Batch.views`.
    """

    logits: Tensor | tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    pooled: Tensor | None = None
    boxes: tuple[Tensor, ...] = ()
    extra: dict[str, Tensor | tuple[Tensor, ...]] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    others: tuple[Outputs, ...] = ()
    views: dict[str, Outputs] = field(default_factory=dict)

    def float(self) -> Outputs:
        """The same outputs in float32; tensors that are float32 already are not copied."""
        return self._map(Tensor.float)

    def detach(self) -> Outputs:
        """The same outputs without their gradients."""
        return self._map(Tensor.detach)

    def of(self, images: slice) -> Outputs:
        """The outputs of a classifier for some of the images."""
        return self._map(lambda value: value[images])

    def _map(self, function: Callable[[Tensor], Tensor]) -> Outputs:
        done: dict[int, Tensor] = {}  # a tensor that is an output twice, as the last map and a feature, is mapped once

        def apply(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(apply, value))
            if id(value) not in done:
                done[id(value)] = function(value)
            return done[id(value)]

        return replace(
            self,
            logits=apply(self.logits),
            features=apply(self.features),
            pooled=None if self.pooled is None else apply(self.pooled),
            boxes=apply(self.boxes),
            extra={name: apply(value) for name, value in self.extra.items()},
            others=tuple(outputs._map(function) for outputs in self.others),
            views={name: outputs._map(function) for name, outputs in self.views.items()},
        )


@dataclass
class Batch:
    """N samples: inputs, targets and their positions in the training set.

    Attributes:
        inputs: normalized images [N, 3, H, W].
        targets: classification int64 [N], or float32 [N, K] where a recipe mixes images; segmentation int64 [N, H, W]
            at the size of the inputs, IGNORE_INDEX at ignored pixels; detection one dict per image: `boxes` [n, 4] as
            x1, y1, x2, y2 in pixels of the inputs, `labels` int64 [n], and `size` [2], its height and width before the
            padding at the right and the bottom.
        index: int64 [N], each sample's position in the training set.
        full_inputs: the teacher's inputs where the student's have a lower resolution; else None.
        views: the same samples in further views, by their names in VIEWS, those that the method asks for.
    """

    inputs: Tensor
    targets: Any
    index: Tensor
    full_inputs: Tensor | None = None
    views: dict[str, Batch] = field(default_factory=dict)

    @property
    def teacher_inputs(self) -> Tensor:
        """The teacher's inputs, [N, 3, H', W']."""
        return self.inputs if self.full_inputs is None else self.full_inputs


@dataclass(frozen=True)
class NetworkInfo:
    """Shapes of a network's `Outputs`.

    Attributes:
        channels: channels of each feature.
        strides: input pixels per feature pixel, for each feature.
        pooled_dim: length of `Outputs.pooled`.
        classifier: the final linear layer; None if there is none.
        norms: the BatchNorm whose output is each of `pre_activations`; empty if there is none.
        final_norm: the norm that follows the last stage and belongs to none (Wide ResNets); None if there is none.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...] = ()
    pooled_dim: int | None = None
    classifier: nn.Module | None = None
    norms: tuple[nn.Module, ...] = ()
    final_norm: nn.Module | None = None


@dataclass(frozen=True)
class Setting:
    """The task and the network shapes that a method is built for.

    Attributes:
        task: "classification", "detection" or "segmentation".
        num_classes: K.
        num_samples: training samples.
        student: shapes of the student.
        teacher: shapes of the teacher.
        train_targets: classification: label of every training sample, int64 [num_samples]; None if unknown.
        steps_per_epoch: optimizer steps per epoch; None if unknown.
        epochs: of the whole training, for schedules; None if unknown.
        batch_size: images that the method gets at once, those of one process and micro-batch; None if unknown, or if
            batches have different sizes.
        new_student: makes a network as the student is, with other initial weights; called with inputs it returns
            `Outputs`. None where it is unknown how.
    """

    task: str
    num_classes: int
    num_samples: int
    student: NetworkInfo
    teacher: NetworkInfo
    train_targets: Tensor | None = None
    steps_per_epoch: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    new_student: Callable[[], nn.Module] | None = None
