"""Engines whose jobs are shell scripts, or run in this process."""

from __future__ import annotations

import stat
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kdbench.engines.base import End, Engine, Handle, Resources
from kdbench.engines.driver import Driver
from kdbench.engines.local import LocalEngine
from kdbench.grid.plan import Plan
from kdbench.launch.memory import Memory, Split
from kdbench.launch.schedule import make_schedule, threads_of
from kdbench.records.row import Row
from kdbench.spec.run import Run
from kdbench.train.events import Event
from kdbench.train.job import Job, JobSettings
from kdbench.train.job import execute as train


class Parts(Memory):
    """Memory in which so many students of a cohort fit; no network is traced."""

    def __init__(self, size: int = 99) -> None:
        self.size = size

    def split(self, runs: Sequence[Run], exact: bool = False) -> Split:
        return Split(tuple(tuple(runs[i : i + self.size]) for i in range(0, len(runs), self.size)), "")


class InProcess(Engine):
    """Trains one job at a time in this process, for starting others takes seconds."""

    slots = ("cpu",)

    def __init__(self) -> None:
        self.news: list[tuple[Handle, Event | End]] = []

    def submit(self, job: Job, resources: Resources) -> Handle:
        handle = job.runs[0].id
        read = Job.model_validate_json(job.model_dump_json())  # as another process would
        train(read, lambda event: self.news.append((handle, event)))
        self.news.append((handle, End("failed", "left no row")))
        return handle

    def poll(self, seconds: float) -> list[tuple[Handle, Event | End]]:
        news, self.news = self.news, []
        return news

    def cancel(self, handle: Handle) -> None:
        raise AssertionError(handle)


def local(results: Path, slots: Sequence[str] = ("cpu",), timeout: float | None = None, **rest: Any) -> Driver:
    """A driver of the local engine."""
    settings = JobSettings(data_root=results.parent, results=results)
    return Driver(LocalEngine(slots, timeout), settings, **rest)


def execute(driver: Driver, plan: Plan, size: int = 99) -> list[Row]:
    """What is unfinished of a plan, in jobs of at most `size` runs."""
    made = make_schedule(plan, driver.store, Parts(size), threads_of(plan, driver.engine.slots))
    return driver.execute(made.jobs, made.runs)


def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let `script` (sh) stand in for every job's process."""
    file = tmp_path / "interpreter"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(file))


class Command:
    """A plan that is executed in a thread, as by a command; its jobs have as many threads as on a local engine."""

    def __init__(self, driver: Driver, *stages: tuple[tuple[Run, ...], ...], threads: int | None = None) -> None:
        self.driver, self.plan, self.threads = driver, Plan(stages, ()), threads
        self.rows: list[Row] = []
        self.thread = threading.Thread(target=self._execute, daemon=True)
        self.thread.start()

    def _execute(self) -> None:
        threads = threads_of(self.plan, self.driver.engine.slots, self.threads)
        made = make_schedule(self.plan, self.driver.store, Parts(), threads)
        self.rows = self.driver.execute(made.jobs, made.runs)

    def finish(self) -> list[Row]:
        self.thread.join(300)
        assert not self.thread.is_alive()
        return self.rows
