"""COCO's metrics: both evaluators give the same numbers, and the reference's are COCO's own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbench.datasets import DataError
from kdbench.tasks import coco_eval


def truth(seed: int, images: int = 40, crowds: bool = True) -> dict[str, Any]:
    """Random scenes: category ids with gaps, one class without objects, every fifth image empty, some crowds."""
    draw = np.random.default_rng(seed)
    annotations = []
    for image in range(images):
        for _ in range(0 if image % 5 == 0 else draw.integers(1, 14)):
            box = random_box(draw)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 + 3 * image,
                    "category_id": int(draw.choice([2, 5, 11])),
                    "bbox": box,
                    "area": float(box[2] * box[3] * draw.uniform(0.5, 1.0)),
                    "iscrowd": int(crowds and draw.random() < 0.1),
                }
            )
    return {
        "images": [{"id": 10 + 3 * i, "file_name": f"{i}.jpg", "width": 400, "height": 400} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in (2, 5, 7, 11)],
    }


def random_box(draw: np.random.Generator) -> list[float]:
    width, height = np.exp(draw.uniform(np.log(6), np.log(200), 2))
    return [float(v) for v in (draw.uniform(0, 400 - width), draw.uniform(0, 400 - height), width, height)]


def detections(scene: dict[str, Any], seed: int) -> list[coco_eval.Detection]:
    """Shaken copies of most objects and some inventions, with many equal scores."""
    draw = np.random.default_rng(seed)
    found = []
    for one in scene["annotations"]:
        for _ in range(int(draw.integers(0, 3))):
            box = [float(v + draw.normal(0, 0.08) * one["bbox"][2 + i % 2]) for i, v in enumerate(one["bbox"])]
            kind = one["category_id"] if draw.random() < 0.9 else 7
            found.append(result(one["image_id"], kind, box, draw))
    for image in scene["images"]:
        for _ in range(int(draw.integers(0, 8))):
            found.append(result(image["id"], int(draw.choice([2, 5, 7, 11])), random_box(draw), draw))
    return found


def result(image: int, category: int, box: list[float], draw: np.random.Generator) -> coco_eval.Detection:
    return {"image_id": image, "category_id": category, "bbox": box, "score": round(float(draw.random()), 1)}


def both(file: Path, images: list[int], found: list[coco_eval.Detection]) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics by the reference and by the fast evaluator, each on its own copy of the detections."""
    reference, fast = (
        coco_eval.evaluate(file, images, json.loads(json.dumps(found)), reference) for reference in (True, False)
    )
    return reference, fast


def written(tmp_path: Path, scene: dict[str, Any]) -> tuple[Path, list[int]]:
    file = tmp_path / "instances_val.json"
    file.write_text(json.dumps(scene))
    return file, [image["id"] for image in scene["images"]]


@pytest.mark.parametrize("seed", range(4))
def test_both_evaluators_give_the_same_twelve_numbers(seed: int, tmp_path: Path) -> None:
    scene = truth(seed, crowds=seed % 2 == 0)
    found = detections(scene, seed)
    assert len(scene["annotations"]) > 150 and len(found) > 250
    reference, fast = both(*written(tmp_path, scene), found)
    assert list(reference) == list(fast) == list(coco_eval.STATS)
    assert reference == pytest.approx(fast, abs=1e-9)
    assert 5 < reference["ap"] < 95 and len(set(reference.values())) > 8


