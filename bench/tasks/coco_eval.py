"""COCO's twelve box metrics, by pycocotools (the reference) or faster-coco-eval (equal numbers, faster)."""

from __future__ import annotations

import contextlib
import io
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

PRECISION = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
RECALL = ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
STATS = PRECISION + RECALL

Detection = dict[str, Any]
"""A box in the format of COCO's result files: image_id, category_id, bbox (x, y, width, height), score."""


def evaluate(annotations: Path, image_ids: list[int], detections: list[Detection], reference: bool) -> dict[str, float]:
    """The twelve metrics in percent; a metric without any object to measure it on is left out.

    Args:
        annotations: the split's `instances_*.json`.
        image_ids: all evaluated images, with or without detections.
        detections: of these images; at most 100 an image are counted.
        reference: use pycocotools, otherwise faster-coco-eval.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _truth(annotations, reference)
        # Copies, because `loadRes` changes its argument.
        results = truth.loadRes([dict(box) for box in detections]) if detections else _empty_results(truth)
        evaluation = _evaluation_class(reference)(truth, results, "bbox")
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: 100 * float(value) for name, value in zip(STATS, evaluation.stats[:12], strict=True) if value >= 0}


def name(reference: bool) -> str:
    """Name and version of the evaluator's package."""
    package = "pycocotools" if reference else "faster-coco-eval"
    return f"{package} {version(package)}"


@lru_cache(maxsize=4)
def _truth(annotations: Path, reference: bool) -> Any:
    if reference:
        from pycocotools.coco import COCO
    else:
        from faster_coco_eval import COCO
    truth = COCO(str(annotations))
    for annotation in truth.dataset["annotations"]:
        annotation.setdefault("iscrowd", 0)  # optional in the format, read by the evaluators
    return truth


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
