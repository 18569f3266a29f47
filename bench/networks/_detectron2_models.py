"""detectron2's detectors as `Network`s: the outputs of its modules, its losses and its detections.

Labels are 0..K-1, boxes (x1, y1, x2, y2) in pixels of the padded input. Images normalized to RGB with ImageNet's mean
and deviation are converted to the config's format (BGR of 0..255 with its mean and deviation); zero padding stays zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from kdbench.methods.base import Batch, NetworkInfo, Outputs

from . import _detectron2_weights as weights
from .base import MEAN, STD, Detector, Target, image_sizes

NORMALIZER = "loss_normalizer"  # the attribute of dense models that holds the running mean of the number of positives


class Detectron2Detector(Detector):
    """A detector of detectron2 in `model`, under its state-dict names.

    Args:
        model: detectron2's `GeneralizedRCNN`, `RetinaNet` or `FCOS`.
        num_classes: K.
        levels: the names of the pyramid levels that the head reads, from fine to coarse.
    """

    backbone_prefixes = ("model.backbone.bottom_up.",)
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
        bgr = torch.tensor([MEAN[::-1], STD[::-1]], dtype=torch.float64) * 255
        self.register_buffer("scale", (bgr[1] / deviation).float().view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((bgr[0] - mean) / deviation).float().view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor, targets: list[Target] | None = None) -> Outputs:
        maps = self.model.backbone(self.prepared(x))
        return self.forward_head(tuple(maps[name] for name in self.levels), x, targets)

    def prepared(self, x: Tensor) -> Tensor:
        """Normalized RGB images [N, 3, H, W] -> the images in the format of this model's config."""
        return x.flip(1) * self.scale + self.shift

    def convert_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights.convert_state_dict(self, state)


