"""torchvision's detectors as `Network`s: RetinaNet, FCOS and Faster R-CNN.

`logits` and `boxes` are what the head computes before any decoding. Boxes are (x1, y1, x2, y2) in pixels of the padded
input, labels 0..K-1. torchvision's resizing and normalization are bypassed: the task does both, once for teacher and
students.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign

from kdbench.methods.base import Batch, NetworkInfo, Outputs

from ._backbones import Pyramid
from ._initialization import he_init, prior_init
from .base import Detector, Target, image_sizes

PYRAMID = re.compile(r"^backbone\.(?=body\.|fpn\.)")


class TorchvisionDetector(Detector):
    """A detector of torchvision in `model`, under its state-dict names."""

    model: Any
    backbone_prefixes = ("model.backbone.pyramid.body.", "model.backbone.stem.", "model.backbone.stages.")

    def __init__(self, pyramid: Pyramid, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.info = NetworkInfo(channels=(pyramid.out_channels,) * len(pyramid.strides), strides=pyramid.strides)

    def convert_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """From the names of torchvision's own models, today's and those of its published files, to those of this one.

        A torchvision backbone is in `pyramid` here, and blocks of convolution and norm were bare convolutions once.
        """
        names = self.state_dict().keys()
        renamed = {name: renamed_as(name, names) for name in state}
        return {renamed[name]: value for name, value in state.items()}

    def forward(self, x: Tensor, targets: list[Target] | None = None) -> Outputs:
        return self.forward_head(tuple(self.model.backbone(x).values()), x, targets)


class DenseDetector(TorchvisionDetector):
    """RetinaNet or FCOS: a head that is shared by all levels, and no proposals."""

    def forward_head(self, features: tuple[Tensor, ...], x: Tensor, targets: list[Target] | None) -> Outputs:
        outputs = self.head_outputs(features)
        if targets is not None:
            anchors = self.model.anchor_generator(ImageList(x, [(0, 0)] * len(x)), list(features))
            with torch.autocast(x.device.type, enabled=False):
                outputs.losses = self.losses(outputs.float(), anchors, targets)
        return outputs

    def detect(self, x: Tensor, sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        outputs = self(x).float()
        anchors = self.model.anchor_generator(ImageList(x, sizes), list(outputs.features))
        counts = [level.shape[1] for level in self.flat(outputs)["bbox_regression"]]
        per_level = [list(image.split(counts)) for image in anchors]
        return cast(list[dict[str, Tensor]], self.model.postprocess_detections(self.flat(outputs), per_level, sizes))

    @abstractmethod
    def head_outputs(self, features: tuple[Tensor, ...]) -> Outputs:
        """The outputs of the head for a feature pyramid, without losses."""

    @abstractmethod
    def flat(self, outputs: Outputs) -> dict[str, list[Tensor]]:
        """The maps of the head in torchvision's layout: [N, H*W*A, columns] for each level."""

    @abstractmethod
    def losses(self, outputs: Outputs, anchors: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """torchvision's losses, scalars by name."""


class RetinaNetDetector(DenseDetector):
    """RetinaNet (Lin et al., ICCV 2017): A anchors a location, sigmoid over K classes, L1 on box deltas."""

    def __init__(
        self,
        pyramid: Pyramid,
        num_classes: int,
        head_convs: int = 4,
        anchor_size: float = 4.0,
        octaves: int = 3,
        ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        candidates: int = 1000,
    ) -> None:
        super().__init__(pyramid, num_classes)
        sizes = tuple(tuple(int(s * anchor_size * 2 ** (i / octaves)) for i in range(octaves)) for s in pyramid.strides)
        anchors = AnchorGenerator(sizes, (ratios,) * len(sizes))
        norm = _group_norm if head_convs < 4 else None
        head = RetinaNetHead(pyramid.out_channels, anchors.num_anchors_per_location()[0], num_classes, norm)
        for branch in (head.classification_head, head.regression_head):
            branch.conv = branch.conv[:head_convs]
            if norm:
                he_init(branch.conv)
        if norm:
            prior_init(head.classification_head.cls_logits)
        self.model = RetinaNet(
            pyramid,
            num_classes,
            anchor_generator=anchors,
            head=head,
            detections_per_img=100,
            topk_candidates=candidates,
        )

    def head_outputs(self, features: tuple[Tensor, ...]) -> Outputs:
        classify, regress = self.model.head.classification_head, self.model.head.regression_head
        return Outputs(
            logits=tuple(classify.cls_logits(classify.conv(level)) for level in features),
            features=features,
            boxes=tuple(regress.bbox_reg(regress.conv(level)) for level in features),
        )

    def flat(self, outputs: Outputs) -> dict[str, list[Tensor]]:
        return {
            "cls_logits": [flatten(level, self.num_classes) for level in outputs.logits],
            "bbox_regression": [flatten(level, 4) for level in outputs.boxes],
        }

    def losses(self, outputs: Outputs, anchors: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        flat = {name: torch.cat(levels, 1) for name, levels in self.flat(outputs).items()}
        return cast(dict[str, Tensor], self.model.compute_loss(targets, flat, anchors))


class FCOSDetector(DenseDetector):
    """FCOS (Tian et al., ICCV 2019): one point a location, GIoU loss, centerness in `extra`.

    `boxes` are the head's distances after its ReLU, as torchvision defines them.
    """

    def __init__(self, pyramid: Pyramid, num_classes: int, head_convs: int = 4, candidates: int = 1000) -> None:
        super().__init__(pyramid, num_classes)
        anchors = AnchorGenerator(tuple((stride,) for stride in pyramid.strides), ((1.0,),) * len(pyramid.strides))
        head = FCOSHead(pyramid.out_channels, 1, num_classes, num_convs=head_convs)
        if head_convs < 4:
            he_init(head)
            prior_init(head.classification_head.cls_logits)
        self.model = FCOS(
            pyramid,
            num_classes,
            anchor_generator=anchors,
            head=head,
            score_thresh=0.05,
            detections_per_img=100,
            topk_candidates=candidates,
        )

    def head_outputs(self, features: tuple[Tensor, ...]) -> Outputs:
        classify, regress = self.model.head.classification_head, self.model.head.regression_head
        towers = [regress.conv(level) for level in features]
        return Outputs(
            logits=tuple(classify.cls_logits(classify.conv(level)) for level in features),
            features=features,
            boxes=tuple(regress.bbox_reg(tower).relu() for tower in towers),
            extra={"centerness": tuple(regress.bbox_ctrness(tower) for tower in towers)},
        )

    def flat(self, outputs: Outputs) -> dict[str, list[Tensor]]:
        return {
            "cls_logits": [flatten(level, self.num_classes) for level in outputs.logits],
            "bbox_regression": [flatten(level, 4) for level in outputs.boxes],
            "bbox_ctrness": [flatten(level, 1) for level in outputs.extra["centerness"]],
        }

    def losses(self, outputs: Outputs, anchors: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        levels = self.flat(outputs)
        counts = [level.shape[1] for level in levels["cls_logits"]]
        flat = {name: torch.cat(maps, 1) for name, maps in levels.items()}
        return cast(dict[str, Tensor], self.model.compute_loss(targets, flat, anchors, counts))


class FasterRCNNDetector(TorchvisionDetector):
    """Faster R-CNN (Ren et al., NeurIPS 2015) with an FPN.

    `logits` and `boxes` are the RPN's. With targets, the RoI head reads proposals sampled against the truth, which are
    returned in `extra` with its outputs; a teacher's reads the student's proposals (`outputs_for_student`), so that
    rows match.
    """

    def __init__(self, pyramid: Pyramid, num_classes: int, small: bool = False) -> None:
        super().__init__(pyramid, num_classes)
        width = pyramid.out_channels
        sizes = tuple((stride * (3 if small else 8),) for stride in pyramid.strides)
        pooled = MultiScaleRoIAlign([str(i) for i in range(3 if small else 4)], 5 if small else 7, sampling_ratio=2)
        hidden = 2 * width if small else 1024
        self.model = FasterRCNN(
            pyramid,
            rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
            rpn_pre_nms_top_n_train=200 if small else 2000,
            rpn_post_nms_top_n_train=100 if small else 1000,
            rpn_pre_nms_top_n_test=200 if small else 1000,
            rpn_post_nms_top_n_test=100 if small else 1000,
            rpn_batch_size_per_image=64 if small else 256,
            box_roi_pool=pooled,
            box_head=TwoMLPHead(width * pooled.output_size[0] ** 2, hidden),
            box_predictor=FastRCNNPredictor(hidden, num_classes + 1),
            box_batch_size_per_image=32 if small else 512,
        )

    def forward_head(self, features: tuple[Tensor, ...], x: Tensor, targets: list[Target] | None) -> Outputs:
        rpn = self.model.rpn
        objectness, deltas = rpn.head(list(features))
        outputs = Outputs(logits=tuple(objectness), features=features, boxes=tuple(deltas))
        if targets is not None:
            shifted = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]
            sizes = image_sizes(targets)
            with torch.autocast(x.device.type, enabled=False):
                proposals, outputs.losses = self._propose(outputs, x, sizes, shifted)
                sampled, _, labels, deltas = self.model.roi_heads.select_training_samples(proposals, shifted)
            outputs.extra = self._roi_outputs(features, sampled, sizes)
            with torch.autocast(x.device.type, enabled=False):
                rois = outputs.float().extra
                classifier, regression = fastrcnn_loss(rois["roi_logits"], rois["roi_boxes"], labels, deltas)
            outputs.losses |= {"loss_classifier": classifier, "loss_box_reg": regression}
        return outputs

    def outputs_for_student(self, outputs: Outputs, student: Outputs, batch: Batch) -> Outputs:
        sizes = image_sizes(batch.targets)
        rois = self._roi_outputs(outputs.features, list(student.extra["proposals"]), sizes)
        return Outputs(outputs.logits, outputs.features, None, outputs.boxes, rois)

    def detect(self, x: Tensor, sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        outputs = self(x)
        with torch.autocast(x.device.type, enabled=False):
            proposals, _ = self._propose(outputs, x, sizes, None)
        rois = self._roi_outputs(outputs.features, proposals, sizes)
        heads = self.model.roi_heads
        boxes, scores, labels = heads.postprocess_detections(
            rois["roi_logits"].float(), rois["roi_boxes"].float(), proposals, sizes
        )
        return [{"boxes": b, "scores": s, "labels": n - 1} for b, s, n in zip(boxes, scores, labels, strict=True)]

    def _propose(
        self, outputs: Outputs, x: Tensor, sizes: list[tuple[int, int]], targets: list[Target] | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Region proposals of each image, and the RPN's losses when there are targets."""
        rpn, exact = self.model.rpn, outputs.float()
        anchors = rpn.anchor_generator(ImageList(x, sizes), list(exact.features))
        counts = [level[0].numel() for level in exact.logits]
        objectness, deltas = concat_box_prediction_layers(list(exact.logits), list(exact.boxes))
        decoded = rpn.box_coder.decode(deltas.detach(), anchors).view(len(sizes), -1, 4)
        proposals, _ = rpn.filter_proposals(decoded, objectness, sizes, counts)
        if targets is None:
            return proposals, {}
        labels, matched = rpn.assign_targets_to_anchors(anchors, targets)
        score, regression = rpn.compute_loss(objectness, deltas, labels, rpn.box_coder.encode(matched, anchors))
        return proposals, {"loss_objectness": score, "loss_rpn_box_reg": regression}

    def _roi_outputs(
        self, features: tuple[Tensor, ...], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> dict[str, Any]:
        """`Outputs.extra` of the RoI head for the proposals of each image."""
        heads = self.model.roi_heads
        levels = OrderedDict((str(i), level.float()) for i, level in enumerate(features))
        logits, boxes = heads.box_predictor(heads.box_head(heads.box_roi_pool(levels, proposals, sizes)))
        return {"proposals": tuple(proposals), "roi_logits": logits, "roi_boxes": boxes}


def renamed_as(name: str, names: Collection[str]) -> str:
    """The name in `names` of a tensor that torchvision calls `name`; `name` itself if there is none."""
    moved = f"model.{re.sub(PYRAMID, 'backbone.pyramid.', name)}"
    bare = re.sub(r"(inner_blocks|layer_blocks)\.(\d+)\.(\w+)$", r"\1.\2.0.\3", moved)
    bare = re.sub(r"rpn\.head\.conv\.(\w+)$", r"rpn.head.conv.0.0.\1", bare)
    if found := re.search(r"_head\.conv\.(\d+)\.(\w+)$", bare):  # convolution, ReLU, convolution, ...
        bare = f"{bare[: found.start()]}_head.conv.{int(found[1]) // 2}.0.{found[2]}"
    return next((each for each in (name, f"model.{name}", moved, bare) if each in names), name)


def flatten(level: Tensor, columns: int) -> Tensor:
    """[N, A*columns, H, W] -> [N, H*W*A, columns], the order of torchvision's anchors."""
    n, _, h, w = level.shape
    return level.view(n, -1, columns, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, columns)


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // 8, channels)
