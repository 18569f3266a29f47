"""Predicted masks of a segmentation table: validation images from different places of the set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from ..spec.table import Table
from .blocks import Block
from .figures import SMALL
from .pictures import Drawn, Gallery, Picture, SavedNetwork, page, saved_networks, spread_positions

if TYPE_CHECKING:
    from kdbench.datasets.base import MaskSet

    from ..tasks.segmentation import SegmentationTask

IMAGES = 4  # columns
IGNORED_COLOR = (255, 255, 255)


def mask_panel(table: Table, block: Block, task: SegmentationTask, gallery: Gallery) -> tuple[Figure, list[str]]:
    """The figure of a block, and what it lacks."""
    val = task.data.val
    names = [path.stem for path in val.images]
    positions = spread_positions(names, IMAGES)
    loaded = [val.load(i) for i in positions]
    truth = [Drawn(_paint(mask, task.data)) for _, mask in loaded]
    rows = [("image", [Drawn(image) for image, _ in loaded]), ("truth", truth)]
    missing = []
    for network in saved_networks(table, block, gallery):
        if network.missing:
            missing.append(network.missing)
        else:
            rows.append((network.label, _predict(network, task, positions)))
    title = f"{table.title}: {block.title.replace('->', '→')}"
    figure = page(title, [names[i] for i in positions], rows, legend=0.6)
    patches = [
        Patch(
            facecolor=(color[0] / 255, color[1] / 255, color[2] / 255),
            edgecolor="#6E6E6E",
            linewidth=0.5,
            label=name,
        )
        for name, color in [*zip(task.data.classes, task.data.colors, strict=True), ("ignored", IGNORED_COLOR)]
    ]
    figure.legend(handles=patches, loc="outside lower left", ncols=8, frameon=False, fontsize=SMALL)
    return figure, missing


def _predict(network: SavedNetwork, task: SegmentationTask, positions: list[int]) -> list[Drawn]:
    import torch

    from ..networks.load import load_network

    device = torch.device("cpu")
    loaded = load_network(network.file, network.run.student, task.classes, device)
    predicted = {i: classes for i, _, classes in task.predictions(loaded, device, positions)}
    return [Drawn(_paint(predicted[i].numpy(), task.data)) for i in positions]


def _paint(classes: NDArray[Any], data: MaskSet) -> Picture:
    """Class indices [H, W] as an image in the data set's colors."""
    palette = np.full((256, 3), IGNORED_COLOR, dtype=np.uint8)
    palette[: len(data.classes)] = data.colors
    painted: Picture = palette[classes]
    return painted