class DenseDetector(Detectron2Detector):
    """RetinaNet and FCOS. `boxes` of FCOS are box deltas before the ReLU of their decoding, `centerness` is in `extra`.

    detectron2 divides their losses by a running mean of the number of positives, which starts at 100 (FCOS 300). It is
    a buffer here, so that a resumed run continues with it; in eval mode it is read but not updated.
    """

    normaliser: Tensor  # spelled as in the checkpoints that hold it

    def __init__(self, model: Any, num_classes: int) -> None:
        super().__init__(model, num_classes, list(model.head_in_features))
        self.register_buffer("normaliser", torch.zeros((), dtype=torch.float64))  # 0: not started

    def forward_head(self, features: tuple[Tensor, ...], x: Tensor, targets: list[Target] | None) -> Outputs:
        logits, deltas, *centerness = self.model.head(list(features))
        outputs = Outputs(logits=tuple(logits), features=features, boxes=tuple(deltas))
        if centerness:
            outputs.extra["centerness"] = tuple(centerness[0])
        if targets is not None:
            exact = outputs.float()
            # Compiled while it runs, the focal loss would round by how often this process has called it.
            plain = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
            with EventStorage(), torch.autocast(x.device.type, enabled=False), self._running_mean(), plain:
                truth = _instances(targets)
                outputs.losses = self.model.forward_training(None, list(exact.features), _predictions(exact), truth)
        return outputs

    def detect(self, x: Tensor, sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        outputs = self(x).float()
        # FCOS applies its sigmoid in place on views of what the head returned.
        predictions = [[level.clone() for level in levels] for levels in _predictions(outputs)]
        with torch.autocast(x.device.type, enabled=False):
            return _detections(self.model.forward_inference(ImageList(x, sizes), list(outputs.features), predictions))

    @contextmanager
    def _running_mean(self) -> Iterator[None]:
        if self.normaliser > 0:
            setattr(self.model, NORMALIZER, float(self.normaliser))
        elif hasattr(self.model, NORMALIZER):
            delattr(self.model, NORMALIZER)
        yield
        if self.training:
            self.normaliser.fill_(getattr(self.model, NORMALIZER))


class TwoStageDetector(Detectron2Detector):
    """Faster R-CNN and Cascade R-CNN with an FPN.

    `logits` and `boxes` are the RPN's. With targets, the RoI head reads proposals sampled against the truth, which are
    returned in `extra` with its outputs; a teacher's reads the student's proposals (`outputs_for_student`), so that
    rows match. Of a cascade, `extra` holds the first stage.
    """

    def __init__(self, model: Any, num_classes: int) -> None:
        super().__init__(model, num_classes, list(model.proposal_generator.in_features))
        self.cascade = isinstance(model.roi_heads.box_predictor, nn.ModuleList)

    def forward_head(self, features: tuple[Tensor, ...], x: Tensor, targets: list[Target] | None) -> Outputs:
        objectness, deltas = self.model.proposal_generator.rpn_head(list(features))
        outputs = Outputs(logits=tuple(objectness), features=features, boxes=tuple(deltas))
        if targets is not None:
            heads, truth = self.model.roi_heads, _instances(targets)
            with EventStorage():
                with torch.autocast(x.device.type, enabled=False):
                    proposals, losses = self._propose(outputs.float(), truth)
                    sampled = heads.label_and_sample_proposals(proposals, truth)
                more = (truth,) if self.cascade else ()  # later stages match their boxes again
                with _training_losses(heads), _outputs_of(self._first(heads.box_predictor)) as returned:
                    losses |= heads._forward_box(self._maps(features), sampled, *more)
            outputs.losses = {name: loss.float() for name, loss in losses.items()}
            outputs.extra = _roi_outputs(returned[0], [image.proposal_boxes for image in sampled])
        return outputs

    def outputs_for_student(self, outputs: Outputs, student: Outputs, batch: Batch) -> Outputs:
        heads, boxes = self.model.roi_heads, [Boxes(proposals) for proposals in student.extra["proposals"]]
        maps = self._maps(outputs.features)
        pooled = heads.box_pooler([maps[name] for name in heads.box_in_features], boxes)
        predicted = self._first(heads.box_predictor)(self._first(heads.box_head)(pooled))
        return Outputs(outputs.logits, outputs.features, None, outputs.boxes, _roi_outputs(predicted, boxes))

    def detect(self, x: Tensor, sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        images = ImageList(x, sizes)
        features = self.model.backbone(self.prepared(x))
        with torch.autocast(x.device.type, enabled=False):
            maps = {name: level.float() for name, level in features.items()}
            proposals, _ = self.model.proposal_generator(images, maps, None)
            instances, _ = self.model.roi_heads(images, maps, proposals, None)
        return _detections(instances)

    def _propose(self, outputs: Outputs, truth: list[Any]) -> tuple[list[Any], dict[str, Tensor]]:
        """Region proposals of each image and the RPN's losses, computed from its head's outputs as in its `forward`."""
        rpn = self.model.proposal_generator
        anchors = rpn.anchor_generator(list(outputs.features))
        objectness = [level.permute(0, 2, 3, 1).flatten(1) for level in outputs.logits]
        deltas = [level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in outputs.boxes]
        labels, matched = rpn.label_and_sample_anchors(anchors, truth)
        losses = rpn.losses(anchors, objectness, labels, deltas, matched)
        return rpn.predict_proposals(anchors, objectness, deltas, [image.image_size for image in truth]), losses

    def _maps(self, features: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {name: level.float() for name, level in zip(self.levels, features, strict=True)}

    def _first(self, part: Any) -> Any:
        return part[0] if self.cascade else part


@contextmanager
def _training_losses(heads: nn.Module) -> Iterator[None]:
    """Lets RoI heads return losses, which they do in training mode; the modes of the modules inside stay."""
    mode, heads.training = heads.training, True
    try:
        yield
    finally:
        heads.training = mode


@contextmanager
def _outputs_of(module: nn.Module) -> Iterator[list[Any]]:
    """Collects what a module returns inside the context."""
    returned: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: returned.append(output))
    try:
        yield returned
    finally:
        handle.remove()


def _roi_outputs(predicted: tuple[Tensor, Tensor], proposals: list[Any]) -> dict[str, Tensor | tuple[Tensor, ...]]:
    """`Outputs.extra` of a RoI head, with the background class first; detectron2 has it last."""
    logits, boxes = predicted
    return {"proposals": tuple(p.tensor for p in proposals), "roi_logits": logits.roll(1, 1), "roi_boxes": boxes}


def _predictions(outputs: Outputs) -> list[list[Tensor]]:
    parts = [outputs.logits, outputs.boxes, outputs.extra.get("centerness", ())]
    return [list(part) for part in parts if part]


def _instances(targets: list[Target]) -> list[Any]:
    return [
        Instances(size, gt_boxes=Boxes(target["boxes"]), gt_classes=target["labels"])
        for size, target in zip(image_sizes(targets), targets, strict=True)
    ]


def _detections(instances: list[Any]) -> list[dict[str, Tensor]]:
    """Detections clipped to their image, the last step of detectron2's models (dense ones clip nowhere else)."""
    clipped = [detector_postprocess(image, *image.image_size) for image in instances]
    return [{"boxes": i.pred_boxes.tensor, "scores": i.scores, "labels": i.pred_classes} for i in clipped]
