"""Any `nn.Module` as a `Network`: its forward as it is, with features read by forward hooks at module paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdbench.methods.base import NetworkInfo, Outputs

from ..errors import SpecError
from ._pooling import PooledMaps, key
from .base import Network

SIZES = (224, 32, 64, 128, 28)
"""Sides of a square image, in pixels, that a module is tried with to learn the shapes of its outputs."""

IMAGES = 2
"""Of a trial: more than one, so that outputs that are not about images, such as tables of positions, are seen."""

NO_FEATURES = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Softmax)
"""Modules whose outputs are no features: maps of one size for all images, and attention [N, heads, L, L]."""


class Layout(NamedTuple):
    """Where a module's output has its channels.

    Attributes:
        kind: "map" [N, C, H, W], "channels_last" [N, H, W, C] or "tokens" [N, L, C].
        tokens: that come before those of the patches, such as a class token.
    """

    kind: str
    tokens: int = 0

    def map(self, value: Tensor) -> Tensor:
        """The output as [N, C, H, W]."""
        if self.kind == "map":
            return value
        if self.kind == "channels_last":
            return value.permute(0, 3, 1, 2)
        patches = value[:, self.tokens :].transpose(1, 2)
        side = round(patches.shape[2] ** 0.5)
        return torch.unflatten(patches, 2, (side, side))


class HookedNetwork(Network):
    """A classifier or segmenter made of any module, which returns logits, perhaps under "out" or "logits".

    Args:
        model: the module; [N, 3, H, W] -> logits [N, K] or [N, K, h, w].
        num_classes: K.
        layers: module paths such as `layer1` whose outputs are the features, from shallow to deep: maps [N, C, H, W] or
            [N, H, W, C], or tokens of square images [N, L, C]. Without: at each size of map, that of the last of the
            outermost modules.
        classifier: path of the layer that makes the logits, whose input is `pooled` (classifiers), or the last feature
            (segmenters). Without: the last `nn.Linear` or `nn.Conv2d` with an output for each class.
        size: side of a square image that the module can read, pixels; without, some are tried.

    Raises:
        SpecError: a path that does not exist or is not a map, or a module that has other outputs.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        layers: Sequence[str] | None = None,
        classifier: str | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.model, self.num_classes = model, num_classes
        modules = dict(model.named_modules())
        layers = None if layers is None else [layers] if isinstance(layers, str) else [str(path) for path in layers]
        classifier = None if classifier is None else str(classifier)
        for path in (*(layers or ()), *([classifier] if classifier else ())):
            if path not in modules:
                raise SpecError(f"{type(model).__name__} has no module {path!r}; it has {_some(modules)}")
        seen = _run(model, size)
        logits = _logits(seen.output, num_classes)
        found = _classifier(modules, seen, logits, num_classes) if classifier is None else classifier
        self.classifier = found
        self.layers: dict[str, Layout] = {}
        shapes: list[tuple[int, int]] = []
        head: Any = seen.inputs.get(found) if found else None
        heads = {(found or "").split(".")[0], "aux_classifier"} if logits.ndim == 4 else set()
        for path in _layers(modules, seen, heads) if layers is None else layers:
            layout = _layout(path, seen)
            example = layout.map(seen.outputs[path])
            self.layers[path] = layout
            shapes.append((example.shape[1], max(1, round(seen.size / example.shape[-1]))))
        if logits.ndim == 4 and isinstance(head, Tensor):
            shapes.append((head.shape[1], max(1, round(seen.size / head.shape[-1]))))
        self.pools = logits.ndim == 2 and isinstance(head, Tensor) and head.ndim == 2
        self.info = NetworkInfo(
            channels=tuple(channels for channels, _ in shapes),
            strides=tuple(stride for _, stride in shapes),
            pooled_dim=head.shape[1] if self.pools else None,
            classifier=modules[found] if found and self.pools else None,
        )
        self.last_map = _last_map(seen, head) if self.pools else None

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        paths = [*self.layers, *([self.classifier] if self.classifier else ())]
        paths += [self.last_map.path] if self.last_map is not None else []
        with _recorded(self.model, paths) as seen:
            output = self.model(x)
        logits = _logits(output, self.num_classes)
        features = [layout.map(seen.outputs[path]) for path, layout in self.layers.items()]
        head = seen.inputs.get(self.classifier) if self.classifier else None
        if logits.ndim == 4 and isinstance(head, Tensor):
            features.append(head)
        extra: dict[str, Tensor | tuple[Tensor, ...]] = {}
        if isinstance(output, dict) and isinstance(output.get("aux"), Tensor):
            extra["aux_logits"] = output["aux"]
        if self.last_map is not None:
            extra["last_map"] = self.last_map.read(seen)
        pooled = head if self.pools else None
        return Outputs(logits=logits, features=tuple(features), pooled=pooled, extra=extra)

    def infer(self, x: Tensor) -> Tensor:
        return _logits(self.model(x), self.num_classes)


