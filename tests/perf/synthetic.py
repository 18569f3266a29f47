"""Data, result rows and detections of any number, made in seconds; nothing is learnt from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kdbench.datasets.base import ArraySplit, ImageSet
from kdbench.records.row import Cost, Environment, Epoch, Metrics, Row, StudentRecord, TeacherRecord
from kdbench.records.store import share_equal_parts
from kdbench.spec.run import Data, Run
from kdbench.spec.table import Table
from kdbench.tasks.coco_eval import Detection
from tests.helpers.plans import Choice, runs_of

CIFAR100 = Data(name="cifar100", fingerprint="c1fa", train_images=50_000, val_images=10_000, classes=100)
IMAGE_SIDE = 640  # pixels
CATEGORIES = 80
MACHINE = Environment(
    commit="0" * 12, python="3.11", libraries={}, device="cpu", machine="one", threads=2, deterministic=True
)


def images() -> ImageSet:
    """Noise in the shape and number of CIFAR-100's training set."""
    draw = np.random.default_rng(0)
    train, val = (
        ArraySplit(draw.integers(0, 256, (count, 32, 32, 3), np.uint8), np.arange(count, dtype=np.int64) % 100)
        for count in (CIFAR100.train_images, 1000)
    )
    classes = tuple(f"class {i}" for i in range(CIFAR100.classes))
    half = (0.5, 0.5, 0.5)
    return ImageSet("noise", Path("noise"), classes, train, val, half, half, "0" * 16, len(train))


def rows(table: Table, count: int) -> list[Row]:
    """`count` finished rows, dealt evenly to the table's cells, one seed after the other, as if they had been read.

    Their ids are not the hashes of their specs, which would take longer than all the rest.
    """
    choice = Choice("full", CIFAR100, seeds=(0,))
    pairs = [pair for pair in table.pairs if not pair.skip]
    cells = {
        run.id: _row(run)
        for pair in pairs
        for entry in table.entries(pair)
        for run in runs_of(table, pair, entry, choice)
    }
    firsts = list(cells.values())
    return share_equal_parts(_of_seed(firsts[i % len(firsts)], i // len(firsts)) for i in range(count))


def _of_seed(row: Row, seed: int) -> Row:
    return row.model_copy(update={"id": f"{row.id}-{seed}", "run": _copied(row.run, seed=seed)})


def _copied(run: Run, **changes: Any) -> Run:
    """A run that shares no part with the original, as if it had been read from a file."""
    own: dict[str, Any] = {"data": run.data.model_copy(), "recipe": run.recipe.model_copy()}
    if run.teacher:
        own["teacher"] = _copied(run.teacher)
    return run.model_copy(update=own | changes)


def _row(run: Run) -> Row:
    score = {"top1": 70.0, "top5": 90.0}
    epochs = run.recipe.epochs
    return Row(
        id=run.id,
        run=run,
        status="done",
        metrics=Metrics(
            last=score, best=score, best_epoch=epochs, mean_last10=score, evaluated=epochs, evaluator="none"
        ),
        history=tuple(Epoch(epoch=i + 1, steps=i, lr=0.1, losses={"kd": 1.0}, metrics=score) for i in range(epochs)),
        teacher=TeacherRecord(network=run.teacher.student, sha256="0" * 64, recorded=75.0, measured=75.0)
        if run.teacher
        else None,
        student=StudentRecord(file=f"{run.id}/student.pt", sha256="0" * 64),
        cost=Cost(
            params=1_000_000,
            flops=1e8,
            image_size=(32, 32),
            step_seconds=0.1,
            data_seconds=0.01,
            teacher_seconds=0.04,
            student_seconds=0.05,
            prepare_seconds=0.0,
            images_per_second=640.0,
            peak_memory=1 << 30,
            wall_seconds=3600.0,
            cohort=1,
        ),
        environment=MACHINE,
        finished="2026-01-01T00:00:00+00:00",
    )


def detections(
    images: int, found_per_image: int = 100, objects_per_image: int = 7
) -> tuple[dict[str, Any], list[Detection]]:
    """A COCO annotation file's content, and detections of which every object has some that nearly fit.

    Scores have three digits, so that many are equal, as in float16 result files.
    """
    draw = np.random.default_rng(0)
    truth = _boxes(draw, images * objects_per_image)
    kinds = draw.integers(1, CATEGORIES + 1, len(truth))
    owner = np.repeat(np.arange(1, images + 1), objects_per_image)
    annotations = [
        {"id": i + 1, "image_id": image, "category_id": kind, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, (image, kind, box) in enumerate(zip(owner.tolist(), kinds.tolist(), truth.tolist(), strict=True))
    ]
    source = {
        "images": [{"id": i + 1, "width": IMAGE_SIDE, "height": IMAGE_SIDE} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": f"class {i}"} for i in range(CATEGORIES)],
    }
    count = images * found_per_image
    image = np.repeat(np.arange(images), found_per_image)
    copied = image * objects_per_image + draw.integers(0, objects_per_image, count)  # the object that is nearly hit
    near = draw.random(count) < 0.3
    shaken = truth[copied] + draw.normal(0, 0.1, (count, 4)) * np.tile(truth[copied, 2:], 2)
    box = np.where(near[:, None], shaken, _boxes(draw, count))
    kind = np.where(near, kinds[copied], draw.integers(1, CATEGORIES + 1, count))
    score = draw.random(count).round(3)
    found = zip((image + 1).tolist(), kind.tolist(), box.tolist(), score.tolist(), strict=True)
    return source, [{"image_id": i, "category_id": k, "bbox": b, "score": s} for i, k, b, s in found]


def _boxes(draw: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """x, y, width and height in pixels, sides from 8 to 320: [count, 4]."""
    sides = np.exp(draw.uniform(np.log(8), np.log(320), (count, 2)))
    return np.concatenate([draw.uniform(0, 1, (count, 2)) * (IMAGE_SIDE - sides), sides], axis=1)
