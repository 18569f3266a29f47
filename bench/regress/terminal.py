"""A comparison in the terminal: the cells that changed, and how many cells have which word."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from .. import tasks
from ..records.row import Row
from ..records.store import InvalidRow
from ..report import values
from ..report.comparability import format_value
from ..report.summary import invalid_row_lines
from ..report.table_view import Footnotes
from ..report.terminal import default_console, list_item
from ..spec.schema import flattened
from ..text import counted
from .compare import CellChange, budget
from .loss_drift import CHANGED
from .stats import ALPHA, SLOWER, WORDS, Change, Word

STYLES: dict[Word, str] = {"regressed": "red", "improved": "cyan", "unsure": "yellow", "not measured": "dim"}
"""Colors only repeat what the words say."""

PRINTED = {"regressed", "improved", "unsure"}
"""Words with which a cell is always printed."""


def print_comparison(
    cells: Sequence[CellChange],
    base: tuple[Path, Sequence[Row]],
    head: tuple[Path, Sequence[Row]],
    invalid: Iterable[InvalidRow] = (),
    every: bool = False,
    console: Console | None = None,
) -> str:
    """Print the origin of BASE's and HEAD's rows, the cells that changed, or `every` cell, and counts.

    Files that are no result rows are listed at the end. Returns what was printed.
    """
    console = console or default_console()
    console.record = True
    notes = Footnotes()
    for side, (folder, rows) in (("BASE", base), ("HEAD", head)):
        console.print(list_item(_origin(folder, rows), f"{side} "))
    names = labels(cells)
    groups: dict[str, list[CellChange]] = defaultdict(list)
    for cell in cells:
        if every or PRINTED & set(cell.words):
            groups[f"{_family(cell)}: noise budget {budget(cell.run):g} points"].append(cell)
    for title, group in groups.items():
        console.print()
        console.print(Text(title, style="bold"))
        console.print(_grid(group, names, notes))
    console.print()
    for i, text in enumerate(notes.texts, 1):
        console.print(list_item(text, f"[{i}] "))
    for line in (*counts(cells), *(f"left out: {line}" for line in invalid_row_lines(invalid))):
        console.print(list_item(line))
    return console.export_text()


def _family(cell: CellChange) -> str:
    return f"{cell.run.data.display_name}, {cell.run.task}, {cell.run.scale} scale"


def _origin(folder: Path, rows: Sequence[Row]) -> str:
    """`results/baselines: 12 rows of commit 3f2ad11a0b1c, on 2-core x86`; with counts where there are several."""
    commits, machines = (
        Counter(getattr(row.environment, name) for row in rows).most_common() for name in ("commit", "machine")
    )
    commit, machine = (
        ", ".join(f"{name} ({n})" if len(counted) > 1 else name for name, n in counted)
        for counted in (commits, machines)
    )
    return f"{folder}: {counted(len(rows), 'row')} of commit {commit}, on {machine}"


def counts(cells: Sequence[CellChange]) -> list[str]:
    """How many cells have which word, for accuracy, losses and speed; with the reasons of those not measured."""
    return [
        f"{counted(len(cells), 'cell')}; a change counts with p <= {ALPHA} (Holm, all cells tested) and beyond the "
        f"noise budget, of speed beyond ×{SLOWER} by ranks, of a loss term beyond {CHANGED:.0%} in the first epoch",
        f"accuracy: {_counted([cell.accuracy for cell in cells])}",
        f"losses: {_counted([cell.losses for cell in cells])}",
        f"speed: {_counted([cell.speed for cell in cells])}",
    ]


def labels(cells: Iterable[CellChange]) -> dict[str, str]:
    """The label of each cell by the id of its run: networks, method, and the fields that tell it from others."""
    peers: dict[tuple[str, ...], list[CellChange]] = defaultdict(list)
    for cell in cells:
        run = cell.run
        peers[_family(cell), run.teacher_network or "", run.student, run.method].append(cell)
    return {cell.run.id: label for group in peers.values() for cell, label in _distinct_labels(group)}


def _distinct_labels(cells: Sequence[CellChange]) -> Iterator[tuple[CellChange, str]]:
    hidden: Any = {"seed": True, "recipe": {"name", "source"}, "teacher": {"recipe": {"name", "source"}}}
    records = [flattened(cell.run.model_dump(mode="json", exclude=hidden)) for cell in cells]
    names = dict.fromkeys(name for record in records for name in record)
    differ = [name for name in names if len({repr(record.get(name)) for record in records}) > 1]
    for cell, record in zip(cells, records, strict=True):
        run = cell.run
        fields = [f"{_bare(name)} {format_value(record.get(name))}" for name in differ]
        networks = f"{run.teacher_network} -> {run.student}" if run.teacher_network else run.student
        yield cell, " ".join([f"{networks} {run.method}", *fields])


def _bare(field: str) -> str:
    return field.removeprefix("options.").removeprefix("recipe.")


def _grid(cells: Sequence[CellChange], names: dict[str, str], notes: Footnotes) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    metric = tasks.headline(cells[0].run.task).title
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
    counted = ", ".join(f"{words[word]} {word}" for word in WORDS if words[word])
    why = Counter(change.reason.split(";")[0] for change in changes if change.word == "not measured")
    return counted + (f" ({'; '.join(f'{n} {reason}' for reason, n in why.most_common())})" if why else "")
