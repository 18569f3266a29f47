"""Synthetic result rows: whole tables whose every number is chosen, without training anything."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from kdbench import methods
from kdbench.grid.pairs import has_substitute
from kdbench.networks import library
from kdbench.records.row import Cost, Environment, Epoch, Metrics, Row, StudentRecord, TeacherRecord
from kdbench.spec.recipe import Recipe, load_recipe
from kdbench.spec.run import Data, Run
from kdbench.spec.scale import Scale
from kdbench.spec.table import MethodEntry, Pair, Table

COCO = Data(name="coco", fingerprint="c0c0", train_images=118287, val_images=5000, classes=80)
DIGITS = Data(name="digits", fingerprint="d161", train_images=2000, val_images=500, classes=10)
MACHINE = "2-core x86"
MINI_TEACHER = 34.0

Truth = Callable[[Pair, MethodEntry, int], float]
"""The headline metric, in percent, of a pair, a method and a seed."""


def expand(table: Table, scale: Scale, seeds: tuple[int, ...], truth: Truth, **changes: Any) -> list[Row]:
    """One done row for every cell and seed that can run; pairs that share networks share rows, as runs do.

    Of a long run two dozen epochs are in the history, unless `epochs` is among the changes.
    """
    pairs = [pair for pair in table.pairs if (pair.mini if scale == "mini" else not pair.skip and _known(pair))]
    rows = [
        make_row(table, pair, entry, scale, seed, truth(pair, entry, seed), **{"epochs": 24} | changes)
        for pair in pairs
        for entry in table.entries(pair)
        for seed in seeds
    ]
    return list({row.id: row for row in rows}.values())


def _known(pair: Pair) -> bool:
    """Whether a pair runs under its own names, as COCO's do where detectron2 is not installed."""
    return pair.networks is None or library(pair.networks.student) != "detectron2" or has_substitute(pair)


def make_row(
    table: Table,
    pair: Pair,
    entry: MethodEntry,
    scale: Scale,
    seed: int = 0,
    value: float = 30.0,
    *,
    status: str = "done",
    reason: str = "",
    data: Data | None = None,
    recipe: Recipe | None = None,
    teacher_value: float | None = None,
    machine: str = MACHINE,
    finished: str = "2026-01-01T00:00:00+00:00",
    slowdown: float | None = None,
    best: float | None = None,
    epochs: int | None = None,
) -> Row:
    """The row that the run of one cell would leave, ending at `value`; `epochs` at most are in its history."""
    sizes = DIGITS if scale == "mini" else COCO
    data = data or sizes.model_copy(update={"name": getattr(table.dataset, scale)})
    name = table.recipe.mini if scale == "mini" else entry.base_recipe or table.recipe.full
    recipe = recipe or load_recipe(name, _changes(pair, scale))
    run = _run(table, pair, entry, scale, seed, data, recipe)
    done = status == "done"
    measured = teacher_value if teacher_value is not None else _reported_teacher(pair, scale)
    return Row.model_validate_json(
        Row(
            id=run.id,
            run=run,
            status=status,  # type: ignore[arg-type]
            reason=reason or ("" if done else "of no matter here"),
            metrics=_metrics(table.metric, value, value if best is None else best, recipe.epochs) if done else None,
            history=_history(table.metric, value, recipe, data, epochs) if done else (),
            teacher=TeacherRecord(network=run.teacher.student, sha256="cd" * 32, recorded=measured, measured=measured)
            if run.teacher
            else None,
            student=StudentRecord(file=f"{run.id}/student.pt", sha256="cd" * 32) if done else None,
            cost=_cost(entry, scale, recipe, slowdown) if done else None,
            environment=Environment(
                commit="0" * 12,
                python="3.11.9",
                libraries={"torch": "2.11.0"},
                device="cpu",
                machine=machine,
                threads=2,
                deterministic=True,
            ),
            finished=finished,
        ).model_dump_json()
    )


