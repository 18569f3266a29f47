"""Kill `kdbench run` at random times: nothing is lost, and nothing differs from a run that was left alone.

    python -m tests.kills.campaign --kills 100 --engine slurm

runs a tiny grid of each task once without a kill, then again and again with kills of the command, of its job or, with
Slurm, of a node, until as many have hit. Rows must then be equal in all but times and memory, trained weights byte for
byte; no checkpoint, no lease and no temporary file may be left, and finished epochs that were saved may not be trained
again.
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
from tests.helpers.slurm import Cluster

COMMON = ["--scale", "mini", "--seeds", "1", "--device", "cpu", "--jobs", "2"]
ENGINES = {"local": [], "slurm": ["--engine", "slurm", "--slurm", "time=60"], "ray": ["--engine", "ray"]}
KEPT = ("row.json", "student.pt", "teacher.pt", "classes.json")
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


@dataclass(frozen=True)
class Place:
    """Where grids run.

    Attributes:
        engine: of ENGINES.
        cluster: of the Slurm engine.
    """

    engine: str = "local"
    cluster: Cluster | None = None

    def command(self, grid: str, results: Path) -> list[str]:
        changes = [f"--set={prefix}{change}" for change in SHORT for prefix in ("", "teacher.")]
        options = [*GRIDS[grid], *COMMON, *ENGINES[self.engine], *changes, "--results", str(results)]
        return [sys.executable, "-m", "kdbench", "run", *options]

    def kill(self, command: subprocess.Popen[bytes], draw: random.Random) -> str:
        """Kill the command or, in three of ten cases, what trains for it; returns which, empty for the command."""
        jobs = jobs_of(command.args[-1])  # type: ignore[index]
        if jobs and draw.random() < 0.3:
            if self.cluster is not None and draw.random() < 0.5:
                return self._kill_node(draw)
            _kill(draw.choice(jobs), signal.SIGKILL)
            return "a job alone"
        command.send_signal(draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
        return ""

    def _kill_node(self, draw: random.Random) -> str:
        assert self.cluster is not None
        node = draw.choice(self.cluster.nodes)
        self.cluster.kill_node(node)
        self.cluster.start_node(node)
        return "a node"

    def release(self) -> None:
        """Start what Slurm holds back for two minutes because it was interrupted."""
        for job in self.cluster.jobs() if self.cluster is not None else ():
            if job["state"] == "PENDING" and job["reason"] == "BeginTime":
                self.cluster.start_now(job["id"])  # type: ignore[union-attr]


def run_killed(grid: str, results: Path, kills: int, draw: random.Random, place: Place = Place()) -> Outcome:
    """Run a grid once to its end, then again with `kills` kills, from its beginning where it ends before.

    Args:
        grid: of GRIDS.
        results: an empty folder.
        kills: how many.
        draw: when, and what is killed.
        place: where it runs.
    """
    outcome, number, whole = Outcome(0, Counter(), []), 0, results / "whole"
    results.mkdir(parents=True)
    span = _attempt(grid, whole, None, draw, outcome, place)
    assert span is not None
    if outcome.problems:  # there is nothing to compare others with
        return outcome
    while outcome.kills < kills:
        number += 1
        folder = results / str(number)
        ended = None
        while ended is None:
            delay = draw.uniform(0, 0.9 * span) if outcome.kills < kills else None
            ended = _attempt(grid, folder, delay, draw, outcome, place)
        span = min(span, ended) if ended > 1 else span
        outcome.problems += [f"{grid} {number}: {problem}" for problem in differences(whole, folder)]
        print(f"{grid} {number}: {_summary(outcome.kills, len(outcome.problems))}", flush=True)
    return outcome


def _summary(kills: int, problems: int) -> str:
    return f"{counted(kills, 'kill')}, {counted(problems, 'problem')}"


def _attempt(
    grid: str, folder: Path, delay: float | None, draw: random.Random, outcome: Outcome, place: Place
) -> float | None:
    """Start a grid and kill it some seconds after its first job; the seconds since then if it ended by itself."""
    start = time.time()
    with folder.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(place.command(grid, folder), stdout=log, stderr=log, env=os.environ | ONE_THREAD)
        while process.poll() is None and not _has_begun(folder, start):
            time.sleep(0.02)
        begin = time.monotonic()
        try:
            code = _wait(process, delay, place)
        except subprocess.TimeoutExpired:
            outcome.kills += 1
            outcome.phases[_phase(folder)] += 1
            if what := place.kill(process, draw):  # runs of a job alone end as killed, and are tried again
                outcome.phases[what] += 1
            _wait(process, None, place)
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


def _wait(process: subprocess.Popen[bytes], seconds: float | None, place: Place) -> int:
    """Wait for a command, which Slurm may keep waiting.

    Raises:
        subprocess.TimeoutExpired: it has not ended.
    """
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        left = 5.0 if until is None else min(5.0, until - time.monotonic())
        try:
            return process.wait(max(left, 0.0))
        except subprocess.TimeoutExpired:
            if until is not None and time.monotonic() >= until:
                raise
        place.release()


def jobs_of(results: str) -> list[int]:
    """The processes that train runs of a folder, wherever they were started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "kdbench.train.job" in words and any(word.startswith(f"{results}/") for word in words):
                found.append(int(process.name))
    return found


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
        if file.parent.name not in ("jobs", FOLDER) and file.name not in KEPT:
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
    parser.add_argument("--engine", choices=ENGINES, default="local")
    given = parser.parse_args()
    grids, draw = given.grids.split(","), random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        place = Place(given.engine)
        if given.engine == "slurm":
            (Path(folder) / "slurm").mkdir()
            cluster = Cluster(Path(folder) / "slurm")
            stack.callback(cluster.stop)
            cluster.start()
            os.environ.update(cluster.environment)
            place = Place("slurm", cluster)
        total, problems = 0, []
        for i, grid in enumerate(grids):
            share = given.kills * (i + 1) // len(grids) - given.kills * i // len(grids)
            outcome = run_killed(grid, Path(folder) / grid, share, draw, place)
            total, problems = total + outcome.kills, problems + outcome.problems
            print(f"{grid}: {counted(outcome.kills, 'kill')}: {dict(outcome.phases)}", flush=True)
            for problem in outcome.problems:
                print(f"  {problem}", flush=True)
        print(_summary(total, len(problems)))
        sys.exit(bool(problems))


if __name__ == "__main__":
    main()
