"""Kill `kdbench run` at random times: nothing is lost, and nothing differs from a run that was left alone.

    python -m tests.kills.campaign --kills 100

runs a tiny grid of each task once without a kill, then again and again with kills of the command or of its job, until
as many have hit. Rows must then be equal in all but times and memory, trained weights byte for byte; no checkpoint, no
lease and no temporary file may be left, and finished epochs that were saved may not be trained again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.records.by_name import FOLDER
from kdbench.records.row import Row
from kdbench.records.store import read_rows
from kdbench.text import counted

COMMON = ["--scale", "mini", "--seeds", "1", "--device", "cpu", "--jobs", "2"]
SHORT = ["batch_size=4", "epoch_steps=3", "epochs=8", "eval_every=4", "warmup_steps=2"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # threads of so small steps wait for each other on a busy machine
GRIDS = {
    "classification": ["dist/cifar100", "--methods", "kd,dist"],
    "detection": ["dist/coco", "--methods", "dist"],
    "segmentation": ["dist/cityscapes", "--methods", "dist"],
}


@dataclass
class Outcome:
    """What became of a grid: how often it was killed, where, and what went wrong."""

    kills: int
    phases: Counter[str]
    problems: list[str]


def command(grid: str, results: Path) -> list[str]:
    changes = [f"--set={prefix}{change}" for change in SHORT for prefix in ("", "teacher.")]
    return [sys.executable, "-m", "kdbench", "run", *GRIDS[grid], *COMMON, *changes, "--results", str(results)]


def run_killed(grid: str, results: Path, kills: int, draw: random.Random) -> Outcome:
    """Run a grid once to its end, then again with `kills` kills, from its beginning where it ends before.

    Args:
        grid: of GRIDS.
        results: an empty folder.
        kills: how many.
        draw: when, and what is killed.
    """
    outcome, number, whole = Outcome(0, Counter(), []), 0, results / "whole"
    results.mkdir(parents=True)
    span = _attempt(grid, whole, None, draw, outcome)
    assert span is not None
    while outcome.kills < kills:
        number += 1
        folder = results / str(number)
        ended = None
        while ended is None:
            delay = draw.uniform(0, 0.9 * span) if outcome.kills < kills else None
            ended = _attempt(grid, folder, delay, draw, outcome)
        span = min(span, ended) if ended > 1 else span
        outcome.problems += [f"{grid} {number}: {problem}" for problem in differences(whole, folder)]
        print(f"{grid} {number}: {_summary(outcome.kills, len(outcome.problems))}", flush=True)
    return outcome


def _summary(kills: int, problems: int) -> str:
    return f"{counted(kills, 'kill')}, {counted(problems, 'problem')}"


def _attempt(grid: str, folder: Path, delay: float | None, draw: random.Random, outcome: Outcome) -> float | None:
    """Start a grid and kill it some seconds after its first job; the seconds since then if it ended by itself."""
    start = time.time()
    with folder.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(command(grid, folder), stdout=log, stderr=log, env=os.environ | ONE_THREAD)
        while process.poll() is None and not _has_begun(folder, start):
            time.sleep(0.02)
        begin = time.monotonic()
        try:
            code = process.wait(delay)
        except subprocess.TimeoutExpired:
            outcome.kills += 1
            outcome.phases[_phase(folder)] += 1
            jobs = _children(process.pid)
            if jobs and draw.random() < 0.3:  # a job alone: its runs end as out-of-memory, and are tried again
                _kill(draw.choice(jobs), signal.SIGKILL)
                outcome.phases["a job alone"] += 1
            else:
                process.send_signal(draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
            process.wait()
            return None
    if code != 0:
        outcome.problems.append(f"{grid} {folder.name}: ended with code {code}")
    return time.monotonic() - begin


def _has_begun(folder: Path, start: float) -> bool:
    """Whether a job was started after that time."""
    return any(file.stat().st_mtime >= start - 1 for file in folder.glob("jobs/*.log"))


def _phase(folder: Path) -> str:
    names = {path.name for path in folder.glob("*/*")} if folder.exists() else set()
    for name, phase in (("row.json", "with rows"), ("student.pt", "evaluating"), ("checkpoint.pt", "training")):
        if name in names:
            return phase
    return "before the first checkpoint"


def _children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task")
    try:
        return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        return []


def _kill(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(process, number)


def differences(whole: Path, parts: Path) -> list[str]:
    """How a results folder differs from that of a run that was left alone."""
    (one, bad), (other, worse) = read_rows([whole]), read_rows([parts])
    problems = [f"{file.path}: {file.reason}" for file in (*bad, *worse)]
    rows = {row.id: row for row in other}
    for row in one:
        if row.id not in rows:
            problems.append(f"{row.run.display_name}: lost")
        elif comparable(row) != comparable(rows[row.id]):
            problems.append(f"{row.run.display_name}: differs")
    for file in parts.glob("*/*"):
        if file.parent.name not in ("jobs", FOLDER) and file.name not in ("row.json", "student.pt", "teacher.pt"):
            problems.append(f"left over: {file.relative_to(parts)}")
    return problems


def comparable(row: Row) -> dict[str, Any]:
    """A row without the commit, times, memory and the size of cohorts, which depend on when it was killed."""
    content: dict[str, Any] = json.loads(row.model_dump_json(exclude={"finished": True, "environment": {"commit"}}))
    assert content["cost"] is not None
    kept = ("params", "flops", "image_size")
    return content | {"cost": {name: content["cost"][name] for name in kept}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grids", default=",".join(GRIDS))
    given = parser.parse_args()
    grids, draw = given.grids.split(","), random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        total, problems = 0, []
        for i, grid in enumerate(grids):
            share = given.kills * (i + 1) // len(grids) - given.kills * i // len(grids)
            outcome = run_killed(grid, Path(folder) / grid, share, draw)
            total, problems = total + outcome.kills, problems + outcome.problems
            print(f"{grid}: {counted(outcome.kills, 'kill')}: {dict(outcome.phases)}", flush=True)
            for problem in outcome.problems:
                print(f"  {problem}", flush=True)
        print(_summary(total, len(problems)))
        sys.exit(bool(problems))


if __name__ == "__main__":
    main()
