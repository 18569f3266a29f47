"""A comparison in the terminal: changed cells are printed, all cells on demand, and what is left out is counted."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from kdbench.records.row import Row
from kdbench.records.store import InvalidRow
from kdbench.regress.compare import CellChange, compare
from kdbench.regress.terminal import counts, labels, print_comparison
from tests.helpers.altered import altered
from tests.helpers.rows import DIGITS, make_row
from tests.helpers.tables import fixed_table

TABLE = fixed_table("dist/cifar100")
NONE, KD, DIST = TABLE.methods
PAIR = TABLE.pairs[0]


CIFAR100 = DIGITS.model_copy(update={"name": "cifar100"})


def five(entry: object, value: float, day: int, factor: float = 1.0, **options: object) -> list[Row]:
    made = [make_row(TABLE, PAIR, entry, "full", seed, value + 0.01 * seed, data=CIFAR100) for seed in range(5)]  # type: ignore[arg-type]
    return [altered(row, day=day, factor=factor, commit=f"{day:012d}", options=dict(options) or None) for row in made]


BASE = five(NONE, 70, 1) + five(KD, 73, 1) + five(DIST, 74, 1)
HEAD = five(NONE, 70.05, 2) + five(KD, 70, 2) + five(DIST, 74.1, 2, factor=1.5)


def printed(cells: list[CellChange], base: list[Row], head: list[Row], every: bool = False, width: int = 150) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    invalid = [InvalidRow(Path("a/row.json"), "id: Field required")]
    return print_comparison(
        cells, (Path("results/baselines"), base), (Path("results/runs"), head), invalid, every, console
    )


def line(text: str, *words: str) -> str:
    found = [line for line in text.splitlines() if all(word in line for word in words)]
    assert len(found) == 1, f"{len(found)} lines hold {words}"
    return found[0]


def test_changed_cells_are_printed_and_the_others_counted() -> None:
    text = printed(compare(BASE, HEAD), BASE, HEAD)
    worse = line(text, "wrn_40_2 -> wrn_40_1 kd")
    assert worse.split()[4:] == ["73.02", "70.02", "-3.00", "(5)", "regressed", "unchanged", "×1.00", "unchanged"]
    slower = line(text, "wrn_40_2 -> wrn_40_1 dist")
    assert slower.split()[4:] == ["74.02", "74.12", "+0.10", "(5)", "unchanged", "unchanged", "×1.50", "regressed"]
    assert "wrn_40_1 none" not in text
    assert line(text, "accuracy: 1 regressed, 2 unchanged")
    assert line(text, "losses: 3 unchanged")
    assert line(text, "speed: 1 regressed, 2 unchanged")
    assert line(text, "cifar100, classification, full scale: noise budget 0.25 points")


def test_every_value_of_a_cell_is_printed_in_its_column() -> None:
    base, head = five(KD, 73.002, 1), five(KD, 70.002, 2, factor=0.5)[:4]
    first = head[0].history[0].model_copy(update={"losses": {"task": 9.0}})
    head = [row.model_copy(update={"history": (first, *row.history[1:])}) for row in head]
    text = printed(compare(base, head), base, head, width=400)
    at = text.splitlines().index(line(text, "wrn_40_2 -> wrn_40_1 kd"))
    upper, lower, _, record = (re.split(r" {2,}", part.strip()) for part in text.splitlines()[at - 3 : at + 1])
    assert upper == ["top-1 accuracy", "step"]
    assert lower == ["cell", "BASE", "HEAD", "change (n)", "accuracy", "losses", "time", "speed"]
    assert record == ["wrn_40_2 -> wrn_40_1 kd", "73.02", "70.02", "-3.00 (4)", "regressed", "unsure [1]", "×0.50",
                      "improved"]  # fmt: skip
    assert line(text, "[1] loss term task was 1 over the first epoch, now 9: something else is computed")
    assert [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ")] == [
        "1 cell; a change counts with p <= 0.05 (Holm, all cells tested) and beyond the noise budget, of speed beyond "
        "×1.1 by ranks, of a loss term beyond 15% in the first epoch",
        "accuracy: 1 regressed",
        "losses: 1 unsure",
        "speed: 1 improved",
        "left out: a/row.json: id: Field required",
    ]


def test_both_sides_say_what_they_hold() -> None:
    text = printed(compare(BASE, HEAD), BASE, [*HEAD[1:], altered(HEAD[0], machine="H100 x1")])
    assert line(text, "BASE results/baselines: 15 rows of commit 000000000001, on 2-core x86")
    assert line(text, "HEAD results/runs: 15 rows of commit 000000000002, on 2-core x86 (14), H100 x1 (1)")


def test_every_cell_is_printed_on_demand() -> None:
    text = printed(compare(BASE, HEAD), BASE, HEAD, every=True)
    assert line(text, "wrn_40_1 none").split()[-5:] == ["(5)", "unchanged", "unchanged", "×1.00", "unchanged"]


def test_reasons_are_footnotes_and_broken_files_are_listed() -> None:
    base, head = five(KD, 73, 1)[:1], five(KD, 72.9, 2)[:1]
    text = printed(compare(base, head), base, head)
    assert "unsure [1]" in line(text, "wrn_40_1 kd")
    assert line(text, "[1] 1 seed is too few to detect 0.5 points")
    assert line(text, "left out: a/row.json: id: Field required")


def test_what_was_not_measured_is_counted_by_its_reason() -> None:
    cells = compare(BASE, HEAD[:10] + [altered(row, machine="H100 x1") for row in HEAD[10:]])
    accuracy, _, speed = counts(cells)[1:]
    assert accuracy == "accuracy: 1 regressed, 2 unchanged"
    assert speed.endswith(
        "1 not measured (1 no machine in common: BASE 2-core x86 (2 threads), HEAD H100 x1 (2 threads))"
    )
    assert counts(compare(BASE, HEAD[:10]))[1].endswith("1 not measured (1 not in HEAD)")


def test_cells_are_told_apart_by_what_they_differ_in() -> None:
    more = five(KD, 73, 1, temperature=1.0)
    found = sorted(labels(compare(BASE + more, [])).values())
    assert found == [
        "wrn_40_1 none",
        "wrn_40_2 -> wrn_40_1 dist",
        "wrn_40_2 -> wrn_40_1 kd temperature 1",
        "wrn_40_2 -> wrn_40_1 kd temperature 4",
    ]


@pytest.mark.parametrize("width", [80, 100])
def test_numbers_and_words_are_whole_on_a_narrow_page(width: int) -> None:
    text = printed(compare(BASE, HEAD), BASE, HEAD, width=width)
    assert "-3.00 (5)" in text and "regressed" in text and "×1.50" in text
    assert max(map(len, text.splitlines())) <= width
