"""What a whole plan takes: time, by table and by number of devices, disk and money, and what these numbers are from."""

from __future__ import annotations

import heapq
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..engines.base import PlannedJob
from ..grid.plan import make_plan
from ..spec.run import Run
from ..text import counted
from ..train import online_teachers as online
from .cost import duration
from .device_facts import CPU
from .estimates import WITHIN, Estimate, Source
from .memory import STATES, Memory
from .planning import FinalPlan
from .tracing import UntracedError, traced

DEVICES = (1, 8)
"""Numbers of devices that wall-clock times are given for, beside the request's."""
ROW = 200_000
"""Bytes of a row with its history, and of a run's other small files."""
HINTS: Mapping[Source, str] = {"roofline": "; --calibrate on such a machine is closer"}
SOURCES: Mapping[Source, str] = {"rows": "finished runs", "calibration": "a calibration", "roofline": "a roofline"}


def totals(final: FinalPlan) -> Iterator[str]:
    """Lines about all jobs of a plan; their time alone where they are to be trained now."""
    jobs, known = final.schedule.jobs, [each for each in final.estimates if each is not None]
    exact = final.request.only_explain
    if not jobs or not (known if exact else len(known) == len(jobs)):
        if jobs and exact:
            yield f"time: unknown ({_why_unknown(final)})"
        return
    total = sum(each.seconds for each in known)
    unknown = f"; not known of {counted(len(jobs) - len(known), 'job')}" if len(known) < len(jobs) else ""
    of = "jobs" if _on_cpu(final) else "one GPU" if final.request.gpus == 1 else counted(final.request.gpus, "GPU")
    yield f"time: about {hours(total)} of {of}, {_range(known)}{unknown}"
    if not exact:
        yield f"done in: about {duration(wall_clock(jobs, len(final.slots)))} {_slots(final, len(final.slots))}"
        return
    several = () if _on_cpu(final) else {max(1, count // final.request.gpus) for count in DEVICES}
    numbers = {min(len(final.slots), len(jobs)), *several}
    yield "done in: " + ", ".join(f"{duration(wall_clock(jobs, n))} {_slots(final, n)}" for n in sorted(numbers))
    yield from _by_table(final)
    yield from _sources(final, known)
    yield _disk(final)
    if final.request.price is not None:
        yield _money(final.request.price, final.request.gpus, total, known)


def hours(seconds: float) -> str:
    """Seconds as an amount of work: in hours, unless it is short."""
    return duration(seconds) if seconds < 5400 else f"{_rounded(seconds / 3600)} h"


def wall_clock(jobs: Sequence[PlannedJob], slots: int) -> float:
    """Seconds until the last job ends, so many at a time, in the driver's order: students once their teacher is done.

    Jobs of unknown time take none.
    """
    place = {run.id: i for i, job in enumerate(jobs) for run in job.runs}
    needs = [{place[r.teacher.id] for r in job.runs if r.teacher and r.teacher.id in place} for job in jobs]
    waiting_for = Counter(run.teacher.id for job in jobs for run in job.runs if run.teacher)
    rank = [-sum(1 + waiting_for[run.id] for run in job.runs) for job in jobs]
    ready = [(rank[i], i) for i, each in enumerate(needs) if not each]
    students: dict[int, list[int]] = {}
    for i, each in enumerate(needs):
        for teacher in each:
            students.setdefault(teacher, []).append(i)
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            i = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + (jobs[i].seconds or 0.0), i))
        now, ended = heapq.heappop(running)
        for i in students.get(ended, []):
            needs[i].discard(ended)
            if not needs[i]:
                heapq.heappush(ready, (rank[i], i))
    return now


def _on_cpu(final: FinalPlan) -> bool:
    """Whether jobs run on a processor, where another number of them would each have other threads."""
    return final.target.device is CPU


def _slots(final: FinalPlan, count: int) -> str:
    if _on_cpu(final):
        return f"with {counted(count, 'job')} at a time"
    return f"on {counted(count * final.request.gpus, 'GPU')}"


def _range(known: Sequence[Estimate]) -> str:
    low, high = bounds(known)
    return f"between {hours(low)} and {hours(high)}"


def bounds(known: Sequence[Estimate]) -> tuple[float, float]:
    """The least and most seconds that jobs may take."""
    low = sum(each.seconds / WITHIN[each.source] for each in known)
    return low, sum(each.seconds * WITHIN[each.source] for each in known)


def _by_table(final: FinalPlan) -> Iterator[str]:
    """Hours of each table, where there are several."""
    if len(final.tables) < 2:
        return
    share = {run.id: (job.seconds or 0.0) / len(job.runs) for job in final.schedule.jobs for run in job.runs}
    given = {run.teacher.student: run.teacher_file for run in final.plan.runs if run.teacher and run.teacher_file}
    each = []
    for table in final.tables:
        runs = make_plan((table,), final.scale, final.data, final.request, given).runs
        each.append(f"{table.name} {hours(sum(share.get(run.id, 0.0) for run in runs))}")
    yield f"by table (runs that several need count for each): {', '.join(each)}"


def _sources(final: FinalPlan, known: Sequence[Estimate]) -> Iterator[str]:
    """What the times are from, and how far they are off."""
    for source, count in Counter(each.source for each in known).items():
        where = final.target.name if source == "roofline" else final.target.machine or final.target.device.name
        off = f"right within a factor of about {WITHIN[source]:g}"
        yield f"from: {SOURCES[source]} of {where} ({counted(count, 'job')}), {off}{HINTS.get(source, '')}"


def _disk(final: FinalPlan) -> str:
    """Disk that what is not finished will take."""
    runs = [run for job in final.schedule.jobs for run in job.runs]
    try:
        kept = sum(_student_bytes(run, final.memory) + ROW for run in runs)
        saved = max(sum(_checkpoint_bytes(run, final.memory) for run in job.runs) for job in final.schedule.jobs)
    except UntracedError as error:
        return f"disk: unknown ({error})"
    at_once = min(len(final.slots), len(final.schedule.jobs))
    free = _free(final.request.results)
    return (
        f"disk: about {_size(kept)} of students and rows, and up to {_size(at_once * saved)} of checkpoints meanwhile; "
        f"{_size(free)} free"
    )


def _student_bytes(run: Run, memory: Memory) -> int:
    network = traced(run.student, memory.shapes(run))
    return network.weights + network.buffers


def _checkpoint_bytes(run: Run, memory: Memory) -> int:
    """Weights, the optimizer's values and a running mean, of the student and its online teachers."""
    networks = [traced(name, memory.shapes(run)) for name in (run.student, *online.teacher_names(run))]
    copies = 1 + STATES[run.recipe.optimizer] + (run.recipe.ema is not None)
    return sum(copies * network.weights + network.buffers for network in networks)


def _free(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _money(price: float, gpus: int, total: float, known: Sequence[Estimate]) -> str:
    amounts = [price * gpus * seconds / 3600 for seconds in (total, *bounds(known))]
    about, low, high = map(_rounded, amounts)
    return f"money: about {about}, between {low} and {high}, at {price:g} an hour"


def _why_unknown(final: FinalPlan) -> str:
    """Why the first job has no time: its networks cannot be traced."""
    run = final.schedule.jobs[0].runs[0]
    names = (run.student, *([run.teacher.student] if run.teacher else []), *online.teacher_names(run))
    for name in names:
        try:
            traced(name, final.memory.shapes(run))
        except UntracedError as error:
            return str(error)
    return "nothing was measured"


def _rounded(value: float) -> str:
    """Two or more digits, with a comma every three."""
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def _size(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
