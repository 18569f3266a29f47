"""COCO's twelve box metrics, by pycocotools (the reference) or faster-coco-eval (equal numbers, faster)."""

from __future__ import annotations

import contextlib
import io
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from kdbench.datasets.base import DataError

PRECISION = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
RECALL = ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
STATS = PRECISION + RECALL

Detection = dict[str, Any]
"""A box in the format of COCO's result files: image_id, category_id, bbox (x, y, width, height), score."""


def evaluate(annotations: Path, image_ids: list[int], detections: list[Detection], reference: bool) -> dict[str, float]:
    """The metrics of `measure`."""
    return measure(annotations, image_ids, detections, reference).metrics


class Measured(NamedTuple):
    """The twelve metrics in percent, and the AP of each category by its id; None for one without objects."""

    metrics: dict[str, float]
    class_aps: dict[int, float | None]


def measure(annotations: Path, image_ids: list[int], detections: list[Detection], reference: bool) -> Measured:
    """The twelve metrics; one without any object to measure it on is left out.

    Images, annotations and categories are numbered from 1 for the evaluators: an annotation id of 0 means "no match" to
    both, and ids beyond 2^53 lose digits.

    Args:
        annotations: the split's `instances_*.json`.
        image_ids: all evaluated images, with or without detections.
        detections: of these images; at most 100 an image are counted.
        reference: use pycocotools, otherwise faster-coco-eval.

    Raises:
        DataError: the annotation file is broken, or does not list an image or category of the detections.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        coco, images, categories = _truth(annotations, reference)
        try:
            found = [_numbered(box, images, categories) for box in detections]
            evaluated = [images[image] for image in image_ids]
        except KeyError as error:
            raise DataError(f"{annotations}: lists no image or category {error} of the detections") from error
        results = coco.loadRes(found) if found else _empty_results(coco)
        evaluation = _evaluation_class(reference)(coco, results, "bbox")
        evaluation.params.imgIds = evaluated
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = {n: 100 * float(value) for n, value in zip(STATS, evaluation.stats[:12], strict=True) if value >= 0}
    return Measured(metrics, _class_aps(evaluation, categories))


def _class_aps(evaluation: Any, categories: dict[int, int]) -> dict[int, float | None]:
    """AP of each category: the mean precision over thresholds and recalls, for all areas and 100 detections.

    Precision is [thresholds, recalls, categories, areas, detections], -1 where a category has no object.
    """
    precision = evaluation.eval["precision"]
    column = {number: k for k, number in enumerate(evaluation.params.catIds)}
    means = {id_: float(precision[:, :, column[number], 0, -1].mean()) for id_, number in categories.items()}
    return {id_: 100 * mean if mean >= 0 else None for id_, mean in means.items()}


def name(reference: bool) -> str:
    """Name and version of the evaluator's package."""
    package = "pycocotools" if reference else "faster-coco-eval"
    return f"{package} {version(package)}"


class _Truth(NamedTuple):
    """The evaluator's annotations, and its numbers by image id and by category id."""

    coco: Any
    images: dict[int, int]
    categories: dict[int, int]


@lru_cache(maxsize=4)
def _truth(annotations: Path, reference: bool) -> _Truth:
    from kdbench.datasets.coco import ground_truth

    if reference:
        from pycocotools.coco import COCO
    else:
        from faster_coco_eval import COCO
    coco = COCO()
    coco.dataset, images, categories = ground_truth(annotations)
    coco.createIndex()
    return _Truth(coco, images, categories)


def _numbered(box: Detection, images: dict[int, int], categories: dict[int, int]) -> Detection:
    """A copy of a detection, which `loadRes` changes, with the evaluator's numbers."""
    return {**box, "image_id": images[box["image_id"]], "category_id": categories[box["category_id"]]}


def _evaluation_class(reference: bool) -> Any:
    if reference:
        from pycocotools.cocoeval import COCOeval

        return COCOeval
    from faster_coco_eval import COCOeval_faster

    return COCOeval_faster


def _empty_results(truth: Any) -> Any:
    """An empty result set, which `loadRes` cannot make."""
    empty = type(truth)()
    empty.dataset = {"images": truth.dataset["images"], "categories": truth.dataset["categories"], "annotations": []}
    empty.createIndex()
    return empty
