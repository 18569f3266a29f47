"""Networks from detectron2's configs: with K classes, boxes alone, and trainable from random weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyCall, LazyConfig, get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BasicBlock, ResNet

from . import _detectron2_weights as weights
from . import _detectron2_zoo as zoo
from ._detectron2_models import DenseDetector, Detectron2Detector, TwoStageDetector
from ._initialization import he_init


def build(name: str, num_classes: int, init: str) -> Detectron2Detector:
    """A network by its name without the prefix; `init` as in `detectron2.build`.

    Raises:
        CheckpointError: weights are needed and cannot be loaded, or are for other classes.
    """
    adapter = TwoStageDetector if zoo.head(zoo.PREFIX + name) == "faster_rcnn" else DenseDetector
    if name in zoo.MINI:
        return adapter(_mini(name, num_classes), num_classes)
    variant = zoo.VARIANTS.get(name, zoo.Variant(name, ()))
    file = _file(variant.config)
    make = _from_yaml if file.suffix == ".yaml" else _from_python
    with _quiet():
        model, backbone = make(file, variant, num_classes, init == "random")
    detector = adapter(model, num_classes)
    if init == "imagenet":
        weights.load_backbone(model, backbone)
    elif init == "published":
        weights.load_published(detector, variant.config)
    return detector


def _file(config: str) -> Path:
    folder = zoo.configs()
    assert folder is not None  # it has been imported
    yaml = folder / f"{config}.yaml"
    return yaml if yaml.exists() else yaml.with_suffix(".py")


def _from_yaml(file: Path, variant: zoo.Variant, num_classes: int, scratch: bool) -> tuple[Any, str]:
    """The model and the address of its backbone's weights; `scratch` trains all of it, with BatchNorm."""
    cfg = get_cfg()
    cfg.merge_from_file(str(file))
    changes: dict[str, Any] = {
        **dict(variant.changes),
        "MODEL.DEVICE": str(torch.get_default_device()),  # moved to the device of the run afterwards
        "MODEL.MASK_ON": False,
        "MODEL.RETINANET.NUM_CLASSES": num_classes,
        "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
    }
    if scratch:  # activations explode under random weights and FrozenBN, and a frozen random stem never learns
        changes["MODEL.BACKBONE.FREEZE_AT"] = 0
        if cfg.MODEL.RESNETS.NORM == "FrozenBN":
            changes["MODEL.RESNETS.NORM"] = "BN"
    cfg.merge_from_list([part for change in changes.items() for part in change])
    return build_model(cfg), str(cfg.MODEL.WEIGHTS)


def _from_python(file: Path, variant: zoo.Variant, num_classes: int, scratch: bool) -> tuple[Any, str]:
    config = LazyConfig.load(str(file))
    body, origin = config.model.backbone.bottom_up, str(config.train.init_checkpoint)
    config.model.num_classes = num_classes
    if depth := dict(variant.changes).get("depth"):
        origin = origin.replace(f"R-{body.stages.depth}", f"R-{depth}")
        body.stages.depth = depth
    if scratch:
        body.stem.norm = body.stages.norm = "BN"
        body.freeze_at = 0
    return instantiate(config.model), origin


def _mini(name: str, num_classes: int) -> Any:
    """detectron2's model configs on a body of basic blocks with levels of stride 8, 16 and 32, for 128-pixel images."""
    kind, teacher = name.removeprefix("mini_").rsplit("_", 1)[0], name.endswith("_teacher")
    folder = zoo.configs()
    assert folder is not None
    file = {"faster_rcnn": "mask_rcnn_fpn"}.get(kind, kind)
    with _quiet():
        model = LazyConfig.load(str(folder / "common" / "models" / f"{file}.py")).model
    width = 96 if teacher else 64  # its group normalization has 32 groups
    _shrink_body(model.backbone, (32, 64, 128, 224) if teacher else (16, 32, 64, 128), 2 if teacher else 1, width)
    if "roi_heads" in model:
        _shrink_roi_heads(model, width, num_classes)
    else:
        _shrink_dense_head(model, width, num_classes)
    built = instantiate(model)
    if "roi_heads" not in model:
        he_init(built.head)
    return built


def _shrink_body(backbone: Any, widths: tuple[int, ...], blocks: int, out_channels: int) -> None:
    body = backbone.bottom_up
    body.stem.out_channels, body.stem.norm = widths[0], "BN"
    body.stages = [
        LazyCall(ResNet.make_stage)(
            block_class=BasicBlock,
            num_blocks=blocks if i else 1,
            in_channels=widths[max(i - 1, 0)],
            out_channels=width,
            stride_per_block=[2 if i else 1] + [1] * (blocks - 1 if i else 0),
            norm="BN",
        )
        for i, width in enumerate(widths)
    ]
    body.out_features = backbone.in_features = ["res3", "res4", "res5"]
    backbone.out_channels = out_channels
    backbone.top_block = None


def _shrink_dense_head(model: Any, width: int, num_classes: int) -> None:
    model.num_classes = num_classes
    model.head_in_features = ["p3", "p4", "p5"]
    model.head.input_shape = [ShapeSpec(channels=width)] * 3
    model.head.conv_dims = [width] * 2
    model.head.norm = "GN"
    model.test_topk_candidates = 300
    if "anchor_generator" in model:  # FCOS builds its anchors itself
        model.anchor_generator.sizes = [[stride * 3 * 2 ** (i / 3) for i in range(3)] for stride in (8, 16, 32)]
        model.anchor_generator.aspect_ratios = [0.7, 1.4, 2.2]
        model.anchor_generator.strides = [8, 16, 32]


def _shrink_roi_heads(model: Any, width: int, num_classes: int) -> None:
    rpn, heads, hidden = model.proposal_generator, model.roi_heads, 2 * width
    rpn.in_features = heads.box_in_features = ["p3", "p4", "p5"]
    rpn.head.in_channels = width
    rpn.anchor_generator.sizes, rpn.anchor_generator.strides = [[24], [48], [96]], [8, 16, 32]
    rpn.batch_size_per_image, rpn.pre_nms_topk, rpn.post_nms_topk = 64, (200, 200), (100, 100)
    heads.num_classes, heads.batch_size_per_image = num_classes, 32
    for part in ("mask_in_features", "mask_pooler", "mask_head"):
        heads.pop(part)
    heads.box_pooler.output_size, heads.box_pooler.scales = 5, (1 / 8, 1 / 16, 1 / 32)
    for head in heads.get("box_heads") or [heads.box_head]:
        head.input_shape = ShapeSpec(channels=width, height=5, width=5)
        head.fc_dims = [hidden, hidden]
    for predictor in heads.get("box_predictors") or [heads.box_predictor]:
        predictor.input_shape = ShapeSpec(channels=hidden)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the warning that a config which computes its anchors, as detectron2's do, could run code."""
    logger = logging.getLogger("fvcore.common.config")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
