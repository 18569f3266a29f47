"""Which runs share a cohort: those with one data set and variant, recipe, seed and teacher."""

from __future__ import annotations

from typing import Any

import pytest

from kdbench.grid.cohorts import cohorts
from kdbench.spec.run import Run
from kdbench.spec.table import MethodEntry
from tests.helpers.rows import make_row
from tests.helpers.tables import cifar_table

TABLE = cifar_table("none", "kd", "dist")
NONE, KD, DIST = (
    make_row(TABLE, TABLE.pairs[0], MethodEntry(method=name), "mini").run for name in ("none", "kd", "dist")
)
assert KD.teacher


def changed(run: Run, part: str, **fields: Any) -> Run:
    """The run with other fields in its data, recipe or teacher."""
    return run.model_copy(update={part: getattr(run, part).model_copy(update=fields)})


def sizes(*runs: Run) -> list[int]:
    return sorted(len(cohort) for cohort in cohorts(runs, 99))


def test_runs_that_differ_in_method_alone_share_a_cohort_with_the_student_alone() -> None:
    assert sizes(NONE, KD, DIST) == [3]


@pytest.mark.parametrize(
    "other",
    [
        changed(DIST, "recipe", lr=DIST.recipe.lr / 2),
        changed(DIST, "data", options={"fraction": 0.5}),
        changed(DIST, "data", fingerprint="beef"),
        changed(DIST, "teacher", seed=1),
        DIST.model_copy(update={"teacher_file": "ab" * 32}),
        DIST.model_copy(update={"seed": 1}),
    ],
    ids=["recipe", "data variant", "data", "teacher", "teacher file", "seed"],
)
def test_runs_that_differ_in_anything_shared_are_trained_apart(other: Run) -> None:
    assert sizes(KD, other) == [1, 1]
    assert sizes(KD, other, other.model_copy(update={"method": "cwd"})) == [1, 2]


@pytest.mark.parametrize("part", ["recipe", "data"])
def test_the_student_alone_joins_the_cohort_of_its_recipe_and_data(part: str) -> None:
    fields = {"lr": 0.5} if part == "recipe" else {"options": {"fraction": 0.5}}
    alone = changed(NONE, part, **fields)
    assert sizes(KD, alone) == [1, 1]
    assert sizes(KD, changed(DIST, part, **fields), alone) == [1, 2]
