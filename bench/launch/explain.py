"""The plan in words: what runs together or alone and why, in how much memory and time, and what is done or skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..engines.base import Resources
from ..grid.plan import Plan
from ..records.row import Row
from ..records.stale import has_old_teacher, is_stale, trained_weights
from ..spec.run import Run, variants
from ..text import counted
from .cost import duration, operations, seconds
from .devices import machine as machine_of
from .equal_cost import describe, equal_cost_plan, without_cost
from .memory import Memory, Split, bank_bytes
from .planning import FinalPlan
from .schedule import Schedule, ScheduledCohort
from .tracing import UntracedError

Log = Callable[[str], None]


def explain(final: FinalPlan, log: Log) -> None:
    """Print a final plan; where the request says so, with the memory and time of every cohort."""
    schedule, data, exact = final.schedule, final.data, final.request.explain
    log(
        f"{counted(len(schedule.runs), 'run')} in {counted(len(schedule.jobs), 'job')} at scale {final.scale} "
        f"on {data.name} "
        f"({data.train_images} + {counted(data.val_images, 'image')}, {counted(data.classes, 'class', 'classes')}, "
        f"{data.fingerprint}); "
        f"{len(schedule.finished)} finished before"
    )
    _log_rerun(schedule, log)
    machine = machine_of(final.slots[0]) if final.site.here else ""
    rows = list(schedule.finished.values())
    times: list[float | None] = []
    for cohort in schedule.cohorts:
        time = _seconds(cohort.split, rows, machine) if cohort.unfinished else None
        if cohort.unfinished:
            times.append(time)
        log(_line(cohort, final, time, exact))
    if times and (exact or None not in times):
        unfinished = [cohort.unfinished for cohort in schedule.cohorts]
        log(f"  cost: {_cost(times, unfinished, final.memory, len(final.slots))}")
    if exact:
        _log_engine(final, log)
    if final.request.equal_cost:
        log(f"  --equal-cost: {_equal_cost(final, rows)}")
    _log_milestones(final, log)
    _log_banks(final.plan, log)
    _log_skipped(final.plan, log)


def _log_rerun(schedule: Schedule, log: Log) -> None:
    """Rows that do not count, and those of which it is not known whether they should."""
    for file in schedule.damaged:
        log(f"  damaged: {file.path}: {file.reason}; its run is done again")
    if schedule.stale:
        names = ", ".join(sorted({row.run.method for row in schedule.stale}))
        log(
            f"  stale: {counted(len(schedule.stale), 'run')} of {names}, whose code has changed since; done again "
            "(--keep-stale keeps the rows)"
        )
    if again := len(schedule.of_old_teachers):
        log(
            f"  stale: {counted(again, 'run')} whose teacher was trained again since, or is now; done again "
            "(--keep-stale keeps the rows)"
        )
    if kept := sum(is_stale(row) for row in schedule.finished.values()):
        log(f"  stale and kept: {counted(kept, 'row')} of methods whose code has changed since")
    weights = trained_weights(schedule.finished.values())
    if kept := sum(has_old_teacher(row, weights) for row in schedule.finished.values()):
        log(f"  stale and kept: {counted(kept, 'row')} whose teacher was trained again since")
    if unknown := sum(row.code is None for row in schedule.finished.values()):
        log(f"  kept: {counted(unknown, 'row')} of earlier versions; whether the method's code changed is not known")


def _line(cohort: ScheduledCohort, final: FinalPlan, time: float | None, exact: bool) -> str:
    """One cohort: its students and methods, and why it is alone, its memory and time."""
    runs, first = cohort.runs, cohort.runs[0]
    stage = final.plan.stages[cohort.stage]
    suffixes = variants(final.plan.runs)
    students = {run.student for run in runs}
    names = ", ".join(_name(run, suffixes[run.id], len(students) > 1) for run in runs)
    variant = first.data.display_name.removeprefix(final.data.name)
    notes = [alone(first, stage)] if len(runs) == 1 and len(stage) > 1 else []
    if cohort.unfinished:
        unknown = "time unknown" if exact else ""
        notes += [cohort.split.words, unknown if time is None else f"about {duration(time)}"]
    head = (
        f"  stage {cohort.stage + 1}: {' and '.join(sorted(students))}{variant} seed {first.seed}, "
        f"{len(cohort.unfinished)} to do: "
    )
    return head + "; ".join(filter(None, [names, *notes]))


def _name(run: Run, suffix: str, several: bool) -> str:
    """A run of a cohort; where that has several students, with its own."""
    if run.method == "none":
        return run.student
    return f"{run.method}{suffix} ({run.student})" if several else f"{run.method}{suffix}"


def alone(run: Run, stage: Sequence[Sequence[Run]]) -> str:
    """Why a run of a stage is a cohort of one: in what the most similar run differs."""
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


def _seconds(split: Split, rows: Sequence[Row], machine: str) -> float | None:
    """Of all parts of a cohort, one after the other."""
    parts = [seconds(part, rows, machine) for part in split.parts]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _cost(times: Sequence[float | None], left: Sequence[Sequence[Run]], memory: Memory, slots: int) -> str:
    """All cohorts together; in operations where no time is known."""
    known = [time for time in times if time is not None]
    if len(known) == len(times):
        return f"about {duration(sum(known) / min(slots, len(known)))} of training, {counted(slots, 'job')} at a time"
    try:
        total = sum(operations(runs, memory) for runs in left if runs)
    except UntracedError as error:
        return f"unknown ({error})"
    jobs = counted(len(times), "job")
    has = counted(len(times) - len(known), f"of {jobs} has", f"of {jobs} have")
    return f"{total:.2g} floating-point operations of networks in training; {has} no finished run here to tell the time"


def _equal_cost(final: FinalPlan, rows: Sequence[Row]) -> str:
    """The runs that are added for the costs that finished rows tell, and the methods that may add more."""
    given = final.tables, rows, final.scale, final.data
    runs = equal_cost_plan(*given, final.request).runs
    more = without_cost(*given, final.plan)
    known = f"then {describe(runs)}, each as long as a method takes" if runs or not more else ""
    names = ", ".join(more) if len(more) <= 8 else counted(len(more), "method")
    trained = "none and kd" if any(run.method == "kd" for run in final.plan.runs) else "none (no kd runs here)"
    later = f"{trained} trained as long as a method takes, once its cost is measured: {names}" if more else ""
    return "; ".join(filter(None, [known, later]))


def _log_engine(final: FinalPlan, log: Log) -> None:
    """What an engine would be given."""
    device, workers = final.slots[0], final.settings.workers
    needs = [Resources(device, job.threads, workers) for job in final.schedule.jobs]
    for line in final.site.engine(final.slots).explain(needs) if needs else ():
        log(f"  {line}")


def _log_milestones(final: FinalPlan, log: Log) -> None:
    """The milestones of recipes whose epochs the user changed, and not their milestones."""
    changes = final.request.changes
    epochs = {
        changes[f"{owner}epochs"]
        for owner in ("", "teacher.")
        if f"{owner}epochs" in changes and f"{owner}milestones" not in changes
    }
    recipes = {(run.recipe.name, run.recipe.epochs): run.recipe for run in final.plan.runs}
    for recipe in recipes.values():
        if recipe.schedule == "step" and recipe.epochs in epochs:
            places = f"milestones {list(recipe.milestones)}" if recipe.milestones else "no milestone, a constant rate"
            epochs_and_places = f"{counted(recipe.epochs, 'epoch')}, {places}"
            log(f"  recipe {recipe.name}: {epochs_and_places}; --set milestones=[...] sets others")


def _log_banks(plan: Plan, log: Log) -> None:
    for run in {run.method: run for run in plan.runs}.values():
        if size := bank_bytes(run):
            log(f"  memory: {run.method} keeps {size / 2**20:.0f} MiB of past samples for each student")


def _log_skipped(plan: Plan, log: Log) -> None:
    for reason in dict.fromkeys(skipped.reason for skipped in plan.skipped):
        cells = [f"{skipped.table} {skipped.cell}" for skipped in plan.skipped if skipped.reason == reason]
        names = ", ".join(cells) if len(cells) <= 3 else f"{len(cells)} cells, the first {cells[0]}"
        log(f"  skipped: {names}: {reason}")
