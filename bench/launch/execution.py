"""Final plans executed: by an engine, with the runs of equal cost after those that tell the cost."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from ..engines.driver import Driver
from ..grid.pairs import pair_name
from ..grid.plan import Plan
from ..records.added import keep_added
from ..records.row import Row
from ..records.store import Store
from ..spec.request import RESULTS
from ..text import counted
from ..trackers import tracker_classes
from .equal_cost import describe, equal_cost_plan
from .planning import FinalPlan, Log
from .schedule import Schedule, make_schedule, threads_of


class Outcome(NamedTuple):
    """What became of a plan: its rows, and whether every run is done."""

    rows: list[Row]
    done: bool


def execute(plan: FinalPlan, log: Log) -> Outcome:
    """Run what is not finished.

    Raises:
        StoreError: the results folder cannot be written; nothing was started.
    """
    outcome = _execute(plan, plan.plan, plan.schedule, log)
    if not plan.request.equal_cost:
        return outcome
    longer = equal_cost_plan(plan.tables, outcome.rows, plan.scale, plan.data, plan.request)
    log(f"{describe(longer.runs)}, each as long as a method takes")
    store, keep_stale = Store(plan.settings.results), plan.request.keep_stale
    threads = threads_of(longer, plan.slots, plan.site.cores)
    schedule = make_schedule(longer, store, plan.memory, threads, keep_stale=keep_stale)
    second = _execute(plan, longer, schedule, log)
    return Outcome([*outcome.rows, *second.rows], outcome.done and second.done)


def _execute(final: FinalPlan, plan: Plan, schedule: Schedule, log: Log) -> Outcome:
    _keep_added(final)
    trackers = tracker_classes(final.request.trackers)
    driver = Driver(final.site.engine(final.slots), final.settings, trackers, final.request.log_dir)
    rows = driver.execute(schedule.jobs, schedule.runs)
    return Outcome(rows, _summarize(plan, rows, _command(final), log))


def _keep_added(final: FinalPlan) -> None:
    """Let tables show what the request added to them."""
    settings = final.settings
    files = {path.stem: path for path in settings.method_files}
    for table in final.tables:
        entries = {pair_name(p): [e for e in table.entries(p) if e.added or p.added] for p in table.pairs}
        pairs = {pair_name(pair): pair for pair in table.pairs if pair.added}
        keep_added(settings.results, table, entries, files, pairs, settings.network_files)


def _command(final: FinalPlan) -> str:
    """What prints the tables of a plan."""
    results = final.settings.results
    place = [] if results == RESULTS else ["--results", shlex.quote(str(results))]
    return " ".join(["kdbench table", *(table.argument for table in final.tables), *place])


def _summarize(plan: Plan, rows: list[Row], command: str, log: Log) -> bool:
    """Log counts by status; whether every run is done."""
    bad = [row for row in rows if row.status != "done"]
    missing = len(plan.runs) - len(rows)
    log(f"{len(rows) - len(bad)} of {counted(len(plan.runs), 'run')} done; `{command}` prints them")
    for row in bad:
        log(f"  {row.status}: {row.run.display_name}: {row.reason}")
    if missing:
        log(f"  {counted(missing, 'run')} without a row; run the same command again")
    return bool(plan.runs) and not bad and not missing
