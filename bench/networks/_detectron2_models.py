"""detectron2's detectors behind `Network`: what its modules return, and its own losses and detections.

Labels are 0..K-1, boxes (x1, y1, x2, y2) in pixels of the padded input. The harness's images, RGB around the mean of
ImageNet, become what the config expects (0..255 BGR, its own mean and deviation); zero padding stays zero.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from kdbench.methods.base import Batch, NetworkInfo, Outputs

from ..tasks.detection import MEAN, STD
from . import _detectron2_weights as weights
from .base import Network
from .detection import Target

NORMALISER = "loss_normalizer"  # dense models' running mean of the number of positives: a plain attribute


class Detector(Network):
    """A detector of detectron2: `forward` for training and distillation, `detect` for evaluation."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: Any, num_classes: int, levels: list[str]) -> None:
        super().__init__()
        self.model, self.num_classes, self.levels = model, num_classes, levels
        shapes = model.backbone.output_shape()
        self.info = NetworkInfo(
            channels=tuple(shapes[name].channels for name in levels),
            strides=tuple(shapes[name].stride for name in levels),
        )
        mean, deviation = model.pixel_mean.double().flatten(), model.pixel_std.double().flatten()  # BGR, 0..255
        flipped = torch.tensor([MEAN[::-1], STD[::-1]], dtype=torch.float64) * 255
        self.register_buffer("scale", (flipped[1] / deviation).float().view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((flipped[0] - mean) / deviation).float().view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor, targets: list[Target] | None = None) -> Outputs:
        maps = self.model.backbone(self.prepared(x))
        return self.read(tuple(maps[name] for name in self.levels), x, targets)

    def prepared(self, x: Tensor) -> Tensor:
        """The harness's normalised RGB images [N, 3, H, W] as this model was, or is to be, trained on."""
        return x.flip(1) * self.scale + self.shift

    def losses_from(self, features: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """The task losses when the head reads `features` in place of the pyramid's own."""
        return self.read(features, batch.inputs, batch.targets).losses

    def named_here(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of detectron2's own model under the names of this network."""
        return weights.named_here(self, state)

    @abstractmethod
    def read(self, features: tuple[Tensor, ...], x: Tensor, targets: list[Target] | None) -> Outputs:
        """What the head makes of a pyramid."""

    @abstractmethod
    def detect(self, x: Tensor, sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """Final detections of each image: boxes [n, 4], scores [n], labels [n]; `sizes` are heights and widths."""


class DenseDetector(Detector):
    """RetinaNet and FCOS. FCOS shows box deltas before the ReLU of their decoding, and `centerness` in `extra`.

    detectron2 divides their losses by a running mean of the number of positives, begun at 100 (FCOS 300). It is a
    buffer here, so that a resumed run goes on with it; in eval mode it is read and not moved.
    """

    normaliser: Tensor

    def __init__(self, model: Any, num_classes: int) -> None:
        super().__init__(model, num_classes, list(model.head_in_features))
        self.register_buffer("normaliser", torch.zeros((), dtype=torch.float64))  # 0: not begun

    def read(self, features: tuple[Tensor, ...], x: Tensor, targets: list[Target] | None) -> Outputs:
        logits, deltas, *centerness = self.model.head(list(features))
        outputs = Outputs(logits=tuple(logits), features=features, boxes=tuple(deltas))
        if centerness:
            outputs.extra["centerness"] = tuple(centerness[0])
        if targets is not None:
            own = outputs.float()
            # Compiled while it runs, the focal loss would round by how often this process has called it.
            plain = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
            with EventStorage(), torch.autocast(x.device.type, enabled=False), self._running_mean(), plain:
                truth = _instances(targets)
                outputs.losses = self.model.forward_training(None, list(own.features), _predictions(own), truth)
        return outputs

    def detect(self, x: Tensor, sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        own = self(x).float()
        # FCOS applies its sigmoid in place on views of what the head returned.
        predictions = [[level.clone() for level in levels] for levels in _predictions(own)]
        with torch.autocast(x.device.type, enabled=False):
            return _found(self.model.forward_inference(ImageList(x, sizes), list(own.features), predictions))

    @contextmanager
    def _running_mean(self) -> Iterator[None]:
        if self.normaliser > 0:
            setattr(self.model, NORMALISER, float(self.normaliser))
        elif hasattr(self.model, NORMALISER):
            delattr(self.model, NORMALISER)
        yield
        if self.training:
            self.normaliser.fill_(getattr(self.model, NORMALISER))


class TwoStageDetector(Detector):
    """Faster R-CNN and Cascade R-CNN with an FPN.

    `logits` and `boxes` are the RPN's. With targets, the RoI head reads proposals sampled against the truth and shows
    them in `extra`; a teacher reads the student's (`answer`), so that rows match. A cascade shows its first stage.
    """

    def __init__(self, model: Any, num_classes: int) -> None:
        super().__init__(model, num_classes, list(model.proposal_generator.in_features))
        self.cascade = isinstance(model.roi_heads.box_predictor, nn.ModuleList)

    def read(self, features: tuple[Tensor, ...], x: Tensor, targets: list[Target] | None) -> Outputs:
        objectness, deltas = self.model.proposal_generator.rpn_head(list(features))
        outputs = Outputs(logits=tuple(objectness), features=features, boxes=tuple(deltas))
        if targets is not None:
            heads, truth = self.model.roi_heads, _instances(targets)
            with EventStorage():
                with torch.autocast(x.device.type, enabled=False):
                    proposals, losses = self._propose(outputs.float(), truth)
                    sampled = heads.label_and_sample_proposals(proposals, truth)
                more = (truth,) if self.cascade else ()  # later stages match their boxes anew
                with _answering_with_losses(heads), _answers_of(self._first(heads.box_predictor)) as seen:
                    losses |= heads._forward_box(self._maps(features), sampled, *more)
            outputs.losses = {name: loss.float() for name, loss in losses.items()}
            outputs.extra = _shown(seen[0], [one.proposal_boxes for one in sampled])
        return outputs

    def answer(self, own: Outputs, student: Outputs, batch: Batch) -> Outputs:
        heads, boxes = self.model.roi_heads, [Boxes(one) for one in student.extra["proposals"]]
        maps = self._maps(own.features)
        pooled = heads.box_pooler([maps[name] for name in heads.box_in_features], boxes)
        answer = self._first(heads.box_predictor)(self._first(heads.box_head)(pooled))
        return Outputs(own.logits, own.features, None, own.boxes, _shown(answer, boxes))

    def detect(self, x: Tensor, sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        images = ImageList(x, sizes)
        features = self.model.backbone(self.prepared(x))
        with torch.autocast(x.device.type, enabled=False):
            maps = {name: level.float() for name, level in features.items()}
            proposals, _ = self.model.proposal_generator(images, maps, None)
            found, _ = self.model.roi_heads(images, maps, proposals, None)
        return _found(found)

    def _propose(self, outputs: Outputs, truth: list[Any]) -> tuple[list[Any], dict[str, Tensor]]:
        """Region proposals of each image and the RPN's losses, as its `forward` makes them of its head's answer."""
        rpn = self.model.proposal_generator
        anchors = rpn.anchor_generator(list(outputs.features))
        objectness = [level.permute(0, 2, 3, 1).flatten(1) for level in outputs.logits]
        deltas = [level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in outputs.boxes]
        labels, matched = rpn.label_and_sample_anchors(anchors, truth)
        losses = rpn.losses(anchors, objectness, labels, deltas, matched)
        return rpn.predict_proposals(anchors, objectness, deltas, [one.image_size for one in truth]), losses

    def _maps(self, features: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {name: level.float() for name, level in zip(self.levels, features, strict=True)}

    def _first(self, part: Any) -> Any:
        return part[0] if self.cascade else part


@contextmanager
def _answering_with_losses(heads: nn.Module) -> Iterator[None]:
    """RoI heads tell losses from detections by their own mode; that of the modules inside is left alone."""
    mode, heads.training = heads.training, True
    try:
        yield
    finally:
        heads.training = mode


@contextmanager
def _answers_of(module: nn.Module) -> Iterator[list[Any]]:
    """What a module returns while the context lasts."""
    seen: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def _shown(answer: tuple[Tensor, Tensor], proposals: list[Any]) -> dict[str, Tensor | tuple[Tensor, ...]]:
    """A RoI head's answer with the background first, where every method looks for it; detectron2's stands last."""
    logits, boxes = answer
    return {"proposals": tuple(p.tensor for p in proposals), "roi_logits": logits.roll(1, 1), "roi_boxes": boxes}


def _predictions(outputs: Outputs) -> list[list[Tensor]]:
    parts = [outputs.logits, outputs.boxes, outputs.extra.get("centerness", ())]
    return [list(part) for part in parts if part]


def _instances(targets: list[Target]) -> list[Any]:
    return [
        Instances((int(t["size"][0]), int(t["size"][1])), gt_boxes=Boxes(t["boxes"]), gt_classes=t["labels"])
        for t in targets
    ]


def _found(instances: list[Any]) -> list[dict[str, Tensor]]:
    """Detections clipped to their image, as detectron2's models end; dense ones leave that to this very last step."""
    clipped = [detector_postprocess(one, *one.image_size) for one in instances]
    return [{"boxes": one.pred_boxes.tensor, "scores": one.scores, "labels": one.pred_classes} for one in clipped]
