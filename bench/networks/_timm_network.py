"""timm's classifiers as a `Network`, with features by timm's own feature extraction."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor

from kdbench.methods.base import NetworkInfo, Outputs

from ..errors import SpecError
from ._pooling import PooledMaps, key
from .base import Network
from .hooked import IMAGES, HookedNetwork, Layout

STAGES = 4
SIDE = 256
"""Of the image with which strides are learned: a multiple of the largest one."""


class TimmNetwork(Network):
    """A classifier of timm in `model`; `features` are the stem, where it is a map, and four stages as maps.

    Networks with more stages than four give the last four; those of one resolution (ViTs) four blocks at equal
    distances, without a stem. `pooled` is the input of the classifier.

    Args:
        model: with `forward_intermediates`.
        num_classes: K.
        size: height and width of an image that it reads, pixels.

    Raises:
        SpecError: timm cannot extract its features.
    """

    def __init__(self, model: Any, num_classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.num_classes = model, num_classes
        parameter = next(model.parameters())
        training = model.training
        with torch.no_grad():
            x = torch.zeros(IMAGES, 3, *size, device=parameter.device)
            self.indices = _indices([value.shape for value in model.eval().forward_intermediates(x)[1]])
            self.stem, self.stem_layout = _stem(model, self.indices, x)
            self.last = _last_map(model, x)
            outputs = self.forward(x)
        model.train(training)
        classifier = model.get_classifier()
        self.info = NetworkInfo(
            channels=tuple(feature.shape[1] for feature in outputs.features),
            strides=tuple(round(size[0] / feature.shape[2]) for feature in outputs.features),
            pooled_dim=outputs.pooled.shape[1] if outputs.pooled is not None else None,
            classifier=classifier if outputs.pooled is not None else None,
        )

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        model = self.model
        inputs: dict[str, Tensor] = {}
        handles = []
        if self.stem:
            handles.append(
                model.get_submodule(self.stem).register_forward_pre_hook(lambda _, args: inputs.update(stem=args[0]))
            )
        classifier = model.get_classifier()
        if isinstance(classifier, torch.nn.Linear):
            handles.append(classifier.register_forward_pre_hook(lambda _, args: inputs.update(pooled=args[0])))
        try:
            final, maps = model.forward_intermediates(x, indices=self.indices)
            logits = model.forward_head(final)
        finally:
            for handle in handles:
                handle.remove()
        if "stem" in inputs:
            maps = [self.stem_layout.map(inputs["stem"]), *maps]
        pooled = inputs.get("pooled")
        extra: dict[str, Tensor | tuple[Tensor, ...]] = {}
        if self.last is not None:
            extra["last_map"] = self.last.map(final)
        if pooled is not None and pooled.ndim != 2:
            pooled = None
        return Outputs(logits=logits, features=tuple(maps), pooled=pooled, extra=extra)

    def infer(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits


def config(network: str) -> Any:
    """timm's configuration of an architecture, such as the size of its images and its classes."""
    return timm.get_pretrained_cfg(network) or timm.get_pretrained_cfg(network.partition(".")[0])


def make(name: str, network: str, num_classes: int, options: dict[str, Any]) -> Network:
    """A network of timm with its initialization.

    Args:
        name: for messages.
        network: architecture, perhaps with a tag.
        num_classes: K.
        options: of timm's constructor, or `layers` and `classifier` as in `HookedNetwork`.

    Raises:
        SpecError: an option that does not fit.
    """
    hooks = {key: options.pop(key) for key in ("layers", "classifier") if key in options}
    cfg, given = config(network), options.get("img_size")
    usual = cfg.input_size[1:] if cfg.fixed_input_size else (SIDE, SIDE)
    height, width = (given, given) if isinstance(given, int) else given or usual
    try:
        model: Any = timm.create_model(network, pretrained=False, num_classes=num_classes, **options)
        if hooks or not hasattr(model, "forward_intermediates"):
            return HookedNetwork(model, num_classes, size=height, **hooks)
        return TimmNetwork(model, num_classes, (height, width))
    except SpecError as error:
        raise SpecError(f"network {name}: {error}") from error
    except Exception as error:  # timm's constructors and forwards raise anything for options that do not fit
        raise SpecError(f"network {name}: timm cannot build it: {type(error).__name__}: {error}") from error


def _indices(shapes: list[torch.Size]) -> list[int]:
    """Which of timm's feature maps are the four stages."""
    count = len(shapes)
    if count <= STAGES:
        return list(range(count))
    if len({tuple(shape[2:]) for shape in shapes}) == 1:
        return [round(count * (i + 1) / STAGES) - 1 for i in range(STAGES)]
    return list(range(count - STAGES, count))


def _stem(model: Any, indices: list[int], x: Tensor) -> tuple[str, Layout]:
    """The stem: the path of the first stage, whose input is its output, and how that is read.

    The path is empty where timm names no stage, or the input of the first is no map.
    """
    none = "", Layout("map")
    names = [info["module"] for info in getattr(model, "feature_info", []) if isinstance(info, dict)]
    first = indices[0]
    if first > 1 or first >= len(names) or names[first] not in dict(model.named_modules()):
        return none
    path, inputs = str(names[first]), []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        model(x)
    finally:
        handle.remove()
    layout = _stem_layout(model, inputs[0], x) if inputs else None
    return (path, layout) if layout else none


def _last_map(model: Any, x: Tensor) -> Layout | None:
    """How the features that timm's head reads are a map whose mean over space is the classifier's input; None if not.

    timm's heads also normalize after pooling, or pool in other ways.
    """
    classifier, inputs = model.get_classifier(), []
    if not isinstance(classifier, torch.nn.Linear):
        return None
    final, _ = model.forward_intermediates(x)
    handle = classifier.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        with PooledMaps() as maps:
            model.forward_head(final)
    finally:
        handle.remove()
    found = maps.behind(inputs[0]) if inputs and inputs[0].ndim == 2 else None
    return Layout(found[1]) if found is not None and found[0] == key(final) else None


def _stem_layout(model: Any, stem: Any, x: Tensor) -> Layout | None:
    """The layout of a stem's output, whose sides are in proportion to those of the images `x`; None for no map."""
    if not isinstance(stem, Tensor) or stem.ndim != 4:
        return None
    height, width = x.shape[2:]
    kinds = [("map", stem.shape[2:]), ("channels_last", stem.shape[1:3])]
    if str(getattr(model, "output_fmt", "NCHW")) == "NHWC":
        kinds.reverse()
    return next((Layout(kind) for kind, sides in kinds if sides[0] * width == sides[1] * height), None)
