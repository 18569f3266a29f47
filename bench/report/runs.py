"""The runs of a folder, found again: a list of all, and one with its specification, scores and files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from .. import tasks
from ..errors import SpecError
from ..records.by_name import FOLDER as BY_NAME
from ..records.inference import Network
from ..records.row import Row
from ..records.stale import has_old_teacher, is_stale, trained_weights
from ..records.store import RUN_ID, read_row, read_rows
from ..spec.run import variants
from ..text import counted, printable
from . import inference_cost
from .class_scores import print_classes
from .inference import read_measured
from .terminal import default_console

SHORT = 8
"""Digits of a run's hash in the list; any that are unique name the run."""


@dataclass(frozen=True)
class Listed:
    """A run of a folder.

    Attributes:
        row: its row; None for a run that has none yet.
        name: method and what tells it from other runs of that method.
        stale: why `kdbench run` would train it again; empty where it would not.
    """

    id: str
    folder: Path
    row: Row | None
    name: str = ""
    stale: str = ""


def listed(results: Path) -> list[Listed]:
    """Every run of a folder, the latest first; those without a row, which were begun, come before."""
    rows = {row.id: row for row in read_rows([results])[0]}
    names = variants(row.run for row in rows.values())
    weights = trained_weights(rows.values())
    folders = sorted(path for path in results.iterdir() if RUN_ID.fullmatch(path.name)) if results.is_dir() else []
    begun = [Listed(path.name, path, None) for path in folders if path.name not in rows and any(path.iterdir())]
    done = [
        Listed(row.id, results / row.id, row, row.run.method + names[row.id], _stale(row, weights))
        for row in sorted(rows.values(), key=lambda row: row.finished, reverse=True)
    ]
    return [*begun, *done]


def print_runs(results: Path, console: Console | None = None) -> None:
    """Print a line a run: hash, networks, method, seed, scale and data, status, headline metric and age."""
    console = console or default_console()
    runs = listed(results)
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for heading in ("run", "student", "teacher", "method", "seed", "data", "status", "score", "age"):
        grid.add_column(heading, justify="right" if heading in ("seed", "score", "age") else "left", overflow="fold")
    now = datetime.now(UTC)
    for run in runs:
        grid.add_row(*(Text(printable(text)) for text in _cells(run, now)))
    if runs:
        console.print(grid)
    console.print(f"{counted(len(runs), 'run')} in {results}; `kdbench show RUN` prints one", highlight=False)


def find(results: Path, start: str) -> Listed:
    """The run whose hash begins so, or whose folder or link in `by-name` this is.

    Raises:
        SpecError: none or several do.
    """
    return _find(listed(results), results, start)


def _find(runs: list[Listed], results: Path, start: str) -> Listed:
    linked = next((path for path in (results / BY_NAME / start, Path(start)) if start and path.is_dir()), None)
    beginning = linked.resolve().name if linked else start.lower()
    found = [run for run in runs if run.id.startswith(beginning)] if start else []
    if not found:
        raise SpecError(f"no run in {results} has a hash that begins with {start!r}; `kdbench runs` lists them")
    if len(found) > 1:
        names = ", ".join(run.id for run in found[:5])
        raise SpecError(f"{counted(len(found), 'run')} begin with {start!r}: {names}; give more digits")
    return found[0]


def print_run(results: Path, start: str, console: Console | None = None) -> None:
    """Print a run: its specification as YAML, what was measured, its epochs, its classes and its files.

    Raises:
        SpecError: no run of that name, or several.
    """
    console = console or default_console()
    runs = listed(results)
    run = _find(runs, results, start)

    def say(text: str = "", style: str = "") -> None:
        console.print(Text(printable(text), style=style))

    say(f"run {run.id}", style="bold")
    say(f"folder: {run.folder}")
    if run.row is None:
        reason = getattr(read_row(run.folder / "row.json", run.id), "reason", "") if _has_row(run) else ""
        say(f"status: begun{f'; its row is not valid: {reason}' if reason else ', no row yet'}")
    else:
        for line in _facts(run, run.row):
            say(line)
        say()
        say(_yaml(run.row.run.model_dump(mode="json", exclude_defaults=True)).rstrip())
        _print_epochs(run.row, console)
        rows = [other.row for other in runs if other.row]
        print_classes(results, run.row, rows, console)
        for line in _inference(results, run.row, rows):
            say(line)
    say()
    say("files:")
    for path in sorted(path for path in run.folder.rglob("*") if path.is_file()):
        say(f"  {path.relative_to(run.folder)}  {_size(path.stat().st_size)}")


