"""Rows with a right id and checksum whose fields contradict each other are refused, and the field is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdbench import tasks
from kdbench.records.row import Row
from kdbench.records.row_file import InvalidRow, read_row, with_checksum
from kdbench.spec.metrics import METRICS, unknown_metric
from kdbench.spec.run import hashed_spec
from kdbench.spec.schema import digest
from kdbench.tasks.coco_eval import STATS
from tests.helpers.rows import make_row
from tests.helpers.tables import fixed_table

SCORES = {"top1": 30.0, "top5": 60.0, "agreement": 40.0, "agreement5": 70.0}


def forged(tmp_path: Path, changes: dict[str, Any], code: str | None = "ab" * 8, checksum: bool = True) -> Path:
    """A row's file with its values changed, and with the id of its spec and the checksum of its content."""
    table = fixed_table("dist/cifar100")
    pair = next(pair for pair in table.pairs if pair.mini)
    content = json.loads(make_row(table, pair, table.methods[1], "mini").model_dump_json())
    content["code"] = code
    content["metrics"] |= {"last": SCORES, "best": {"top1": 30.0, "top5": 60.0}}
    for place, value in changes.items():
        *outer, last = place.split(".")
        target = content
        for part in outer:
            target = target[part]
        target[last] = value
    content["id"] = digest(hashed_spec(content["run"]))
    path = tmp_path / content["id"] / "row.json"
    path.parent.mkdir(parents=True)
    text = json.dumps(content, indent=1)
    path.write_bytes(with_checksum(text.removesuffix("\n}").encode()) if checksum else text.encode())
    return path


@pytest.mark.parametrize("checksum", [True, False])
def test_a_row_whose_fields_agree_is_read(tmp_path: Path, checksum: bool) -> None:
    row = read_row(forged(tmp_path, {}, code="ab" * 8 if checksum else None, checksum=checksum))
    assert isinstance(row, Row) and row.metrics and row.metrics.last == SCORES


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metrics.last": {"top5": 60.0}}, "metrics.last: has no top1, the metric of classification"),
        ({"metrics.best": {}}, "metrics.best: has no top1"),
        ({"metrics.last": {**SCORES, "ap": 30.0}}, "metrics.last.ap: is no metric of classification"),
        ({"metrics.last": {**SCORES, "iou/car": 30.0}}, "metrics.last.iou/car: is no metric of classification"),
        ({"metrics.last": {**SCORES, "top5": 1.0}}, "metrics.last.top5: 1.0 is below top1, 30.0"),
        ({"metrics.last": {**SCORES, "agreement5": 1.0}}, "metrics.last.agreement5: 1.0 is below agreement, 40.0"),
        ({"metrics.best": {"top1": 29.9}}, "metrics.best.top1: 29.9 is below the 30.0 of the last epoch"),
        ({"metrics.mean_last10": {"top1": 31.0}}, "metrics.mean_last10.top1: 31.0 is above the best epoch's 30.0"),
        ({"metrics.best_epoch": 99}, "metrics.best_epoch: 99 is not among the recipe's"),
        ({"metrics.evaluated": 0}, "metrics.evaluated: 0 is not 1 to"),
        ({"metrics.evaluated": 99}, "metrics.evaluated: 99 is not 1 to"),
        ({"teacher": None}, "teacher: is missing, and the run has the teacher "),
        ({"teacher.network": "other"}, "teacher.network: is other, and the run's teacher is "),
        ({"cost.step_seconds": 0.0}, "cost.step_seconds: 0.0 is shorter than any step"),
        ({"cost.step_seconds": 5e-324}, "cost.step_seconds: 5e-324 is shorter than any step"),
        ({"cost.step_seconds": 1e308}, "cost.step_seconds: Input should be less than or equal to"),
        ({"cost.prepare_seconds": 1e308}, "cost.prepare_seconds: "),
        ({"cost.wall_seconds": 1e308}, "cost.wall_seconds: "),
        ({"cost.images_per_second": 1e308}, "cost.images_per_second: "),
        ({"cost.flops": 1e308}, "cost.flops: "),
        ({"cost.params": 10**30}, "cost.params: "),
        ({"cost.peak_memory": 10**400}, "cost.peak_memory: "),
        ({"cost.cohort": 10**9}, "cost.cohort: "),
        ({"learned": {"weight": 1e308}}, "learned.weight: "),
        ({"run.data.classes": 0}, "run.data.classes: "),
        ({"run.data.train_images": -5}, "run.data.train_images: "),
        ({"run.data.val_images": 2**70}, "run.data.val_images: "),
        ({"run.seed": -1}, "run.seed: "),
        ({"run.seed": 2**70}, "run.seed: "),
        ({"run.task": "../x"}, "run.task: '../x' is no task"),
    ],
)
def test_a_contradiction_is_named_by_its_field(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    found = read_row(forged(tmp_path, changes))
    assert isinstance(found, InvalidRow) and reason in found.reason, found


def test_a_row_without_the_checksum_that_its_version_writes_is_refused(tmp_path: Path) -> None:
    found = read_row(forged(tmp_path, {"metrics.last": {"top1": 29.0}}, checksum=False))
    assert isinstance(found, InvalidRow) and found.reason.startswith("checksum: is missing"), found


def test_metrics_are_those_of_the_tasks() -> None:
    for task in tasks.names():
        assert METRICS[task][0] == tasks.headline(task).key
        assert unknown_metric(task, [metric.key for metric in tasks.get(task).metrics]) is None
    assert unknown_metric("detection", STATS) is None and unknown_metric("segmentation", ["miou", "iou/a b"]) is None
    assert unknown_metric("detection", ["ap", "iou/a"]) == "iou/a"