class _Seen:
    """What modules received and returned in a forward, by path; of one that ran several times, the last."""

    def __init__(self, versions: bool = False) -> None:
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self.versions: dict[str, int] | None = {} if versions else None
        self.output: Any = None
        self.size = 0
        self.maps = PooledMaps()

    def hook(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(_module: nn.Module, inputs: Any, output: Any) -> None:
            self.outputs.pop(path, None)  # so that paths are in the order of their last runs
            self.outputs[path], self.inputs[path] = output, inputs[0] if inputs else None
            if self.versions is not None and isinstance(output, Tensor):
                self.versions[path] = output._version

        return record

    def is_changed(self, path: str) -> bool:
        """Whether a later module changed this one's output in place."""
        value = self.outputs[path]
        return isinstance(value, Tensor) and self.versions is not None and value._version != self.versions[path]


@contextmanager
def _recorded(model: nn.Module, paths: Sequence[str], versions: bool = False) -> Iterator[_Seen]:
    """Hooks for one forward: a copy of the network, such as a running mean, has its own.

    Args:
        model: the module.
        paths: of its modules whose inputs and outputs are recorded.
        versions: also record which outputs are changed in place later, which inference mode does not count.
    """
    seen = _Seen(versions)
    handles = [model.get_submodule(path).register_forward_hook(seen.hook(path)) for path in paths]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _run(model: nn.Module, size: int | None) -> _Seen:
    """A forward of `IMAGES` images in eval mode, with what every module received and returned."""
    modes = {module: module.training for module in model.modules()}
    parameter = next(model.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    errors: list[str] = []
    model.eval()
    try:
        for side in (size,) if size else SIZES:
            paths = [path for path, _ in model.named_modules() if path]
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                torch.random.fork_rng(devices=[]),
                _recorded(model, paths, versions=True) as seen,
            ):
                try:
                    with seen.maps:
                        seen.output = model(torch.zeros(IMAGES, 3, side, side, device=device))
                except Exception as error:  # noqa: BLE001 - a user's module raises anything
                    first = (str(error).splitlines() or [""])[0]
                    errors.append(f"{side}x{side}: {type(error).__name__}: {first}")
                    continue
            seen.size = side
            return seen
    finally:
        for module, training in modes.items():
            module.training = training
    raise SpecError(f"{type(model).__name__} fails on a batch of {IMAGES} images: {'; '.join(errors[:2])}")


def _logits(output: Any, num_classes: int) -> Tensor:
    """The logits in what a module returned.

    Raises:
        SpecError: there are none.
    """
    logits = output.get("out", output.get("logits")) if isinstance(output, dict) else getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim not in (2, 4) or logits.shape[1] != num_classes:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise SpecError(
            f"a network returns logits [N, {num_classes}] (segmentation: [N, {num_classes}, h, w]), alone or in a dict "
            f"under 'out' or 'logits', and this one returns {found}"
        )
    return logits


def _classifier(modules: dict[str, nn.Module], seen: _Seen, logits: Tensor, num_classes: int) -> str | None:
    """The layer that makes the logits: the last that ran with an output for each class; None if there is none."""
    kind, outputs = (nn.Linear, "out_features") if logits.ndim == 2 else (nn.Conv2d, "out_channels")
    made = [p for p in seen.outputs if isinstance(modules[p], kind) and getattr(modules[p], outputs) == num_classes]
    main = [path for path in made if not path.startswith("aux")]
    return next(reversed(main or made), None)


class _LastMap(NamedTuple):
    """Where the map is that a classifier pools: the input or the output of a module, in a layout."""

    path: str
    of: str
    layout: Layout

    def read(self, seen: _Seen) -> Tensor:
        return self.layout.map(getattr(seen, self.of)[self.path])


def _last_map(seen: _Seen, pooled: Tensor) -> _LastMap | None:
    """The map whose mean over space is the classifier's input; None where there is none, or no module has it."""
    found = seen.maps.behind(pooled)
    if found is None:
        return None
    wanted, layout = found
    for of in ("outputs", "inputs"):
        paths = [
            path for path, value in getattr(seen, of).items() if isinstance(value, Tensor) and key(value) == wanted
        ]
        if paths:
            return _LastMap(paths[-1], of, Layout(layout))
    return None


def _layers(modules: dict[str, nn.Module], seen: _Seen, heads: set[str]) -> list[str]:
    """At each size of map, larger ones first, the last of the outermost modules whose output has it; 1x1 is pooled.

    Args:
        modules: by path.
        seen: of a forward.
        heads: names of modules of a segmenter whose outputs are no features.
    """
    best: dict[int, str] = {}
    for path, value in seen.outputs.items():
        layout = layout_of(value)
        if layout is None or layout.kind == "tokens" or isinstance(modules[path], NO_FEATURES):
            continue
        if seen.is_changed(path) or path.split(".")[0] in heads:
            continue
        example = layout.map(value)
        side = example.shape[-1]
        is_feature = 1 < side <= seen.size and example.shape[1] != 3
        if is_feature and (side not in best or path.count(".") <= best[side].count(".")):
            best[side] = path
    return [best[side] for side in sorted(best, reverse=True)]


def _layout(path: str, seen: _Seen) -> Layout:
    """How the output of a layer is read.

    Raises:
        SpecError: it did not run, is no map, or is changed in place by a later layer.
    """
    if path not in seen.outputs:
        raise SpecError(f"layer {path} is not run by the network's forward; choose another")
    layout = layout_of(seen.outputs[path])
    if layout is None:
        value = seen.outputs[path]
        found = f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"the type {type(value).__name__}"
        raise SpecError(
            f"the output of layer {path} has {found}; a feature is [N, C, H, W], [N, H, W, C] or tokens [N, L, C]"
        )
    if seen.is_changed(path):
        raise SpecError(f"the output of layer {path} is changed in place by a later layer; choose that one instead")
    return layout


def layout_of(value: Any) -> Layout | None:
    """The layout of an output for `IMAGES` square images; None if it is no feature."""
    if not isinstance(value, Tensor) or len(value.shape) < 3 or value.shape[0] != IMAGES:
        return None
    if value.ndim == 4 and value.shape[2] == value.shape[3]:
        return Layout("map")
    if value.ndim == 4 and value.shape[1] == value.shape[2]:
        return Layout("channels_last")
    if value.ndim == 3:
        for tokens in range(min(3, value.shape[1] - 1)):
            if round((value.shape[1] - tokens) ** 0.5) ** 2 == value.shape[1] - tokens:
                return Layout("tokens", tokens)
    return None


def _some(modules: dict[str, nn.Module]) -> str:
    """The first paths of a module."""
    paths = [path for path in modules if path]
    shown = [path for path in paths if path.count(".") <= 1][:20] or paths[:20]
    return ", ".join(shown) + (", ..." if len(paths) > len(shown) else "")
