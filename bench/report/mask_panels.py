"""Predicted masks of a segmentation table: validation images from different places of the set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ..spec.table import Table
from .blocks import Block
from .figures import SMALL
from .pictures import Drawn, Gallery, Panel, Picture, SavedNetwork, page, saved_networks, spread_positions

if TYPE_CHECKING:
    from kdbench.datasets.base import MaskSet

    from ..tasks.segmentation import SegmentationTask

IMAGES = 4  # columns
NAMED = 5  # classes in words
IGNORED_COLOR = (255, 255, 255)


def mask_panel(table: Table, block: Block, task: SegmentationTask, gallery: Gallery) -> Panel:
    """The panel of a block."""
    val = task.data.val
    names = [path.stem for path in val.images]
    positions = spread_positions(names, IMAGES)
    loaded = [val.load(i) for i in positions]
    truth = tuple(_painted(mask, task.data) for _, mask in loaded)
    rows: list[tuple[str, SavedNetwork | None, tuple[Drawn, ...]]] = [
        ("image", None, tuple(Drawn(image) for image, _ in loaded)),
        ("truth", None, truth),
    ]
    missing = []
    for network in saved_networks(table, block, gallery):
        if network.missing:
            missing.append(network.missing)
        else:
            rows.append((network.label, network, _predict(network, task, positions)))
    title = f"{table.title}: {block.title.replace('->', '→')}"
    chosen = tuple(names[i] for i in positions)
    figure = page(title, chosen, [(label, drawn) for label, _, drawn in rows], legend=0.6)
    colors = [*zip(task.data.classes, task.data.colors, strict=True), ("ignored", IGNORED_COLOR)]
    legend = tuple((name, "#{:02x}{:02x}{:02x}".format(*color)) for name, color in colors)
    patches = [Patch(facecolor=color, edgecolor="#6E6E6E", linewidth=0.5, label=name) for name, color in legend]
    figure.legend(handles=patches, loc="outside lower left", ncols=8, frameon=False, fontsize=SMALL)
    return Panel(chosen, tuple(rows), figure, missing, legend=legend)


def _predict(network: SavedNetwork, task: SegmentationTask, positions: list[int]) -> tuple[Drawn, ...]:
    import torch

    from ..networks.load import load_network

    device = torch.device("cpu")
    loaded = load_network(network.file, network.run.student, task.classes, device)
    predicted = {i: classes for i, _, classes in task.predictions(loaded, device, positions)}
    return tuple(_painted(predicted[i].numpy(), task.data) for i in positions)


def _painted(classes: NDArray[Any], data: MaskSet) -> Drawn:
    """Class indices [H, W] as an image in the data set's colors, and the largest classes in words."""
    palette = np.full((256, 3), IGNORED_COLOR, dtype=np.uint8)
    palette[: len(data.classes)] = data.colors
    painted: Picture = palette[classes]
    pixels = np.bincount(classes.ravel(), minlength=len(data.classes))[: len(data.classes)]
    largest = [k for k in np.argsort(-pixels, kind="stable")[:NAMED].tolist() if pixels[k]]
    words = ", ".join(f"{data.classes[k]} {100 * pixels[k] / classes.size:.0f} %" for k in largest)
    return Drawn(painted, words=words or "no class")
