"""Engines whose jobs are shell scripts."""

from __future__ import annotations

import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from kdbench.engines.local import LocalEngine
from kdbench.grid.plan import Plan
from kdbench.launch.memory import Memory, Split
from kdbench.launch.schedule import make_schedule
from kdbench.records.row import Row
from kdbench.spec.run import Run


class Parts(Memory):
    """Memory in which so many students of a cohort fit; no network is traced."""

    def __init__(self, size: int = 99) -> None:
        self.size = size

    def split(self, runs: Sequence[Run], exact: bool = False) -> Split:
        return Split(tuple(tuple(runs[i : i + self.size]) for i in range(0, len(runs), self.size)), "")


def execute(engine: LocalEngine, plan: Plan, size: int = 99) -> list[Row]:
    """What is unfinished of a plan, in jobs of at most `size` runs."""
    made = make_schedule(plan, engine.store, Parts(size), engine.slots)
    return engine.execute(made.jobs, made.runs)


def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let `script` (sh) stand in for every job's process."""
    file = tmp_path / "interpreter"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(file))