def test_perfect_detections_score_a_hundred_and_the_class_without_objects_counts_nowhere(tmp_path: Path) -> None:
    scene = truth(7, crowds=False)
    found = [
        {name: one[name] for name in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for one in scene["annotations"]
    ]
    for metrics in both(*written(tmp_path, scene), found):
        assert metrics["ap"] == pytest.approx(100) and metrics["ap_small"] == pytest.approx(100)
        assert metrics["ar100"] == pytest.approx(100) and metrics["ar1"] < 60


@pytest.mark.parametrize("first", [0, 2**53 + 1, 10**30])
def test_ids_of_any_size_and_from_zero_score_the_same(first: int, tmp_path: Path) -> None:
    scene = truth(7)
    for i, one in enumerate(scene["annotations"]):
        one["id"] = 1 + i
    found = detections(scene, 7)
    expected = both(*written(tmp_path, scene), found)
    (tmp_path / "renumbered").mkdir()
    for name, entries in (("id", scene["images"]), ("image_id", scene["annotations"]), ("image_id", found)):
        for one in entries:
            one[name] += first - 10
    for name, entries in (("id", scene["categories"]), ("category_id", scene["annotations"]), ("category_id", found)):
        for one in entries:
            one[name] += first
    for i, one in enumerate(scene["annotations"]):
        one["id"] = first + i
    assert both(*written(tmp_path / "renumbered", scene), found) == expected


def test_the_truth_as_detections_scores_a_hundred_with_annotation_ids_from_zero(tmp_path: Path) -> None:
    scene = truth(7, crowds=False)
    for i, one in enumerate(scene["annotations"]):
        one["id"] = i
    keys = ("image_id", "category_id", "bbox")
    found = [{name: one[name] for name in keys} | {"score": 0.9} for one in scene["annotations"]]
    for metrics in both(*written(tmp_path, scene), found):
        assert metrics["ap"] == pytest.approx(100)


def test_detections_of_an_image_that_is_not_listed_are_refused(tmp_path: Path) -> None:
    scene = truth(7)
    file, images = written(tmp_path, scene)
    stray = [detections(scene, 7)[0] | {"image_id": 9999}]
    with pytest.raises(DataError, match="instances_val.json: lists no image or category 9999 of the detections"):
        coco_eval.evaluate(file, images, stray, True)


def test_no_detections_at_all_score_zero(tmp_path: Path) -> None:
    for metrics in both(*written(tmp_path, truth(0)), []):
        assert metrics == dict.fromkeys(coco_eval.STATS, 0.0)


def test_a_metric_without_objects_is_left_out(tmp_path: Path) -> None:
    scene = truth(1)
    scene["annotations"] = [one for one in scene["annotations"] if one["area"] > 96**2]
    file, images = written(tmp_path, scene)
    reference, fast = both(file, images, detections(scene, 1))
    left_out = {"ap_small", "ap_medium", "ar_small", "ar_medium"}
    assert set(reference) == set(fast) == set(coco_eval.STATS) - left_out
    assert reference == pytest.approx(fast, abs=1e-9)
    scene["annotations"] = []
    (tmp_path / "empty").mkdir()
    for metrics in both(*written(tmp_path / "empty", scene), detections(truth(1), 1)):
        assert metrics == {}


def test_images_that_were_not_looked_at_do_not_count(tmp_path: Path) -> None:
    scene = truth(2)
    file, images = written(tmp_path, scene)
    found = [one for one in detections(scene, 2) if one["image_id"] in images[:20]]
    half, fast = both(file, images[:20], found)
    assert half == pytest.approx(fast, abs=1e-9)
    whole, _ = both(file, images, found)
    assert whole["ar100"] < half["ar100"]


def test_detections_and_truth_are_as_they_were_when_asked_again(tmp_path: Path) -> None:
    scene = truth(3)
    file, images = written(tmp_path, scene)
    found = detections(scene, 3)
    copy = json.loads(json.dumps(found))
    first = [coco_eval.evaluate(file, images, found, reference) for reference in (True, False)]
    assert found == copy
    assert [coco_eval.evaluate(file, images, found, reference) for reference in (True, False)] == first


def test_an_evaluator_is_called_by_name_and_version() -> None:
    assert coco_eval.name(True).startswith("pycocotools 2.") and coco_eval.name(False).startswith("faster-coco-eval ")


REFERENCE = Path(os.environ.get("KDBENCH_TEST_DATA", "nowhere")) / "coco_eval_reference"


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="KDBENCH_TEST_DATA names no folder with coco_eval_reference/")
@pytest.mark.parametrize("reference", [True, False])
def test_the_published_numbers_of_cocos_own_example_come_out(reference: bool) -> None:
    expected = json.loads((REFERENCE / "expected_stats.json").read_text())["bbox"]
    found = json.loads((REFERENCE / "instances_val2014_fakebbox100_results.json").read_text())
    file = REFERENCE / "instances_val2014_100.json"
    images = [image["id"] for image in json.loads(file.read_text())["images"]]
    metrics = coco_eval.evaluate(file, images, found, reference)
    assert list(metrics.values()) == pytest.approx([100 * value for value in expected], abs=1e-7)


@pytest.mark.parametrize("reference", [True, False])
def test_the_aps_of_the_categories_average_to_the_ap(reference: bool, tmp_path: Path) -> None:
    scene = truth(3)
    file, images = written(tmp_path, scene)
    measured = coco_eval.measure(file, images, detections(scene, 1), reference)
    with_objects = {one["category_id"] for one in scene["annotations"] if not one["iscrowd"]}
    aps = {id_: ap for id_, ap in measured.class_aps.items() if ap is not None}
    assert set(aps) == with_objects and set(measured.class_aps) == {c["id"] for c in scene["categories"]}
    assert sum(aps.values()) / len(aps) == pytest.approx(measured.metrics["ap"])
    assert len(set(aps.values())) > 1
