"""A comparison in the terminal: the cells that stand out, and how many there are of each word."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from ..records.row import Row
from ..records.store import Misfit
from ..report import values
from ..report.comparability import flat
from ..report.comparability import shown as worded
from ..report.sheet import Footnotes
from ..report.summary import misfit_lines
from ..report.terminal import default_console, item
from ..tasks import METRICS
from .compare import CellChange, budget
from .loss_drift import MOVED
from .stats import ALPHA, SLOWER, WORDS, Change, Word

STYLES: dict[Word, str] = {"regressed": "red", "improved": "cyan", "unsure": "yellow", "not measured": "dim"}
"""Words carry the meaning, colour only repeats it."""

TELLING = {"regressed", "improved", "unsure"}
"""Words that show a cell without being asked."""


def show(
    cells: Sequence[CellChange],
    base: tuple[Path, Sequence[Row]],
    head: tuple[Path, Sequence[Row]],
    misfits: Iterable[Misfit] = (),
    every: bool = False,
    console: Console | None = None,
) -> str:
    """Print where BASE's and HEAD's rows are from, the cells that stand out, or `every` one, and counts.

    Files that are no result rows are listed at the end. Returns what was printed.
    """
    console = console or default_console()
    console.record = True
    notes = Footnotes()
    for side, (folder, rows) in (("BASE", base), ("HEAD", head)):
        console.print(item(_origin(folder, rows), f"{side} "))
    names = labels(cells)
    parts: dict[str, list[CellChange]] = defaultdict(list)
    for cell in cells:
        if every or TELLING & set(cell.words):
            parts[f"{_family(cell)}: noise budget {budget(cell.run):g} points"].append(cell)
    for title, members in parts.items():
        console.print()
        console.print(Text(title, style="bold"))
        console.print(_grid(members, names, notes))
    console.print()
    for i, text in enumerate(notes.texts, 1):
        console.print(item(text, f"[{i}] "))
    for line in (*counts(cells), *(f"left out: {line}" for line in misfit_lines(misfits))):
        console.print(item(line))
    return console.export_text()


def _family(cell: CellChange) -> str:
    return f"{cell.run.data.shown}, {cell.run.task}, {cell.run.scale} scale"


def _origin(folder: Path, rows: Sequence[Row]) -> str:
    """`results/baselines: 12 rows of commit 3f2ad11a0b1c, on 2-core x86`; with counts where there are several."""
    commits, machines = (
        Counter(getattr(row.environment, name) for row in rows).most_common() for name in ("commit", "machine")
    )
    words = [
        ", ".join(f"{name} ({n})" if len(found) > 1 else name for name, n in found) for found in (commits, machines)
    ]
    return f"{folder}: {len(rows)} rows of commit {words[0]}, on {words[1]}"


def counts(cells: Sequence[CellChange]) -> list[str]:
    """How many cells have each word, by accuracy, losses and speed; for those that were not measured, why."""
    return [
        f"{len(cells)} cells; a change counts with p <= {ALPHA} (Holm, all cells tested) and beyond the noise budget, "
        f"of speed beyond ×{SLOWER} by ranks, of a loss term beyond {MOVED:.0%} in the first epoch",
        f"accuracy: {_counted([cell.accuracy for cell in cells])}",
        f"losses: {_counted([cell.losses for cell in cells])}",
        f"speed: {_counted([cell.speed for cell in cells])}",
    ]


def labels(cells: Iterable[CellChange]) -> dict[str, str]:
    """What to call each cell, by the id of its run: networks, method, and whatever else tells it from the others."""
    peers: dict[tuple[str, ...], list[CellChange]] = defaultdict(list)
    for cell in cells:
        run = cell.run
        peers[_family(cell), run.teacher_network or "", run.student, run.method].append(cell)
    return {cell.run.id: label for members in peers.values() for cell, label in _told_apart(members)}


def _told_apart(cells: Sequence[CellChange]) -> Iterator[tuple[CellChange, str]]:
    hidden: Any = {"seed": True, "recipe": {"name", "source"}, "teacher": {"recipe": {"name", "source"}}}
    records = [flat(cell.run.model_dump(mode="json", exclude=hidden)) for cell in cells]
    names = dict.fromkeys(name for record in records for name in record)
    differ = [name for name in names if len({repr(record.get(name)) for record in records}) > 1]
    for cell, record in zip(cells, records, strict=True):
        run = cell.run
        own = [f"{_bare(name)} {worded(record.get(name))}" for name in differ]
        networks = f"{run.teacher_network} -> {run.student}" if run.teacher_network else run.student
        yield cell, " ".join([f"{networks} {run.method}", *own])


def _bare(field: str) -> str:
    return field.removeprefix("options.").removeprefix("recipe.")


def _grid(cells: Sequence[CellChange], names: dict[str, str], notes: Footnotes) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    metric = values.metric_name(METRICS[cells[0].run.task][0])
    grid.add_column("cell", overflow="fold")
    for name in (f"{metric}\nBASE", "\nHEAD", "\nchange (n)"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("\naccuracy", no_wrap=True)
    grid.add_column("\nlosses", no_wrap=True)
    grid.add_column("step\ntime", justify="right", no_wrap=True)
    grid.add_column("\nspeed", no_wrap=True)
    for cell in cells:
        grid.add_row(
            Text(names[cell.run.id]),
            values.number(cell.accuracy.base),
            values.number(cell.accuracy.head),
            values.BLANK if cell.accuracy.size is None else f"{cell.accuracy.size:+.2f} ({cell.accuracy.n})",
            _word(cell.accuracy, notes),
            _word(cell.losses, notes),
            values.BLANK if cell.speed.size is None else f"×{cell.speed.size:.2f}",
            _word(cell.speed, notes),
        )
    return grid


def _word(change: Change, notes: Footnotes) -> Text:
    return Text(change.word + notes.mark([change.reason] if change.reason else []), STYLES.get(change.word, ""))


def _counted(changes: Sequence[Change]) -> str:
    words = Counter(change.word for change in changes)
    found = ", ".join(f"{words[word]} {word}" for word in WORDS if words[word])
    why = Counter(change.reason.split(";")[0] for change in changes if change.word == "not measured")
    return found + (f" ({'; '.join(f'{n} {reason}' for reason, n in why.most_common())})" if why else "")
