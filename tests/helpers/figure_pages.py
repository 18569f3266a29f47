"""A report with every figure: pairs enough to rank, costs that differ, three commits with a regression."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

from kdbench.records.row import Row
from kdbench.regress.history_page import table_histories
from kdbench.report.evidence import NOTHING
from kdbench.report.html.lines import all_lines
from kdbench.report.html.site import Content, write
from kdbench.report.overview import summarize
from kdbench.spec.recipe import load_recipe
from kdbench.spec.reported import load_reported
from kdbench.spec.table import MethodEntry, Pair, Table, load_table
from tests.helpers.altered import altered
from tests.helpers.report_pages import HOSTILE, rows, tables
from tests.helpers.rows import expand
from tests.helpers.tables import cifar_table

COMMITS = ("c" * 12, "a" * 12, "b" * 12)  # in the order of time
GAINS = {"none": 0.0, "kd": 1.6, "dist": 2.4, "dkd": 2.1, "at": 0.4, HOSTILE: 1.1}
COSTS = {"none": 1.0, "kd": 1.3, "dist": 1.4, "dkd": 1.35, "at": 1.9, HOSTILE: 1.2}


def ranked_table() -> Table:
    """Five pairs with six methods, one of a hostile name."""
    students = ("resnet20", "resnet32", "resnet8x4", "vgg8", "mobilenet_v2")
    pairs = tuple(Pair(teacher="resnet56", student=student) for student in students)
    hostile = MethodEntry(method="kd", label=HOSTILE, options={"temperature": 8.0})
    return cifar_table("none", "kd", "dist", "dkd", "at", hostile, pairs=pairs, name="test/ranks")


def ranked_rows(table: Table, seeds: tuple[int, ...] = (0, 1, 2, 3)) -> list[Row]:
    """Rows of three commits; from the second on, DIST loses three points and AT is twice as slow."""
    made = []
    recipe = load_recipe("cifar_240", {"epochs": 4, "milestones": [2, 3]})
    for at, commit in enumerate(COMMITS):
        for row in expand(table, "full", seeds, partial(_truth, at), recipe=recipe):
            late = at > 0 and row.run.method == "at"
            label = HOSTILE if row.run.options.get("temperature") == 8.0 else row.run.method
            factor = COSTS[label] * (2 if late else 1) / _helper_cost(row.run.method)
            made.append(altered(row, commit=commit, day=at + 1, factor=factor))
    return made


def _helper_cost(method: str) -> float:
    """The factor that the rows' helper gives a method already."""
    return 1.0 if method == "none" else 1.2 + 0.15 * len(method) / 5


def _truth(at: int, pair: Pair, entry: MethodEntry, seed: int) -> float:
    noise = random.Random(f"{pair.student} {entry.display_name} {seed} {at}").gauss(0, 0.15)
    lost = 3.0 if at > 0 and entry.method == "dist" else 0.0
    return 70.0 + GAINS[entry.display_name] - lost + noise


def latest(made: list[Row]) -> list[Row]:
    return list({row.id: row for row in sorted(made, key=lambda row: row.finished)}.values())


def content() -> Content:
    """The rows above and those of `report_pages`, with their histories and the numbers of three files."""
    ranked = ranked_table()
    every = ranked_rows(ranked)
    shown, measured = [*tables(), ranked], [*rows(), *latest(every)]
    reported = {name: load_reported(name) for name in ("akd", "maskd", "lskd")}
    papers = summarize(shown, reported, measured, NOTHING)
    return Content(all_lines(shown, measured, NOTHING, papers), papers, [], reported, table_histories(shown, every))


def build(folder: Path) -> Path:
    """The report in a folder; returns its page of figures."""
    return write(content(), folder).with_name("figures.html")


def build_empty(folder: Path) -> Path:
    """A report without a row or a reported number, of one table; returns its page of figures."""
    shown = [load_table("ad/cifar100")]
    return write(Content(all_lines(shown, [], NOTHING), [], []), folder).with_name("figures.html")
