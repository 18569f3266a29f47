"""Scores of each class of a run beside those of its teacher and of our `none`, and what is taken for what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ..records.class_scores import ClassScores, ClassValues, read_class_scores
from ..records.row import Row
from ..records.store import InvalidRow
from ..text import printable

SHOWN = 5
"""Best and worst classes that are listed; up to twice as many classes are all listed."""

TITLES = {"accuracy": "accuracy", "ap": "AP", "iou": "IoU"}
COUNTED = {"accuracy": "images", "ap": "boxes", "iou": "pixels"}


@dataclass(frozen=True)
class ClassRow:
    """One class of a run.

    Attributes:
        name: of the class.
        count: its validation images, boxes or pixels.
        score: of the student, percent.
        over_teacher: the student's score minus the teacher's; None without one.
        over_none: minus that of our `none` of the same student, recipe, data and seed.
    """

    name: str
    count: int
    score: float
    over_teacher: float | None
    over_none: float | None


def class_rows(scores: ClassScores, none: ClassScores | None) -> list[ClassRow]:
    """The measured classes, the best first."""
    teacher: ClassValues = scores.teacher or (None,) * len(scores.classes)
    alone: ClassValues = none.scores if none else (None,) * len(scores.classes)
    rows = [
        ClassRow(name, count, score, _difference(score, taught), _difference(score, base))
        for name, count, score, taught, base in zip(
            scores.classes, scores.counts, scores.scores, teacher, alone, strict=True
        )
        if score is not None
    ]
    return sorted(rows, key=lambda row: -row.score)


def best_and_worst(rows: list[ClassRow]) -> tuple[list[ClassRow], list[ClassRow]]:
    """The first and the last classes of `class_rows`; all of few classes are in the first list."""
    return (rows, []) if len(rows) <= 2 * SHOWN else (rows[:SHOWN], rows[-SHOWN:])


def confusion_lines(scores: ClassScores) -> Iterator[str]:
    """`3 -> 8: 12 of 50 images (24.0 %)`: the most frequent confusions."""
    for true, predicted, count in scores.confusions[:SHOWN]:
        whole = scores.counts[true]
        yield (
            f"{scores.classes[true]} -> {scores.classes[predicted]}: {count} of {whole} {COUNTED[scores.metric]} "
            f"({100 * count / whole:.1f} %)"
        )


def none_of(row: Row, rows: Iterable[Row]) -> Row | None:
    """The finished run of our `none` with the same student, recipe, data and seed; None for such a run itself."""
    run = row.run
    if run.method == "none":
        return None
    shared = (run.task, run.scale, run.student, run.seed, run.data, run.recipe)
    for other in rows:
        found = other.run
        same = (found.task, found.scale, found.student, found.seed, found.data, found.recipe) == shared
        if same and found.method == "none" and other.status == "done":
            return other
    return None


def scores_with_none(results: Path, row: Row, rows: Iterable[Row]) -> tuple[ClassScores | None, list[ClassRow], str]:
    """A run's scores, its classes beside `none`, the best first, and why either file is not used; empty if both are.

    Args:
        results: folder of runs.
        row: of the run.
        rows: of the folder, among which `none` is looked for.
    """
    scores = read_class_scores(results / row.id, row)
    alone = none_of(row, rows)
    none = read_class_scores(results / alone.id, alone) if alone else None
    problems = [f"{each.path}: {each.reason}; not used" for each in (scores, none) if isinstance(each, InvalidRow)]
    if not isinstance(scores, ClassScores):
        return None, [], "\n".join(problems)
    same = isinstance(none, ClassScores) and none.classes == scores.classes
    return scores, class_rows(scores, none if same and isinstance(none, ClassScores) else None), "\n".join(problems)


def print_classes(results: Path, row: Row, rows: Iterable[Row], console: Console) -> None:
    """Print the best and the worst classes of a run and its most frequent confusions; nothing without their file."""
    scores, classes, problem = scores_with_none(results, row, rows)
    if problem:
        console.print(Text(printable(f"\n{problem}")))
    if scores is None:
        return
    best, worst = best_and_worst(classes)
    measured = {"- teacher": [row.over_teacher for row in classes], "- none": [row.over_none for row in classes]}
    differences = {heading: each for heading, each in measured.items() if any(value is not None for value in each)}
    headings = ("class", COUNTED[scores.metric], TITLES[scores.metric], *differences)
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for heading in headings:
        grid.add_column(heading, justify="left" if heading == "class" else "right", overflow="fold")
    for each in [*best, *([None] if worst else []), *worst]:
        grid.add_row(*(Text(printable(text)) for text in (_cells(each, list(differences)) if each else ("...",))))
    console.print()
    console.print(grid)
    unmeasured = [name for name, score in zip(scores.classes, scores.scores, strict=True) if score is None]
    if unmeasured:
        names = f"{', '.join(unmeasured[:SHOWN])}{', ...' if len(unmeasured) > SHOWN else ''}"
        console.print(Text(printable(f"not in the validation set: {names}")))
    if lines := list(confusion_lines(scores)):
        console.print(Text(printable("\n".join(["\nmost confused:", *(f"  {line}" for line in lines)]))))


def _cells(row: ClassRow, differences: list[str]) -> tuple[str, ...]:
    values = {"- teacher": row.over_teacher, "- none": row.over_none}
    printed = ("" if (value := values[name]) is None else f"{value:+.2f}" for name in differences)
    return row.name, str(row.count), f"{row.score:.2f}", *printed


def _difference(score: float, other: float | None) -> float | None:
    return None if other is None else score - other
