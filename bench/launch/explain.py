"""The plan in words: what runs together or alone and why, in how much memory and time, and what is done or left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..engines.local import FINISHED, LocalEngine
from ..grid.plan import Plan
from ..records import environment
from ..records.row import Row
from ..spec.run import Data, Run
from .cost import duration, operations, seconds
from .memory import Memory, Split, bank_bytes
from .tracing import UntracedError

Say = Callable[[str], None]


def explain(
    plan: Plan, engine: LocalEngine, memory: Memory, data: Data, scale: str, say: Say, exact: bool = False
) -> None:
    """Print a plan; `exact` says of every cohort what memory and time it takes, which costs seconds to find out."""
    found = {run.id: engine.store.row(run.id) for run in plan.runs}
    rows = [row for row in found.values() if row and row.status in FINISHED]
    done = {row.id for row in rows}
    left = {id(cohort): [run for run in cohort if run.id not in done] for stage in plan.stages for cohort in stage}
    splits = {key: _split(runs, memory, exact) for key, runs in left.items()}
    jobs = sum(max(1, len(split.parts)) for split in splits.values())
    say(
        f"{len(plan.runs)} runs in {jobs} jobs at scale {scale} on {data.name} ({data.train_images} + "
        f"{data.val_images} images, {data.classes} classes, {data.fingerprint}); {len(done)} finished before"
    )
    machine = environment.describe(torch.device(engine.devices[0])).machine
    times: list[float | None] = []
    for number, stage in enumerate(plan.stages):
        for cohort in stage:
            runs, split = left[id(cohort)], splits[id(cohort)]
            names = ", ".join(run.student if run.method == "none" else run.method for run in cohort)
            variant = cohort[0].data.shown.removeprefix(data.name)
            notes = [alone(cohort[0], stage)] if len(cohort) == 1 and len(stage) > 1 else []
            if runs:
                times.append(_seconds(split, rows, machine))
                notes += [
                    split.words,
                    ("time unknown" if exact else "") if times[-1] is None else f"about {duration(times[-1])}",
                ]
            say(
                f"  stage {number + 1}: {cohort[-1].student}{variant} seed {cohort[0].seed}, {len(runs)} to do: "
                + "; ".join(filter(None, [names, *notes]))
            )
    if times and (exact or None not in times):
        say(f"  cost: {_cost(times, list(left.values()), memory, len(engine.devices))}")
    _say_banks(plan, say)
    for reason in dict.fromkeys(skipped.reason for skipped in plan.skipped):
        cells = [f"{skipped.table} {skipped.cell}" for skipped in plan.skipped if skipped.reason == reason]
        shown = ", ".join(cells) if len(cells) <= 3 else f"{len(cells)} cells, the first {cells[0]}"
        say(f"  skipped: {shown}: {reason}")


def alone(run: Run, stage: Sequence[Sequence[Run]]) -> str:
    """Why a run of a stage has no company: in what the run that is most like it differs."""
    others = [other for cohort in stage for other in cohort if other.id != run.id and other.student == run.student]
    if not others:
        return "alone: no other run trains this student"
    differences = min((_differences(run, other) for other in others), key=len)
    return f"alone: no other run has its {' and '.join(differences)}" if differences else "alone: --cohort is 1"


def _differences(run: Run, other: Run) -> list[str]:
    """What keeps two runs of one student apart."""
    teachers = (
        run.teacher
        and other.teacher
        and (run.teacher.id, run.teacher_file)
        != (
            other.teacher.id,
            other.teacher_file,
        )
    )
    apart = {
        "variant of the data": run.data != other.data,
        "recipe": run.recipe != other.recipe,
        "seed": run.seed != other.seed,
        "teacher": teachers,
    }
    return [name for name, differs in apart.items() if differs]


def _split(runs: list[Run], memory: Memory, exact: bool) -> Split:
    if not runs:
        return Split((), "")
    enough = not exact and (len(runs) == 1 or memory.bound(runs) <= memory.room)
    return Split((tuple(runs),), "") if enough else memory.split(runs)


def _seconds(split: Split, rows: Sequence[Row], machine: str) -> float | None:
    """Of all parts of a cohort, one after the other."""
    parts = [seconds(part, rows, machine) for part in split.parts]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _cost(times: Sequence[float | None], left: Sequence[Sequence[Run]], memory: Memory, slots: int) -> str:
    """All cohorts together; in operations where no time is known."""
    known = [time for time in times if time is not None]
    if len(known) == len(times):
        return f"about {duration(sum(known) / min(slots, len(known)))} of training, {slots} jobs at a time"
    try:
        total = sum(operations(runs, memory) for runs in left if runs)
    except UntracedError as error:
        return f"unknown ({error})"
    missing = f"{len(times) - len(known)} of {len(times)} jobs have no finished run here to tell their time"
    return f"{total:.2g} floating-point operations of networks in training; {missing}"


def _say_banks(plan: Plan, say: Say) -> None:
    for run in {run.method: run for run in plan.runs}.values():
        if size := bank_bytes(run):
            say(f"  memory: {run.method} keeps {size / 2**20:.0f} MiB of past samples for each student")
