"""The progress of runs: bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..spec.run import Run
from ..text import printable
from ..train.events import (
    EpochEvent,
    Event,
    HeldEvent,
    NoticeEvent,
    PhaseEvent,
    ResumedEvent,
    RowEvent,
    StepEvent,
    WarningEvent,
)

QUIET_SECONDS = 20  # between two plain lines about the same job
SHOWN_WAIT = 0.01  # share of the time
MOST_TOTALS = 4  # losses of a cohort that are printed one by one


class Display:
    """One bar for the grid of runs and one for each job under way.

    Args:
        total: runs of the whole grid.
        done: how many of them were finished before.
        variants: by run, what tells it from other runs of its method.
    """

    def __init__(self, total: int, done: int, variants: Mapping[str, str] = MappingProxyType({})) -> None:
        self.variants = variants
        self.console = Console(stderr=False, soft_wrap=True, highlight=False)
        self.total, self.done = total, done
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.grid = self.progress.add_task("runs", total=total, completed=done, detail="")

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def name(self, run: Run) -> str:
        return run.name_with(self.variants.get(run.id, ""))

    def log(self, line: str) -> None:
        self.console.print(escape(printable(line)))
        sys.stdout.flush()

    def job(self, runs: Sequence[Run]) -> JobDisplay:
        return JobDisplay(self, runs)

    def again(self, count: int) -> None:
        """Runs that were finished are done again."""
        self.done -= count
        self.progress.update(self.grid, completed=self.done)

    def finished(self, run: Run, event: RowEvent) -> None:
        self.done += 1
        self.progress.update(self.grid, completed=self.done)
        score = ", ".join(f"{name} {value:.1f}" for name, value in list(event.metrics.items())[:2])
        outcome = score if event.status == "done" else f"{event.status}: {event.reason}"
        self.log(f"[{self.done}/{self.total}] {self.name(run)}: {outcome}")


class JobDisplay:
    """The progress of one cohort."""

    def __init__(self, display: Display, runs: Sequence[Run]) -> None:
        self.display, self.runs = display, {run.id: run for run in runs}
        self.name = display.name(runs[0]) if len(runs) == 1 else f"{runs[-1].student} x{len(runs)} seed {runs[0].seed}"
        self.labels = _labels(runs, display.variants)
        self.task: TaskID = display.progress.add_task(self.name, total=None, detail="starting")
        self.last_line = 0.0

    def update(self, event: Event) -> None:
        match event:
            case StepEvent():
                self._step(event)
            case RowEvent():
                self.display.finished(self.runs[event.run], event)
            case ResumedEvent():
                place = f"step {event.step}" if event.step else "the method's earlier phase"
                self._log(event.run, f"resumed after {place}")
            case NoticeEvent():
                self._log(event.run, event.text)
            case HeldEvent():
                self._log(event.run, f"{event.holder} trains it; waiting for its result")
            case PhaseEvent():
                self.display.progress.update(self.task, detail=escape(event.text))
            case WarningEvent():
                self.display.log(f"WARNING: {event.text}")
            case EpochEvent() if event.metrics:
                name, value = next(iter(event.metrics.items()))
                self._log(event.run, f"epoch {event.epoch}: {name} {value:.1f}")

    def close(self) -> None:
        self.display.progress.remove_task(self.task)

    def _log(self, run: str, text: str) -> None:
        self.display.log(f"{self.display.name(self.runs[run])}: {text}")

    def _step(self, event: StepEvent) -> None:
        speed = f"{event.images_per_second * len(event.losses):.0f} images/s"
        waits = f"  {event.data_wait:.0%} waiting for data" if event.data_wait >= SHOWN_WAIT else ""
        detail = f"epoch {event.epoch}  {self._losses(event.losses)}  {speed}{waits}"
        self.display.progress.update(self.task, completed=event.step, total=event.steps, detail=escape(detail))
        now = time.monotonic()
        if not self.display.console.is_terminal and now - self.last_line > QUIET_SECONDS:
            self.last_line = now
            self.display.log(f"{self.name}: step {event.step}/{event.steps}  {detail}")

    def _losses(self, losses: dict[str, dict[str, float]]) -> str:
        """Every term of a single run; the totals of a cohort, of a large one their range."""
        if len(losses) == len(self.runs) == 1:
            return " ".join(f"{name} {value:.3g}" for name, value in next(iter(losses.values())).items())
        totals = {run: sum(terms.values()) for run, terms in losses.items()}
        if len(totals) > MOST_TOTALS:
            return f"loss {min(totals.values()):.3g} to {max(totals.values()):.3g}"
        return "loss" + ",".join(f" {self.labels[run]} {total:.3g}" for run, total in totals.items()) if totals else ""


def _labels(runs: Sequence[Run], variants: Mapping[str, str]) -> dict[str, str]:
    """By run, its method and what tells it from others; with the student's name where the runs have several."""
    several = len({run.student for run in runs}) > 1
    names = {run.id: run.method + variants.get(run.id, "") for run in runs}
    return {run.id: f"{run.student} {names[run.id]}" if several else names[run.id] for run in runs}
