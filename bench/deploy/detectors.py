"""torchvision's detectors as modules of tensors alone, for tracing and export.

torchvision's own postprocessing keeps what exceeds a threshold, so that the shapes of its tensors depend on the image
and torch.export cannot follow it. Here every step has as many rows as it can have at most, and rows that are no
detection have the score 0; what is kept is the same. Non-maximum suppression of all classes is one call on boxes that
are moved apart, in two directions so that float32 loses little of them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import nms, roi_align

from ..networks._torchvision_detectors import (
    DenseDetector,
    FasterRCNNDetector,
    FCOSDetector,
    TorchvisionDetector,
)

CANDIDATES = 4000
"""Boxes of a two-stage detector that compete in the last suppression: torchvision lets all above a threshold."""


class PlainDetector(nn.Module):
    """A detector for one image: [1, 3, H, W] and its size -> boxes [D, 4], scores [D] and labels [D], best first.

    H and W are multiples of 32; `size`, int64 [2], is the height and width of the image without padding at the right
    and bottom. Boxes are (x1, y1, x2, y2) in pixels of the input, labels 0..K-1. Rows with the score 0 are no
    detections; D is the most that an image has.
    """

    outputs = ("boxes", "scores", "labels")

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detections of an image."""


class PlainDense(PlainDetector):
    """RetinaNet or FCOS."""

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detections of an image."""
        network, model = self.network, self.network.model
        outputs = network(image)
        anchors = _anchors(model.anchor_generator, image, outputs.features)
        levels = network.flat(outputs)
        logits, regressions = levels["cls_logits"], levels["bbox_regression"]
        centerness = levels.get("bbox_ctrness", [None] * len(logits))
        kept = []
        for classes, regression, around, center in zip(logits, regressions, anchors, centerness, strict=True):
            scores = torch.sigmoid(classes[0])
            if center is not None:
                scores = torch.sqrt(scores * torch.sigmoid(center[0]))
            scores, index = _top(scores.flatten(), model.topk_candidates)
            place = torch.div(index, network.num_classes, rounding_mode="floor")
            decode = model.box_coder.decode if isinstance(network, FCOSDetector) else model.box_coder.decode_single
            boxes = _clipped(decode(regression[0][place], around[place]), size)
            kept.append((boxes, scores, index % network.num_classes))
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*kept, strict=True))
        scores = torch.where(scores > model.score_thresh, scores, torch.zeros_like(scores))
        return _suppressed(boxes, scores, labels, network.num_classes, model.nms_thresh, model.detections_per_img)


class PlainFasterRCNN(PlainDetector):
    """Faster R-CNN."""

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detections of an image."""
        network, model = self.network, self.network.model
        outputs = network(image)
        proposals, real = self._proposals(outputs, image, size)
        pooled = self._pooled(outputs.features, proposals)
        classes, regression = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
        columns = network.num_classes + 1
        boxes = model.roi_heads.box_coder.decode_single(regression, proposals).view(-1, columns, 4)
        boxes = _clipped(boxes, size)[:, 1:].reshape(-1, 4)
        scores = torch.where(real[:, None], torch.softmax(classes, -1)[:, 1:], 0.0).reshape(-1)
        fits = _is_larger(boxes, 1e-2) & (scores > model.roi_heads.score_thresh)
        scores, index = _top(torch.where(fits, scores, 0.0), CANDIDATES)
        heads, labels = model.roi_heads, index % network.num_classes
        return _suppressed(
            boxes[index], scores, labels, network.num_classes, heads.nms_thresh, heads.detections_per_img
        )

    def _proposals(self, outputs: Any, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Regions [P, 4], and whether each is one, bool [P]."""
        rpn = self.network.model.rpn
        anchors = _anchors(rpn.anchor_generator, image, outputs.features)
        kept = []
        for level, (logits, deltas, around) in enumerate(zip(outputs.logits, outputs.boxes, anchors, strict=True)):
            objectness, codes = concat_box_prediction_layers([logits], [deltas])
            scores, index = _top(objectness.flatten().sigmoid(), rpn.pre_nms_top_n())
            boxes = _clipped(rpn.box_coder.decode_single(codes[index], around[index]), size)
            scores = torch.where(_is_larger(boxes, rpn.min_size), scores, 0.0)
            kept.append((boxes, scores, torch.full_like(index, level)))
        boxes, scores, levels = (torch.cat(parts) for parts in zip(*kept, strict=True))
        boxes, scores, _ = _suppressed(boxes, scores, levels, len(kept), rpn.nms_thresh, rpn.post_nms_top_n())
        return boxes, scores > 0

    def _pooled(self, features: tuple[Tensor, ...], proposals: Tensor) -> Tensor:
        """What the head reads of each proposal, from the level that its size belongs to."""
        pool = self.network.model.roi_heads.box_roi_pool
        count = len(pool.featmap_names)
        strides = self.network.info.strides[:count]
        area = (proposals[:, 2] - proposals[:, 0]) * (proposals[:, 3] - proposals[:, 1])
        wanted = torch.floor(pool.canonical_level + torch.log2(area.sqrt() / pool.canonical_scale) + 1e-6)
        first = round(math.log2(strides[0]))
        level = wanted.clamp(first, first + count - 1)[:, None, None, None]
        rois = torch.cat([torch.zeros_like(proposals[:, :1]), proposals], 1)
        values = [
            roi_align(feature, rois, pool.output_size, 1 / stride, pool.sampling_ratio)
            for feature, stride in zip(features[:count], strides, strict=True)
        ]
        pooled: Tensor = values[0]
        for i, value in enumerate(values[1:], 1):
            pooled = torch.where(level == first + i, value, pooled)
        return pooled


def plain_detector(network: TorchvisionDetector) -> PlainDetector:
    """The detector of tensors alone that detects what `network.detect` does."""
    if isinstance(network, FasterRCNNDetector):
        return PlainFasterRCNN(network)
    assert isinstance(network, DenseDetector)
    return PlainDense(network)


def _anchors(generator: Any, image: Tensor, features: tuple[Tensor, ...]) -> list[Tensor]:
    """The anchors of each level, [H*W*A, 4]: torchvision's, whose strides are the image's size over the level's."""
    generator.set_cell_anchors(image.dtype, image.device)
    anchors = []
    for cell, feature in zip(generator.cell_anchors, features, strict=True):
        height, width = feature.shape[-2:]
        y = torch.arange(height, device=image.device, dtype=torch.int64) * (image.shape[-2] // height)
        x = torch.arange(width, device=image.device, dtype=torch.int64) * (image.shape[-1] // width)
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        shifts = torch.stack((columns, rows, columns, rows), dim=-1).reshape(-1, 1, 4)
        anchors.append((shifts + cell[None]).reshape(-1, 4))
    return anchors


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best of some scores and their positions; score 0 and position 0 where there are fewer."""
    padded = F.pad(scores, (0, count))
    positions = F.pad(torch.arange(scores.shape[0], device=scores.device), (0, count))
    best = torch.topk(padded, count)
    return best.values, positions[best.indices]


def _suppressed(
    boxes: Tensor, scores: Tensor, groups: Tensor, count: int, threshold: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The `most` best boxes, scores and groups after non-maximum suppression within each of `count` groups."""
    side = math.ceil(math.sqrt(count))
    step = boxes.max() + 1
    row = torch.div(groups, side, rounding_mode="floor")
    apart = torch.stack((groups % side, row, groups % side, row), dim=-1) * step
    kept = nms(boxes + apart, scores, threshold)
    is_kept = torch.zeros_like(scores).index_fill(0, kept, 1.0)
    best = torch.topk(scores * is_kept, most)
    return boxes[best.indices], best.values, groups[best.indices]


def _clipped(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes [..., 4] within an image of this height and width."""
    limits = torch.stack((size[1], size[0], size[1], size[0])).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limits)


def _is_larger(boxes: Tensor, side: float) -> Tensor:
    """Whether both sides of boxes [N, 4] have this length at least."""
    return (boxes[:, 2] - boxes[:, 0] >= side) & (boxes[:, 3] - boxes[:, 1] >= side)
