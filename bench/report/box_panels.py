"""Detections of a table's networks: the validation images on which its students differ most."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..spec.table import Table
from .blocks import Block
from .figures import SMALL, method_color
from .pictures import Drawn, Frame, Gallery, Panel, Picture, SavedNetwork, page, saved_networks, spread_positions

if TYPE_CHECKING:
    from kdbench.datasets.coco import CocoSplit

    from ..tasks.detection import DetectionTask

IMAGES = 3  # columns
CANDIDATES = 12  # images that every network predicts, of which IMAGES are drawn
MOST_OBJECTS = 12  # of a candidate: more cannot be read
MIN_SCORE = 0.3
MOST_BOXES = 20  # of a network on an image, the surest
MIN_IOU = 0.5
WRONG = " (no such object there)"

Corners = tuple[float, float, float, float]


class Box(NamedTuple):
    """A detected or true object: x1 y1 x2 y2 in pixels, index of its class, score; and whether an object is there."""

    corners: Corners
    label: int
    score: float
    right: bool = True


def box_panel(table: Table, block: Block, task: DetectionTask, gallery: Gallery) -> Panel:
    """The panel of a block."""
    val = task.data.val
    positions = candidates(val)
    truth = {i: _truth(val, i) for i in positions}
    found: list[tuple[SavedNetwork, dict[int, list[Box]]]] = []
    missing = []
    for network in saved_networks(table, block, gallery):
        if network.missing:
            missing.append(network.missing)
        else:
            found.append((network, _predict(network, task, truth)))
    students = [boxes for network, boxes in found if not network.is_teacher]
    chosen = most_different(truth, students)
    pictures = [np.asarray(val.load(i)[0].convert("RGB")) for i in chosen]
    classes = task.data.classes
    rows = tuple(
        (
            network.label if network else "truth",
            network,
            tuple(_drawn(picture, boxes[i], classes) for i, picture in zip(chosen, pictures, strict=True)),
        )
        for network, boxes in ((None, truth), *found)
    )
    names = tuple(val.path(i).stem for i in chosen)
    title = f"{table.title}: {block.title.replace('->', '→')}"
    figure = page(title, names, [(label, drawn) for label, _, drawn in rows], legend=0.3)
    note = f"boxes with a score of {MIN_SCORE} or more; dashed: no object of that class there (IoU below {MIN_IOU})"
    figure.supxlabel(note, x=0.01, ha="left", fontsize=SMALL)
    return Panel(names, rows, figure, missing, note)


def candidates(split: CocoSplit) -> list[int]:
    """Images with objects of several classes, few enough to read, from different places of the split.

    Where none has several classes, images with any object; where all have too many, those.
    """
    labels = [split.objects(i)[1] for i in range(len(split))]
    for least, most in ((2, MOST_OBJECTS), (1, MOST_OBJECTS), (1, None)):
        fits = [
            i for i, each in enumerate(labels) if len(set(each.tolist())) >= least and len(each) <= (most or len(each))
        ]
        if fits:
            return [fits[k] for k in spread_positions([split.path(i).stem for i in fits], CANDIDATES)]
    return []  # never: a split without any object is refused


def most_different(truth: dict[int, list[Box]], students: Sequence[dict[int, list[Box]]]) -> list[int]:
    """The IMAGES images on which the F1 scores of students differ most, ascending; of equal ones those of more classes.

    Args:
        truth: objects by position.
        students: for each, its boxes by position.
    """

    def difference(i: int) -> tuple[float, float, int, int]:
        scores = [f1(boxes[i], truth[i]) for boxes in students] or [0.0]
        classes = len({box.label for box in truth[i]})
        return -round(max(scores) - min(scores), 6), -round(statistics.pstdev(scores), 6), -classes, i

    return sorted(sorted(truth, key=difference)[:IMAGES])


def f1(boxes: Sequence[Box], truth: Sequence[Box]) -> float:
    """Harmonic mean of precision and recall of the boxes of one image; 1 where there is neither box nor object."""
    total = len(boxes) + len(truth)
    return 2 * sum(box.right for box in boxes) / total if total else 1.0


def matched(boxes: Sequence[Box], truth: Sequence[Box]) -> list[Box]:
    """The boxes, the surest first, each `right` where it is the first on a free object of its class."""
    free, marked = list(truth), []
    for box in sorted(boxes, key=lambda box: -box.score):
        same = [each for each in free if each.label == box.label]
        best = max(same, key=lambda each: _iou(box.corners, each.corners), default=None)
        right = best is not None and _iou(box.corners, best.corners) >= MIN_IOU
        if right and best is not None:
            free.remove(best)
        marked.append(box._replace(right=right))
    return marked


def _truth(split: CocoSplit, i: int) -> list[Box]:
    boxes, labels = split.objects(i)
    return [Box(_corners(box), label, 1.0) for box, label in zip(boxes, labels.tolist(), strict=True)]


def _predict(network: SavedNetwork, task: DetectionTask, truth: dict[int, list[Box]]) -> dict[int, list[Box]]:
    """The surest boxes of each image, matched with its objects."""
    import torch

    from ..networks.load import load_network

    device = torch.device("cpu")
    loaded = load_network(network.file, network.run.student, task.classes, device)
    label_of = {category: label for label, category in enumerate(task.data.category_ids)}
    position_of = {task.data.val.image_ids[i]: i for i in truth}
    found: dict[int, list[Box]] = {i: [] for i in truth}
    for each in task.detections(loaded, device, list(truth)):
        if each["score"] >= MIN_SCORE:
            x, y, width, height = each["bbox"]
            box = Box((x, y, x + width, y + height), label_of[each["category_id"]], each["score"])
            found[position_of[each["image_id"]]].append(box)
    surest = {i: sorted(boxes, key=lambda box: -box.score)[:MOST_BOXES] for i, boxes in found.items()}
    return {i: matched(boxes, truth[i]) for i, boxes in surest.items()}


def _drawn(picture: Picture, boxes: Sequence[Box], classes: tuple[str, ...]) -> Drawn:
    """The image with the boxes, the surest on top, and what they are in words, the surest first."""
    frames = [
        Frame(
            box.corners,
            classes[box.label] if box.score == 1.0 else f"{classes[box.label]} {box.score:.2f}",
            method_color(box.label, len(classes)),
            not box.right,
        )
        for box in sorted(boxes, key=lambda box: box.score)
    ]
    words = ", ".join(f"{frame.text}{WRONG if frame.dashed else ''}" for frame in reversed(frames))
    return Drawn(picture, tuple(frames), words or "no box")


def _corners(box: NDArray[np.float32]) -> Corners:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2


def _iou(a: Corners, b: Corners) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
