"""COCO's evaluation: the evaluator of final numbers beside the one that epochs use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kdbench.tasks import coco_eval

from . import synthetic
from .turns import in_turn, record


@pytest.mark.parametrize("images", [500, pytest.param(5000, marks=pytest.mark.long)])
def test_coco_evaluation(images: int, benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """100 detections an image, annotations read before; both find the same twelve numbers."""
    truth, found = synthetic.detections(images)
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(truth))
    ids = [image["id"] for image in truth["images"]]
    scores: dict[bool, dict[str, float]] = {}

    def evaluate(reference: bool) -> None:
        scores[reference] = coco_eval.evaluate(file, ids, found, reference)

    sides = {"fast": lambda: evaluate(False), "pycocotools": lambda: evaluate(True)}
    for reference in (True, False):
        coco_eval.evaluate(file, ids, found[:1], reference)
    times = in_turn(benchmark, 1 if images == 5000 else 3, sides, warmup=0)
    record(benchmark, "pycocotools / fast", [one["pycocotools"] / one["fast"] for one in times])
    assert list(scores[True]) == list(coco_eval.STATS)
    assert scores[True] == pytest.approx(scores[False], abs=1e-9)
