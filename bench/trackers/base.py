"""The interface of experiment trackers: one object follows one run, from its first step to its row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..records.row import Row
from ..spec.run import Run

Scalar = int | float | str | bool


@dataclass(frozen=True)
class Settings:
    """What a tracker is told of a run beside its spec.

    Attributes:
        name: of the run, as `kdbench run` prints it.
        folder: of the run, in the folder of runs.
        results: the folder of runs.
        log_dir: where the user wants the tracker's files; None for its default place.
        resumed_at: finished steps of a run that continues from its checkpoint; None for one that starts. All points
            from the first on are reported again, for any of them may have been lost when the run was stopped.
    """

    name: str
    folder: Path
    results: Path
    log_dir: Path | None = None
    resumed_at: int | None = None


class Tracker(ABC):
    """Logs one run. Its methods are called in order, in a thread of their own, and may take their time.

    An exception ends the tracking of that run, with a warning; the run continues.
    """

    requires: ClassVar[str] = ""
    """Name of the library that it needs, which is imported before any work."""

    @classmethod  # noqa: B027 - most need nothing else
    def check(cls) -> None:
        """Whether its library is set up; called before any work.

        Raises:
            SpecError: it is not; says how to set it up.
        """

    @abstractmethod
    def start(self, run: Run, settings: Settings) -> None:
        """Begin the run, or continue it where `settings.resumed_at` says so."""

    @abstractmethod
    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Log `loss/<term>`, `loss/total`, `lr`, `images_per_second` and `data_wait` after a step, counted from 1."""

    @abstractmethod
    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log `val/<metric>`, in percent, after an optimizer step."""

    @abstractmethod
    def finish(self, row: Row) -> None:
        """Log what the run has come to, before `close`."""

    @abstractmethod
    def close(self) -> None:
        """End the tracking. A run that was interrupted has no `finish` before."""


def hyper_parameters(run: Run) -> dict[str, Scalar]:
    """The spec of a run as flat values: networks, data, `option.<name>`, `recipe.<field>`, seed and id."""
    spec: dict[str, Any] = {
        "run": run.id,
        "task": run.task,
        "scale": run.scale,
        "data": run.data.display_name,
        "teacher": run.teacher_network,
        "student": run.student,
        "method": run.method,
        "seed": run.seed,
        "option": run.options,
        "recipe": run.recipe.model_dump(mode="json"),
    }
    return {name: value if isinstance(value, Scalar) else str(value) for name, value in _flat(spec)}


def summary(row: Row) -> dict[str, Scalar]:
    """The row of a run as flat values: id, status, `best/<metric>`, `mean_last10/<metric>`, `cost/<field>`."""
    content: dict[str, Any] = {"run": row.id, "status": row.status, "reason": row.reason, "finished": row.finished}
    if row.metrics is not None:
        content |= {"best": row.metrics.best, "mean_last10": row.metrics.mean_last10}
    if row.cost is not None:
        content["cost"] = row.cost.model_dump(mode="json", exclude={"image_size"})
    return {name: value for name, value in _flat(content, "/") if isinstance(value, Scalar) and value != ""}


def _flat(content: Mapping[str, Any], separator: str = ".", prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, separator, f"{prefix}{name}{separator}")
        elif value is not None:
            yield prefix + name, value
