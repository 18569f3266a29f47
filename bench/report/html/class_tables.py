"""Scores of classes of a cell's first run in the details: best and worst, beside teacher and `none`, and confusions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...records.class_scores import FILE, ClassScores
from ...records.row import Row
from ...text import counted, printable
from ..cells import Cell
from ..class_scores import COUNTED, TITLES, ClassRow, best_and_worst, scores_with_none

MOST = 100
"""Classes of a table; of more, the best and the worst halves of so many."""

CONFUSIONS = 20


class ClassTables:
    """Tables of classes.

    Args:
        results: folder of runs, in which `classes.json` is beside its row.
        rows: of the folder, among which `none` is looked for.
    """

    def __init__(self, results: Path | None = None, rows: Iterable[Row] = ()) -> None:
        self._results = results
        self._students_alone: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
        for row in rows:
            if row.run.method == "none":
                self._students_alone[_key(row)].append(row)

    def sections(self, cell: Cell) -> tuple[list[dict[str, Any]], list[str]]:
        """Sections about the first run that has scores of its classes, and why files are not used."""
        problems: list[str] = []
        if self._results is None:
            return [], problems
        for row in cell.rows:
            if not (self._results / row.id / FILE).exists():
                continue
            scores, classes, problem = scores_with_none(self._results, row, self._students_alone[_key(row)])
            problems += problem.splitlines()
            if scores:
                return _sections(row, scores, classes), problems
        return [], problems


def _key(row: Row) -> tuple[str, str, int]:
    return row.run.student, row.run.data.fingerprint, row.run.seed


def _sections(row: Row, scores: ClassScores, classes: list[ClassRow]) -> list[dict[str, Any]]:
    title, unit = TITLES[scores.metric], COUNTED[scores.metric]
    seed = f"seed {row.run.seed}"
    parts = {"over_teacher": "- teacher", "over_none": "- none"}
    used = [name for name in parts if any(getattr(each, name) is not None for each in classes)]
    rows: list[list[Any]] = [
        [printable(each.name), each.count, _digits(each.score), *(_digits(getattr(each, name)) for name in used)]
        for each in (classes if len(classes) <= MOST else [*classes[: MOST // 2], *classes[-MOST // 2 :]])
    ]
    made = [
        {
            "title": f"{title[0].upper()}{title[1:]} of classes, percent, {seed}",
            "words": _words(scores, classes),
            "head": ["class", unit, title, *(parts[name] for name in used)],
            "signed": [3 + k for k in range(len(used))],
            "rows": rows,
            "sortable": True,
        }
    ]
    if scores.confusions:
        made.append(_confusions(scores, unit, seed))
    return made


def _words(scores: ClassScores, classes: list[ClassRow]) -> list[str]:
    """Best and worst in a sentence, and what the table leaves out."""
    best, worst = best_and_worst(classes)
    told = [f"Best: {_listed(best)}. Worst: {_listed(worst[::-1])}."] if worst else []
    if len(classes) > MOST:
        told.append(f"The table has the best and the worst {MOST // 2} of {len(classes)} classes.")
    unmeasured = [name for name, score in zip(scores.classes, scores.scores, strict=True) if score is None]
    if unmeasured:
        more = f" and {counted(len(unmeasured) - MOST, 'class', 'classes')} more" if len(unmeasured) > MOST else ""
        told.append(f"Not in the validation set: {', '.join(unmeasured[:MOST])}{more}.")
    return [printable(text) for text in told]


def _listed(rows: list[ClassRow]) -> str:
    return ", ".join(f"{row.name} {row.score:.1f}" for row in rows)


def _confusions(scores: ClassScores, unit: str, seed: str) -> dict[str, Any]:
    """The most frequent confusions of the student."""
    frequent = sorted(scores.confusions, key=lambda each: -each[2])[:CONFUSIONS]
    rows = [
        [
            printable(scores.classes[true]),
            printable(scores.classes[predicted]),
            count,
            _digits(100 * count / scores.counts[true]),
        ]
        for true, predicted, count in frequent
    ]
    head = ["true class", "predicted as", unit, "% of the true class"]
    return {"title": f"Most frequent confusions, {seed}", "head": head, "rows": rows, "sortable": True}


def _digits(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