def _inference(results: Path, row: Row, rows: Sequence[Row]) -> list[str]:
    """Latency, memory and files of the run's network, and the score of its int8 student; nothing if not measured."""
    if row.status != "done":
        return []
    measured, invalid = read_measured(results, rows)
    lines = [f"  {inference_cost.name_of(each)}: {inference_cost.text_of(each)}" for each in measured.of_network(row)]
    lines += [f"  file, {form}: {_size(size)}" for form, size in measured.sizes.get(Network.of(row), {}).items()]
    if row.id in measured.int8:
        metric, score = measured.int8[row.id]
        lines.append(f"  int8 ONNX: {metric} {score:.2f}")
    lines += [f"  left out: {each.path}: {each.reason}" for each in invalid if each.path.parent.name == row.id]
    return ["", "inference:", *lines] if lines else []


def _has_row(run: Listed) -> bool:
    return (run.folder / "row.json").exists()


def _facts(run: Listed, row: Row) -> list[str]:
    """Name, status, scores, cost and origin, a line each."""
    lines = [f"name: {row.run.name_with(run.name.removeprefix(row.run.method))}"]
    remarks = [text for text in (row.reason, run.stale) if text]
    lines.append(f"status: {'; '.join([row.status, *remarks])}")
    if row.metrics:
        for selection in ("last", "best"):
            scores = ", ".join(f"{name} {value:.2f}" for name, value in getattr(row.metrics, selection).items())
            lines.append(f"{selection}: {scores}")
    if row.teacher:
        lines.append(f"teacher: {row.teacher.network}, measured {row.teacher.measured:.2f}")
    if row.cost:
        cost = row.cost
        lines.append(
            f"cost: {cost.params / 1e6:.2f} M parameters, {cost.step_seconds * 1e3:.0f} ms a step, "
            f"{cost.images_per_second:.0f} images/s, {cost.wall_seconds / 60:.1f} min in all"
            + ("" if cost.data_wait is None else f", {cost.data_wait:.0%} of it waiting for data")
        )
    lines.append(f"precision: {row.run.recipe.precision}")
    where = row.environment
    lines.append(f"finished: {row.finished} on {where.machine}, {where.device}, commit {where.commit}")
    return lines


def _print_epochs(row: Row, console: Console) -> None:
    epochs = [epoch for epoch in row.history if epoch.metrics]
    if not epochs:
        return
    key = tasks.headline(row.run.task).key
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for heading in ("epoch", "step", "learning rate", key, "losses"):
        grid.add_column(heading, justify="left" if heading == "losses" else "right", overflow="fold")
    shown = epochs[:: max(1, math.ceil(len(epochs) / 20))]
    for epoch in [*shown, *([epochs[-1]] if epochs[-1] is not shown[-1] else [])]:
        losses = ", ".join(f"{name} {value:.3g}" for name, value in epoch.losses.items())
        score = epoch.metrics.get(key)
        cells = (str(epoch.epoch), str(epoch.steps), f"{epoch.lr:.3g}", "" if score is None else f"{score:.2f}", losses)
        grid.add_row(*(Text(printable(text)) for text in cells))
    console.print()
    console.print(grid)


def _cells(run: Listed, now: datetime) -> tuple[str, ...]:
    row = run.row
    if row is None:
        return run.id[:SHORT], "", "", "", "", "", "begun", "", _age(_changed(run.folder), now)
    key = tasks.headline(row.run.task).key
    score = row.metrics.last.get(key) if row.metrics else None
    status = f"{row.status}, stale" if run.stale else row.status
    shown = "" if score is None else f"{key} {score:.2f}"
    return (
        *(run.id[:SHORT], row.run.student, row.run.teacher_network or "", run.name, str(row.run.seed)),
        *(f"{row.run.data.display_name} ({row.run.scale})", status, shown, _age(_time(row.finished), now)),
    )


def _stale(row: Row, weights: dict[str, str]) -> str:
    if is_stale(row):
        return "stale: its method's code has changed"
    return "stale: its teacher was trained again" if has_old_teacher(row, weights) else ""


def _changed(folder: Path) -> datetime:
    return datetime.fromtimestamp(folder.stat().st_mtime, UTC)


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _age(time: datetime | None, now: datetime) -> str:
    """`3 min`, `5 h`, `12 days`."""
    if time is None:
        return "?"
    minutes = max(0.0, (now - time).total_seconds() / 60)
    if minutes < 100:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.0f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"


def _size(count: int) -> str:
    return f"{count} bytes" if count < 10_000 else f"{count / 2**20:.2f} MiB"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
