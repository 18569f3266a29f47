"""The progress of runs: bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..spec.run import Run
from ..text import printable

QUIET_SECONDS = 20  # between two plain lines about the same job


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

    def finished(self, run: Run, event: dict[str, Any]) -> None:
        self.done += 1
        self.progress.update(self.grid, completed=self.done)
        score = ", ".join(f"{name} {value:.1f}" for name, value in list(event["metrics"].items())[:2])
        outcome = score if event["status"] == "done" else f"{event['status']}: {event['reason']}"
        self.log(f"[{self.done}/{self.total}] {self.name(run)}: {outcome}")


class JobDisplay:
    """The progress of one cohort."""

    def __init__(self, display: Display, runs: Sequence[Run]) -> None:
        self.display, self.runs = display, {run.id: run for run in runs}
        self.name = display.name(runs[0]) if len(runs) == 1 else f"{runs[-1].student} x{len(runs)} seed {runs[0].seed}"
        self.batch = runs[0].recipe.batch_size
        self.task: TaskID = display.progress.add_task(self.name, total=None, detail="starting")
        self.last_line = self.last_time = 0.0
        self.last_step = 0

    def update(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "step":
            self._step(event)
        elif kind == "row":
            self.display.finished(self.runs[event["run"]], event)
        elif kind == "resumed":
            place = f"step {event['step']}" if event["step"] else "the method's earlier phase"
            self.display.log(f"{self.display.name(self.runs[event['run']])}: resumed after {place}")
        elif kind == "notice":
            self.display.log(f"{self.display.name(self.runs[event['run']])}: {event['text']}")
        elif kind == "phase":
            self.display.progress.update(self.task, detail=escape(event["text"]))
        elif kind == "warning":
            self.display.log(f"WARNING: {event['text']}")
        elif kind == "epoch" and event["metrics"]:
            name, value = next(iter(event["metrics"].items()))
            self.display.log(
                f"{self.display.name(self.runs[event['run']])}: epoch {event['epoch']}: {name} {value:.1f}"
            )

    def close(self) -> None:
        self.display.progress.remove_task(self.task)

    def _step(self, event: dict[str, Any]) -> None:
        now = time.monotonic()
        speed = ""
        if self.last_time and event["step"] > self.last_step:
            rate = (event["step"] - self.last_step) * self.batch * len(event["losses"]) / (now - self.last_time)
            speed = f"{rate:.0f} images/s"
        self.last_time, self.last_step = now, event["step"]
        detail = f"epoch {event['epoch']}  {_losses(event['losses'])}  {speed}"
        self.display.progress.update(self.task, completed=event["step"], total=event["steps"], detail=escape(detail))
        if not self.display.console.is_terminal and now - self.last_line > QUIET_SECONDS:
            self.last_line = now
            self.display.log(f"{self.name}: step {event['step']}/{event['steps']}  {detail}")


def _losses(losses: dict[str, dict[str, float]]) -> str:
    """Every term of a single run; the range of the totals of a cohort."""
    if len(losses) == 1:
        return " ".join(f"{name} {value:.3g}" for name, value in next(iter(losses.values())).items())
    totals = sorted(sum(terms.values()) for terms in losses.values())
    return f"loss {totals[0]:.3g} to {totals[-1]:.3g}" if totals else ""
