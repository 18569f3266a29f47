"""The runs of another folder, such as of another machine, added to a folder of runs."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import SpecError
from ..records.added import merge_added
from ..records.atomic import write_atomically, writing
from ..records.checkpoint import sha256
from ..records.class_scores import FILE as CLASS_SCORES
from ..records.inference import FILE as INFERENCE
from ..records.leases import Leases
from ..records.row import Row
from ..records.row_file import InvalidRow, read_row
from ..records.store import RUN_ID, Store
from ..text import counted

Log = Callable[[str], None]


def merge(source: Path, target: Path, log: Log) -> bool:
    """Copy the finished runs of a folder that another one lacks; whether every row of it could be used.

    A row is checked as every row that is read, and the student's file against its hash. A run that is finished in both
    folders stays as it is here, one that failed here is replaced by a finished one, and one that is being trained here
    is left alone. Whatever is copied is whole: the row comes last.

    Args:
        source: folder of runs, which is not changed.
        target: folder of runs, made if it is missing.
        log: receives what was added, what was left out and why, and the machines and libraries of the added rows.

    Raises:
        SpecError: the source is no folder of runs, or is the target.
        StoreError: the target cannot be written.
    """
    files = _row_files(source, target)
    store = Store(target)
    added: list[Row] = []
    reasons: list[str] = []
    same = 0
    for file in files:
        row = read_row(file, file.parent.name)
        if isinstance(row, InvalidRow):
            reasons.append(f"{file}: {row.reason}")
        elif row.status == "done" and _is_done(store, row.id):
            same += 1
            if difference := _difference(row, store):
                log(difference)
        elif row.status != "done":
            reasons.append(f"{row.run.display_name}: {row.status} there")
        elif problem := _add(row, source, store):
            reasons.append(problem)
        else:
            added.append(row)
    merge_added(source, target)
    log(f"{counted(len(added), 'run')} added to {target}, {same} finished in both")
    for reason in reasons:
        log(f"left out: {reason}")
    _log_environments(added, log)
    return not reasons


def _row_files(source: Path, target: Path) -> list[Path]:
    if not source.is_dir():
        raise SpecError(f"{source}: no such folder; give a folder of runs, such as OTHER/results/runs")
    if source.resolve() == target.resolve():
        raise SpecError(f"{source}: is the folder of runs itself; give another one")
    files = [file for file in sorted(source.glob("*/row.json")) if RUN_ID.fullmatch(file.parent.name)]
    if not files:
        below = next(source.glob("**/row.json"), None)
        hint = f"; did you mean {below.parents[1]}?" if below is not None else ""
        raise SpecError(f"{source}: has no run; give a folder of runs, such as OTHER/results/runs{hint}")
    return files


def _is_done(store: Store, run_id: str) -> bool:
    row = store.row(run_id)
    return row is not None and row.status == "done"


def _difference(theirs: Row, store: Store) -> str:
    """That two rows of one run have other scores; empty where they agree."""
    ours = store.row(theirs.id)
    if ours is None or ours.metrics is None or theirs.metrics is None or ours.metrics.last == theirs.metrics.last:
        return ""
    scores = ", ".join(
        f"{name} {value:.2f} here and {theirs.metrics.last[name]:.2f} there"
        for name, value in ours.metrics.last.items()
        if name in theirs.metrics.last
    )
    return f"finished in both, and kept as it is here: {theirs.run.display_name}: {scores}"


def _add(row: Row, source: Path, store: Store) -> str:
    """Copy a run's files, with its lease; why it cannot be, empty if it is.

    Raises:
        StoreError: the target cannot be written.
    """
    with Leases(store.root) as leases:
        if leases.take(row.id):
            return f"{row.run.display_name}: is being trained here"
        if _is_done(store, row.id):
            return f"{row.run.display_name}: was finished here meanwhile"
        return store.irreplaceable(row.id) or _copy(row, source, store.root)


def _copy(row: Row, source: Path, target: Path) -> str:
    """Copy a run's files; why it cannot be, empty if it is.

    Raises:
        StoreError: the target cannot be written.
    """
    assert row.student is not None  # of a row that is done
    weights = source / row.student.file
    if weights.exists() and sha256(weights) != row.student.sha256:
        return f"{weights}: is not the file that was measured (its sha256 differs from the one in row.json)"
    folder = target / row.id
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        others = [source / row.id / CLASS_SCORES, source / row.id / INFERENCE, *sorted((source / row.id).glob("*.pt"))]
        for file in [weights, *(other for other in others if other != weights and "checkpoint" not in other.name)]:
            if file.is_file():
                part = folder / f"{file.name}.part"
                shutil.copyfile(file, part)
                part.replace(folder / file.name)
    write_atomically(folder / "row.json", (source / row.id / "row.json").read_bytes())
    return ""


def _log_environments(rows: Iterable[Row], log: Log) -> None:
    """The machines of rows and, where they differ, the versions of libraries."""
    rows = list(rows)
    machines = Counter(row.environment.machine for row in rows)
    for machine, count in sorted(machines.items()):
        log(f"machine: {machine} ({counted(count, 'row')}); speed is compared within one machine alone")
    libraries = {name for row in rows for name in row.environment.libraries}
    for name in sorted(libraries):
        versions = sorted({row.environment.libraries.get(name, "none") for row in rows})
        if len(versions) > 1:
            log(f"versions of {name}: {', '.join(versions)}")
