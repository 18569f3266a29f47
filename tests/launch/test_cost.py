"""Time and work of what is left of a plan."""

from __future__ import annotations

from typing import Any

import pytest

from kdbench.launch.cost import duration, seconds, steps_of
from kdbench.launch.memory import Memory
from kdbench.launch.roofline import work
from kdbench.launch.tracing import traced
from kdbench.records.row import Row
from kdbench.spec.recipe import load_recipe
from kdbench.spec.run import Run
from tests.helpers.rows import make_row
from tests.helpers.tables import cifar_table, fixed_table

MINI = load_recipe("coco_mini")
STEPS = MINI.epochs * (MINI.epoch_steps or 0)


def row_of(method: str, student_seconds: float, **changes: Any) -> Row:
    table = fixed_table("dist/coco")
    entry = next(entry for entry in table.entries(table.pairs[0]) if entry.method == method)
    row = make_row(table, table.pairs[0], entry, "mini", **changes)
    assert row.cost
    shared = {"data_seconds": 0.01, "teacher_seconds": 0.02}
    return row.model_copy(update={"cost": row.cost.model_copy(update={"student_seconds": student_seconds, **shared})})


def test_a_cohort_pays_each_student_and_once_for_data_and_teacher() -> None:
    rows = [row_of("none", 0.1), row_of("dist", 0.2), row_of("dist", 0.3, seed=1), row_of("dist", 0.6, seed=2)]
    runs = [row.run.model_copy(update={"seed": 7}) for row in rows[:2]]
    assert steps_of(runs[0]) == STEPS > 0
    assert seconds(runs, rows, "2-core x86") == pytest.approx(STEPS * (0.1 + 0.3 + 0.01 + 0.02))


def test_a_longer_recipe_costs_more_by_its_steps_and_another_batch_is_unknown() -> None:
    row = row_of("none", 0.1)
    longer = row.run.model_copy(
        update={"recipe": row.run.recipe.model_copy(update={"epochs": 10 * row.run.recipe.epochs})}
    )
    assert seconds([longer], [row], "2-core x86") == pytest.approx(10 * STEPS * 0.13)
    larger = row.run.model_copy(update={"recipe": load_recipe("coco_mini", {"batch_size": 3})})
    assert seconds([larger], [row], "2-core x86") is None
    assert seconds([row.run], [row], "another machine") is None


def test_a_method_without_a_row_costs_what_others_do() -> None:
    rows = [row_of("dist", 0.2), row_of("dist+mimic", 0.4)]
    other = rows[0].run.model_copy(update={"method": "cwd"})
    assert seconds([other], rows, "2-core x86") == pytest.approx(STEPS * (0.3 + 0.03))


def test_work_is_a_forward_of_the_teacher_and_three_of_each_student() -> None:
    memory = Memory("cpu", 1e12)
    none, dist = row_of("none", 0.1).run, row_of("dist", 0.1).run
    assert dist.teacher
    own, other = (traced(name, memory.shapes(dist)).flops for name in (dist.student, dist.teacher.student))
    assert work([none, dist], memory).flops == 2 * 3 * own + other
    assert work([none], memory).flops == 3 * own


def ekd(**options: Any) -> Run:
    """A student beside its online teachers."""
    table = cifar_table("none", "ekd")
    run = make_row(table, table.pairs[0], table.methods[1], "mini").run
    beside = {"teacher": None, "online_teacher": "resnet20", "options": run.options | options}
    return run.model_copy(update=beside)


def test_work_of_online_teachers_is_three_forwards_each_and_of_a_copy_one() -> None:
    memory = Memory("cpu", 1e12, stored=(32, 32))
    run = ekd()
    own, other = (traced(name, memory.shapes(run)).flops for name in ("resnet8", "resnet20"))
    assert work([run], memory).flops == 3 * (own + other)
    assert work([ekd(teachers=3)], memory).flops == 3 * (own + 3 * other)
    copied = ekd(guided=False, snapshots=4)
    assert work([copied, run], memory).flops == 3 * 2 * (own + other) + other


def test_a_step_beside_another_number_of_networks_says_nothing_about_time() -> None:
    row = row_of("none", 0.1).model_copy(update={"run": ekd()})
    more, copied, pretrained = ekd(teachers=2), ekd(guided=False, snapshots=4), ekd(pretrained=True)
    assert seconds([ekd(beta=0.0)], [row], "2-core x86") == pytest.approx(steps_of(row.run) * 0.13)
    fixed = pretrained.model_copy(update={"online_teacher": None, "teacher": row_of("dist", 0.1).run.teacher})
    for run in (more, copied, fixed):
        assert seconds([run], [row], "2-core x86") is None


def test_rows_from_before_there_could_be_several_teachers_still_tell_the_time() -> None:
    run = ekd()
    older = {name: value for name, value in run.options.items() if name not in ("teachers", "snapshots")}
    row = row_of("none", 0.1).model_copy(update={"run": run.model_copy(update={"options": older})})
    assert seconds([run], [row], "2-core x86") == pytest.approx(steps_of(run) * 0.13)


@pytest.mark.parametrize(
    ("value", "words"),
    [(12.4, "12 s"), (89, "89 s"), (90, "2 min"), (5000, "83 min"), (9000, "2.5 h"), (259200, "3.0 days")],
)
def test_durations_are_short_words(value: float, words: str) -> None:
    assert duration(value) == words
