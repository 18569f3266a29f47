"""Scores of each class of a finished run: `classes.json` beside its row.

They are in a file of their own because rows are read by the thousand and a data set can have thousands of classes. A
row without the file, such as one that was kept alone or is older, is a whole row.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from .history import Percent, Record
from .record_file import read_record, write_record
from .row import Count, Row, Sha256
from .row_file import InvalidRow

FILE = "classes.json"
SCHEMA = 1
TOLERANCE = 1e-6
"""Percentage points by which the mean of the classes may be off the run's metric: both are of the same evaluation."""

ClassMetric = Literal["accuracy", "ap", "iou"]
OF_TASK: dict[str, ClassMetric] = {"classification": "accuracy", "detection": "ap", "segmentation": "iou"}
"""What a class's score is; the headline metric is its mean, of accuracies weighted with the classes' images."""

HEADLINE: dict[ClassMetric, str] = {"accuracy": "top1", "ap": "ap", "iou": "miou"}

ClassValues = tuple[Percent | None, ...]
"""Of each class, in percent; None for one that the metric leaves out, because nothing measures it."""


class ClassScores(Record):
    """Scores of each of K classes, of the saved student and of its teacher, by the reference evaluator."""

    schema_version: int = SCHEMA
    run: str = Field(description="Id of the run.")
    student: Sha256 = Field(description="Of the student's file that was evaluated.")
    metric: ClassMetric
    classes: tuple[str, ...] = Field(min_length=1, description="K names.")
    counts: tuple[Count, ...] = Field(description="Validation images, boxes or pixels of each class.")
    scores: ClassValues = Field(description="Of the student.")
    teacher: ClassValues | None = Field(
        default=None, description="Of the frozen teacher, measured before training, or of the first online teacher."
    )
    confusions: tuple[tuple[Count, Count, Count], ...] = Field(
        default=(),
        description="The student's most frequent confusions: index of the true and of the predicted class, and how "
        "many images or pixels; empty for detection. Up to 100 classes have all.",
    )

    @model_validator(mode="after")
    def _fits_classes(self) -> Self:
        for name in ("counts", "scores", "teacher"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.classes):
                raise ValueError(f"{name}: has {len(values)} values for {len(self.classes)} classes")
        for true, predicted, count in self.confusions:
            if true == predicted or max(true, predicted) >= len(self.classes):
                raise ValueError(f"confusions: {true}, {predicted} is no pair of the {len(self.classes)} classes")
            if count > self.counts[true]:
                raise ValueError(f"confusions: {count} of class {true}, which has {self.counts[true]}")
        return self

    def mean(self, scores: ClassValues) -> float:
        """The headline metric of some scores of these classes; NaN where no class has one."""
        weights = self.counts if self.metric == "accuracy" else (1,) * len(scores)
        pairs = [(score, weight) for score, weight in zip(scores, weights, strict=True) if score is not None]
        total = sum(weight for _, weight in pairs)
        return math.fsum(score * weight for score, weight in pairs) / total if total else math.nan


def write_class_scores(folder: Path, scores: ClassScores) -> Path:
    """Write the scores into the folder of a run; returns the file.

    Raises:
        StoreError: the folder cannot be written or the disk is full.
    """
    path = folder / FILE
    write_record(path, scores)
    return path


def read_class_scores(folder: Path, row: Row) -> ClassScores | InvalidRow | None:
    """The scores in the folder of a row's run; None where it has none.

    They are those of the row: of its student's file, and with its metrics for their mean.
    """
    path = folder / FILE
    if row.status != "done" or not path.exists():
        return None
    scores = read_record(path, ClassScores)
    if not isinstance(scores, ClassScores):
        return scores
    wrong = _contradiction(row, scores)
    return InvalidRow(path, wrong) if wrong else scores


def _contradiction(row: Row, scores: ClassScores) -> str:
    """What the scores and their row say against each other; empty where they agree."""
    assert row.student is not None and row.metrics is not None  # it is done
    if scores.run != row.id or scores.student != row.student.sha256:
        return "student: is not the one that the row beside it was measured of"
    if scores.metric != OF_TASK.get(row.run.task):
        return f"metric: {scores.metric} is not of {row.run.task}"
    if len(scores.classes) != row.run.data.classes:
        return f"classes: are {len(scores.classes)}, and the row's data has {row.run.data.classes}"
    key = HEADLINE[scores.metric]
    told = [("scores", scores.scores, row.metrics.last.get(key))]
    if scores.teacher is not None:
        told.append(("teacher", scores.teacher, row.teacher.measured if row.teacher else None))
    for name, values, expected in told:
        mean = scores.mean(values)
        if expected is None or not abs(mean - expected) <= TOLERANCE:
            return f"{name}: their mean is {mean:.4f}, and the row has {key} {expected}"
    return ""
