"""The plan in words: what runs together or alone and why, in how much memory and time, and what is done or skipped."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence

from ..engines.base import Resources
from ..grid.plan import Plan
from ..records.row import Row
from ..records.stale import has_old_teacher, is_stale, trained_weights
from ..spec.run import Run, variants
from ..text import counted
from .cost import duration
from .equal_cost import describe, equal_cost_plan, without_cost
from .memory import GIB, bank_bytes
from .planning import FinalPlan
from .schedule import Schedule, ScheduledCohort
from .totals import hours, totals

Log = Callable[[str], None]

FEW = 20
"""Cohorts that are printed one by one."""
MANY = 12
"""Pairs of a stage above which they are not."""
ALONE = "students alone"


def explain(final: FinalPlan, log: Log) -> None:
    """Print a final plan in a screen: cohorts where they are few, and what all of it takes."""
    schedule, data, exact = final.schedule, final.data, final.request.only_explain
    origin = f", {data.fingerprint}" if final.on_disk else ""
    log(
        f"{counted(len(schedule.runs), 'run')} in {counted(len(schedule.jobs), 'job')} at scale {final.scale} "
        f"on {data.name} ({data.train_images} + {counted(data.val_images, 'image')}, "
        f"{counted(data.classes, 'class', 'classes')}{origin}); {len(schedule.finished)} finished before"
    )
    if not final.on_disk:
        log(f"  {data.name} is not in {final.request.data_root}: sizes as published; finished runs are not recognized")
    _log_rerun(schedule, log)
    if len(schedule.cohorts) <= FEW:
        for i, cohort in enumerate(schedule.cohorts):
            log(_line(cohort, final, _seconds(final, {i}), exact))
    else:
        for line in grouped(final):
            log(f"  {line}")
    for line in totals(final):
        log(f"  {line}")
    if exact:
        _log_engine(final, log)
    if final.request.equal_cost:
        log(f"  --equal-cost: {_equal_cost(final, list(schedule.finished.values()))}")
    _log_milestones(final, log)
    _log_banks(final.plan, log)
    _log_skipped(final.plan, log)


def grouped(final: FinalPlan) -> Iterator[str]:
    """A line for each pair of each stage, or for each stage where pairs are many; and cohorts that memory splits."""
    cohorts = final.schedule.cohorts
    for stage in range(len(final.plan.stages)):
        groups: dict[str, set[int]] = {}
        for i, cohort in enumerate(cohorts):
            if cohort.stage == stage and cohort.unfinished:
                groups.setdefault(_pair(cohort.runs[0], stage), set()).add(i)
        if len(groups) > MANY:
            groups = {f"{counted(len(groups), 'pair')} of networks": set().union(*groups.values())}
        for name, members in sorted(groups.items(), key=lambda group: group[0] != ALONE):
            yield f"stage {stage + 1}: {name}: {_group(final, members)}"
    notes = [each.split.words for each in cohorts if each.unfinished and not _is_size(each.split.words)]
    if notes:
        others = f" (and {counted(len(notes) - 1, 'other cohort')})" if len(notes) > 1 else ""
        yield f"memory: {notes[0].split(' GiB; ', 1)[-1]}{others}"


def _pair(run: Run, stage: int) -> str:
    if run.teacher_network:
        return f"{run.teacher_network} -> {run.student}"
    return "teachers" if stage == 0 else ALONE


def _group(final: FinalPlan, members: set[int]) -> str:
    """Runs, jobs, memory and time of some cohorts."""
    cohorts = [final.schedule.cohorts[i] for i in sorted(members)]
    jobs = [job for job in final.schedule.jobs if job.cohort in members]
    needs = [job.memory for job in jobs if job.memory is not None]
    time = _seconds(final, members)
    notes = [
        f"{counted(sum(len(each.unfinished) for each in cohorts), 'run')} in {counted(len(jobs), 'job')}",
        f"up to {max(needs) / GIB:.1f} GiB" if needs else "",
        "" if time is None else f"about {hours(time)}",
    ]
    return "; ".join(filter(None, notes))


def _is_size(words: str) -> bool:
    """Whether a note on memory is just how much a cohort needs."""
    return not words or words.endswith(" GiB")


def _seconds(final: FinalPlan, members: Container[int]) -> float | None:
    """Of all jobs of cohorts, one after the other; None where one is not known."""
    times = [job.seconds for job in final.schedule.jobs if job.cohort in members]
    known = [time for time in times if time is not None]
    return sum(known) if known and len(known) == len(times) else None


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
    others = [
        (other, next((each for each in cohort if each.teacher), other))
        for cohort in stage
        for other in cohort
        if other.id != run.id and other.student == run.student
    ]
    if not others:
        return "alone: no other run trains this student"
    differences = min((_differences(run, other, taught) for other, taught in others), key=len)
    return f"alone: no other run has its {' and '.join(differences)}" if differences else "alone: --cohort is 1"


def _differences(run: Run, other: Run, taught: Run) -> list[str]:
    """What keeps a run apart from another one of its student, whose cohort's teacher is that of `taught`."""
    teachers = (
        run.teacher
        and taught.teacher
        and (run.teacher.id, run.teacher_file) != (taught.teacher.id, taught.teacher_file)
    )
    apart = {
        "variant of the data": run.data != other.data,
        "recipe": run.recipe != other.recipe,
        "seed": run.seed != other.seed,
        "teacher": teachers,
    }
    return [name for name, differs in apart.items() if differs]


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
    device, common = final.slots[0], final.settings
    needs = [
        Resources(device, job.threads, common.workers, common.world_size, job.memory, job.seconds)
        for job in final.schedule.jobs
    ]
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
