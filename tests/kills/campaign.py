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
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.records.row import Row
from kdbench.records.store import read_rows

COMMON = ["--scale", "mini", "--seeds", "1", "--device", "cpu", "--jobs", "2"]
SHORT = ["batch_size=4", "epoch_steps=3", "epochs=4", "eval_every=4", "warmup_steps=2"]
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


def run_whole(grid: str, results: Path) -> float:
    """Run a grid without a kill; returns its seconds."""
    begin = time.monotonic()
    subprocess.run(command(grid, results), check=True, capture_output=True)
    return time.monotonic() - begin


def run_killed(grid: str, results: Path, kills: int, seconds: float, draw: random.Random) -> Outcome:
    """Run a grid that is killed `kills` times, from its beginning again where it ends before.

    Args:
        grid: of GRIDS.
        results: folder of runs.
        kills: how many.
        seconds: that the grid takes if it is left alone.
        draw: when, and what is killed.
    """
    outcome = Outcome(0, Counter(), [])
    whole, number = results.parent / f"{grid}-whole", 0
    while outcome.kills < kills:
        number += 1
        folder = results / str(number)
        while True:
            left = outcome.kills < kills
            ended = _attempt(grid, folder, draw.uniform(0.1, 0.7) * seconds if left else None, draw, outcome)
            if ended:
                break
        outcome.problems += [f"{grid} {number}: {problem}" for problem in differences(whole, folder)]
        shutil.rmtree(folder)
    return outcome


def _attempt(grid: str, folder: Path, after: float | None, draw: random.Random, outcome: Outcome) -> bool:
    """Start a grid and kill it after some seconds; whether it ended by itself."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        process = subprocess.Popen(command(grid, folder), stdout=log, stderr=log)
        try:
            code = process.wait(after)
        except subprocess.TimeoutExpired:
            outcome.kills += 1
            outcome.phases[_phase(folder)] += 1
            jobs = _children(process.pid)
            if jobs and draw.random() < 0.3:  # a job alone: its runs end as out-of-memory, and are tried again
                _kill(draw.choice(jobs), signal.SIGKILL)
                outcome.phases["a job alone"] += 1
                process.wait()
                return False
            process.send_signal(draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
            process.wait()
            return False
    if code != 0:
        outcome.problems.append(f"{grid} {folder.name}: ended with code {code}")
    return True


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
        if file.parent.name != "jobs" and file.name not in ("row.json", "student.pt", "teacher.pt"):
            problems.append(f"left over: {file.relative_to(parts)}")
    return problems


def comparable(row: Row) -> dict[str, Any]:
    """A row without times, memory and the size of cohorts, which depend on when it was killed."""
    content: dict[str, Any] = json.loads(row.model_dump_json(exclude={"finished"}))
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
            seconds = run_whole(grid, Path(folder) / f"{grid}-whole")
            share = given.kills * (i + 1) // len(grids) - given.kills * i // len(grids)
            outcome = run_killed(grid, Path(folder) / grid, share, seconds, draw)
            total, problems = total + outcome.kills, problems + outcome.problems
            print(f"{grid}: {seconds:.0f} s if left alone; {outcome.kills} kills: {dict(outcome.phases)}", flush=True)
            for problem in outcome.problems:
                print(f"  {problem}", flush=True)
        print(f"{total} kills, {len(problems)} problems")
        sys.exit(bool(problems))


if __name__ == "__main__":
    main()