def _run(table: Table, pair: Pair, entry: MethodEntry, scale: Scale, seed: int, data: Data, recipe: Recipe) -> Run:
    networks = pair.mini if scale == "mini" else pair
    assert networks, f"{pair.teacher} -> {pair.student} has no networks at {scale} scale"
    common: dict[str, Any] = {"task": table.task, "scale": scale, "data": data, "recipe": recipe}
    options = methods.resolve(entry.method, entry.options_at(scale))
    full = scale == "full"
    name = (pair.base_teacher_recipe if full else None) or getattr(table.teacher_recipe, scale)
    taught = common | {"recipe": load_recipe(name, pair.teacher_recipe if full else {})}
    teacher = Run(**taught, student=networks.teacher, method="none", options={}, seed=0)
    return Run(
        **common,
        student=networks.student,
        teacher=teacher
        if methods.teacher_mode(entry.method, methods.resolve(entry.method, entry.options_at(scale))) != "none"
        else None,
        method=entry.method,
        options=options,
        seed=seed,
    )


def mini_truth(pair: Pair, entry: MethodEntry, seed: int) -> float:
    """A student at 24 AP, gains from -0.5 to 4 by method, seeds 0.3 apart."""
    noise = random.Random(f"{entry.display_name} {seed}").gauss(0, 0.3)
    gain = 0.0 if entry.method == "none" else random.Random(f"{entry.display_name}").uniform(-0.5, 4.0)
    return 24.0 + gain + noise


def full_truth(pair: Pair, entry: MethodEntry, seed: int) -> float:
    """Near what the papers print: `none` 37.4 to 38.5, most methods two to four points above, `maskd` short of it."""
    noise = random.Random(f"{pair.teacher} {entry.display_name} {seed}").gauss(0, 0.15)
    base = {"fcos_r50_fpn": 38.5, "faster_rcnn_r50_fpn": 38.4}.get(pair.student, 37.4)
    if entry.method == "none":
        return base + noise
    gain = {"maskd": 0.9, "akd+maskd": 2.9, "dist": 2.4, "dist+mimic": 2.7}.get(entry.display_name)
    return base + (random.Random(entry.display_name).uniform(1.0, 2.8) if gain is None else gain) + noise


def _changes(pair: Pair, scale: Scale) -> dict[str, Any]:
    return pair.recipe if scale == "full" else {}


def _reported_teacher(pair: Pair, scale: Scale) -> float:
    reported = {"retinanet_r101_fpn": 38.9, "retinanet_x101_fpn": 41.0, "fcos_r101_fpn": 40.8}
    return MINI_TEACHER if scale == "mini" else reported.get(pair.teacher, 39.8)


def _metrics(metric: str, value: float, best: float, epochs: int) -> Metrics:
    return Metrics(
        last={metric: value} | ({"ap50": min(value + 20, 100.0)} if metric == "ap" else {}),
        best={metric: best},
        best_epoch=epochs,
        mean_last10={metric: value - 0.5},
        evaluated=epochs,
        evaluator="pycocotools 2.0.8",
    )


def _history(metric: str, value: float, recipe: Recipe, data: Data, epochs: int | None) -> tuple[Epoch, ...]:
    """So many epochs, the first and the last among them, or one more; every one without a number."""
    steps, apart = data.train_images // recipe.batch_size, -(-recipe.epochs // (epochs or recipe.epochs))
    return tuple(
        Epoch(
            epoch=epoch,
            steps=epoch * steps,
            lr=recipe.lr,
            losses={"task": 1 / epoch},
            metrics={metric: value * (1 - 0.6 * (1 - epoch / recipe.epochs) ** 1.5)},
        )
        for epoch in sorted({1, *range(recipe.epochs, 0, -apart)})
    )


def _cost(entry: MethodEntry, scale: Scale, recipe: Recipe, slowdown: float | None) -> Cost:
    slow = slowdown if slowdown is not None else 1.0 if entry.method == "none" else 1.2 + 0.15 * len(entry.method) / 5
    student = (0.08 if scale == "mini" else 0.3) * slow
    return Cost(
        params=620_000 if scale == "mini" else 37_740_000,
        flops=2.4e8 if scale == "mini" else 4.78e11,
        image_size=(128, 128) if scale == "mini" else (800, 1333),
        step_seconds=student,
        data_seconds=0.05 * student,
        teacher_seconds=0.0 if entry.method == "none" else 0.3 * student,
        student_seconds=0.65 * student,
        prepare_seconds=4.0 if "maskd" in entry.method else 0.0,
        images_per_second=recipe.batch_size / student,
        peak_memory=1 << 30,
        wall_seconds=60.0,
        cohort=1,
    )
