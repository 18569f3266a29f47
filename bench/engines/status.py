"""Who trains what: the jobs of a results folder, of every command, machine and engine that works on it."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..records.leases import STALE, Holder, Leases
from ..records.store import read_rows
from ..spec.run import Run, variants
from ..text import counted, printable
from ..train.events import ErrorEvent, Event, StepEvent
from .job_files import JobFiles
from .slurm_commands import ELEMENT, PENDING, queue_states

WIDTH = 140
"""Characters of a line where the output is no terminal."""

E = TypeVar("E", StepEvent, ErrorEvent)


@dataclass(frozen=True)
class JobStatus:
    """A job whose runs have no rows yet.

    Attributes:
        files: of the job.
        runs: of the job.
        device: that it was given.
        holder: the process that trains it; None where none does.
        silent: seconds since that process last showed that it lives; 0 where it does not train.
        last: its last step; None before the first.
        failure: what has ended it, as it says.
        queue: what Slurm says of it where it is in its queue, or its name where nothing is known; empty without one.
    """

    files: JobFiles
    runs: tuple[Run, ...]
    device: str
    holder: Holder | None
    silent: float
    last: StepEvent | None
    failure: ErrorEvent | None
    queue: str

    @property
    def state(self) -> str:
        """In a few words."""
        if self.failure:
            return self.failure.status
        if self.holder is None:
            return self.queue or "stopped"
        if self.silent > STALE:
            return f"silent for {self.silent / 60:.0f} min"
        return "training" if self.last else "starting"

    @property
    def progress(self) -> str:
        """Steps and speed, as last reported."""
        if self.last is None:
            return ""
        speed = self.last.images_per_second * len(self.last.losses)
        return f"step {self.last.step}/{self.last.steps}, epoch {self.last.epoch}, {speed:.0f} images/s"


def job_statuses(results: Path) -> list[JobStatus]:
    """Every job of a results folder whose runs have no rows yet; of several with the same runs, the newest."""
    leases, jobs = Leases(results), JobFiles.all(results)
    queues = _queues(jobs)
    found = [status for files in jobs if (status := _status(files, results, leases, queues[files.name]))]
    return list({frozenset(run.id for run in status.runs): status for status in found}.values())


def print_status(results: Path, console: Console | None = None) -> None:
    """Print a line a job: its run, state, machine, device and progress; and how many runs have which result."""
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    statuses = job_statuses(results)
    suffixes = variants(run for status in statuses for run in status.runs)
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for heading in ("runs", "state", "where", "progress"):
        grid.add_column(heading, overflow="fold")
    for each in statuses:
        where = f"{each.holder}, {each.device}" if each.holder else ""
        name = _name(each.runs, suffixes)
        grid.add_row(*(Text(printable(text)) for text in (name, each.state, where, each.progress)))
    if statuses:
        console.print(grid)
    counts = Counter(row.status for row in read_rows([results])[0])
    ended = ", ".join(f"{count} {status}" for status, count in counts.most_common()) or "none"
    training = sum(status.holder is not None for status in statuses)
    console.print(f"{counted(training, 'job')} under way in {results}; results of runs: {ended}", soft_wrap=True)


def _name(runs: tuple[Run, ...], suffixes: dict[str, str]) -> str:
    first = runs[0].name_with(suffixes[runs[0].id])
    return first if len(runs) == 1 else f"{first} and {len(runs) - 1} more"


def _queues(jobs: Sequence[JobFiles]) -> dict[str, str]:
    """By job, what is known of it in its queue; empty where it is in none."""
    names = {files.name: files.queue_name() for files in jobs}
    known = queue_states(names.values())
    return {files.name: _in_queue(files, names[files.name], known) for files in jobs}


def _in_queue(files: JobFiles, name: str, known: Mapping[str, str] | None) -> str:
    if not ELEMENT.fullmatch(name):
        lost = files.followers.exists() and not files.followed_by()  # it ends with the command that follows it
        return f"queued: {name}" if name and not lost else ""
    if known is None:  # Slurm cannot be asked from here
        return f"submitted: {name}"
    state = known.get(name, "")
    return f"{'queued' if state == PENDING else state.lower()}: {name}" if state else ""


def _status(files: JobFiles, results: Path, leases: Leases, queue: str) -> JobStatus | None:
    job = files.job()
    if job is None:
        return None
    holders = [(run.id, holder) for run in job.runs if (holder := leases.holder(run.id))]
    if not holders and files.is_settled():
        return None
    silent = min((time.time() - beat for run, _ in holders if (beat := leases.last_beat(run))), default=0.0)
    events = files.new_events()
    holder = holders[0][1] if holders else None
    last, failure = _last(events, StepEvent), _last(events, ErrorEvent)
    return JobStatus(files, job.runs, job.device, holder, silent, last, failure, queue)


def _last(events: Iterable[Event], kind: type[E]) -> E | None:
    found = None
    for event in events:
        if isinstance(event, kind):
            found = event
    return found
