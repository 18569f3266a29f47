"""A table over commits: their order, and which changes between them are steps."""

from __future__ import annotations

import random

import pytest

from kdbench.records.row import Row
from kdbench.regress.history import CommitResults, history
from tests.helpers.altered import altered
from tests.helpers.rows import expand, mini_truth
from tests.helpers.tables import fixed_table

DIST = fixed_table("dist/coco")
COMMITS = ("cccccccccccc", "aaaaaaaaaaaa", "bbbbbbbbbbbb")  # in the order of time
SEEDS = (0, 1, 2, 3, 4)


def rows_of(at: int, shift: float = 0.0, factor: float = 1.0, method: str = "dist") -> list[Row]:
    """The table's rows at one commit, `method` shifted and slowed down from the second on."""
    noise = random.Random(at)
    made = expand(DIST, "mini", SEEDS, lambda pair, entry, seed: mini_truth(pair, entry, seed) + noise.gauss(0, 0.3))
    found = []
    for row in made:
        hit = at > 0 and row.run.method == method and row.metrics is not None
        values = {"ap": row.metrics.last["ap"] + shift} if hit and row.metrics else None
        found.append(altered(row, commit=COMMITS[at], day=3 * at + 1, factor=factor if hit else 1, values=values))
    return found


def words(results: CommitResults, side: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for cell in results.cells:
        if change := results.change(cell):
            found.setdefault(cell.entry.display_name, set()).add(getattr(change, side).word)
    return found


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [row for at in range(3) for row in rows_of(at, shift=-9.0, factor=1.4)]


def test_moments_are_in_the_order_of_their_rows_and_the_first_has_no_change(rows: list[Row]) -> None:
    commits = history(DIST, random.Random(0).sample(rows, len(rows)), "mini")
    assert tuple(results.commit for results in commits) == COMMITS
    assert [results.finished[:10] for results in commits] == ["2026-01-01", "2026-01-04", "2026-01-07"]
    assert words(commits[0], "accuracy") == {}


def test_a_step_stands_where_it_was_made_and_nowhere_else(rows: list[Row]) -> None:
    _, second, third = history(DIST, rows, "mini")
    assert words(second, "accuracy") == {"none": {"unchanged"}, "dist": {"regressed"}, "dist+mimic": {"unchanged"}}
    assert words(second, "speed") == {"none": {"unchanged"}, "dist": {"regressed"}, "dist+mimic": {"unchanged"}}
    assert set().union(*words(third, "accuracy").values(), *words(third, "speed").values()) == {"unchanged"}


def test_a_cell_that_a_commit_leaves_out_is_compared_with_its_last_rows(rows: list[Row]) -> None:
    kept = [row for row in rows if row.environment.commit != COMMITS[1] or row.run.method == "none"]
    _, second, third = history(DIST, kept, "mini")
    assert words(second, "accuracy") == {"none": {"unchanged"}}
    assert words(third, "accuracy")["dist"] == {"regressed"}


def test_rows_of_other_tables_make_no_moment(rows: list[Row]) -> None:
    assert history(fixed_table("dist/cifar100"), rows, "mini") == []
    assert history(DIST, rows, "full") == []
