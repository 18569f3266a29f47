"""Rows matched cell by cell: what is the same cell, what is compared, and what is said where nothing can be."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kdbench import methods
from kdbench.records.row import Row
from kdbench.regress.compare import CellChange, compare, exit_status, target
from kdbench.spec.scale import Scale
from kdbench.spec.table import MethodEntry
from tests.helpers.altered import altered
from tests.helpers.rows import DIGITS, make_row
from tests.helpers.tables import fixed_table

CIFAR = fixed_table("dist/cifar100")
PAIR = CIFAR.pairs[0]
NONE = next(entry for entry in CIFAR.methods if entry.method == "none")
KD = next(entry for entry in CIFAR.methods if entry.method == "kd")
DIST = next(entry for entry in CIFAR.methods if entry.method == "dist")


KD_WEIGHT = methods.resolve("kd", {})["weight"]


def rows(
    values: list[float], entry: MethodEntry = KD, scale: Scale = "full", first: int = 0, day: int = 1, **more: Any
) -> list[Row]:
    """One row a seed, from `first` on."""
    changes = {name: more.pop(name) for name in ("commit", "machine", "threads", "factor", "options") if name in more}
    made = [make_row(CIFAR, PAIR, entry, scale, seed, value, **more) for seed, value in enumerate(values, first)]
    return [altered(row, day=day, **changes) for row in made]


def only(base: list[Row], head: list[Row]) -> CellChange:
    (cell,) = compare(base, head)
    return cell


def test_a_method_that_got_worse_is_found_and_the_others_are_not() -> None:
    good, noise = [73.1, 73.4, 73.2, 73.3, 73.0], [73.2, 73.3, 73.3, 73.1, 73.1]
    base = rows(good) + rows(good, DIST)
    cells = compare(base, rows([x - 2 for x in good], day=2) + rows(noise, DIST, day=2))
    assert {cell.run.method: cell.accuracy.word for cell in cells} == {"dist": "unchanged", "kd": "regressed"}
    worse = next(cell.accuracy for cell in cells if cell.run.method == "kd")
    assert (worse.base, worse.head, worse.size, worse.n) == pytest.approx((73.2, 71.2, -2.0, 5))


def test_the_order_of_rows_does_not_matter() -> None:
    base, head = rows([73.0, 73.5, 73.2]) + rows([74.0], DIST), rows([70.0, 70.4, 70.1], day=2) + rows([74.1], DIST)
    shuffled = random.Random(0).sample(base, len(base)), random.Random(1).sample(head, len(head))
    assert compare(base, head) == compare(*shuffled)


def test_rows_from_before_agreement_and_learned_weights_are_compared_as_ever() -> None:
    before, after = rows([73.1, 73.4, 73.2]), rows([73.1, 73.5, 73.2], day=2)
    last = {"agreement": 80.0, "agreement5": 99.0}
    more = [
        row.model_copy(
            update={
                "metrics": row.metrics.model_copy(update={"last": row.metrics.last | last}),
                "learned": {"attention": 900.0},
            }
        )
        for row in after
        if row.metrics
    ]
    assert only(before, more).accuracy == only(before, after).accuracy
    assert only(more, before).accuracy == only(after, before).accuracy
    assert only(after, more).accuracy.reason == "bitwise equal"


def test_only_shared_seeds_are_set_against_each_other() -> None:
    cell = only(rows([70.0, 73.0, 73.0]), rows([73.1, 73.1, 99.0], first=1, day=2))
    assert (cell.accuracy.base, cell.accuracy.head, cell.accuracy.n) == pytest.approx((73.0, 73.1, 2))


def test_rows_that_are_equal_to_the_last_bit_are_unchanged_whatever_the_machine() -> None:
    cell = only(rows([73.0]), rows([73.0], machine="another", day=2))
    assert (cell.accuracy.word, cell.accuracy.reason) == ("unchanged", "bitwise equal")
    assert only(rows([73.0]), rows([73.000001], day=2)).accuracy.word == "unsure"


def test_cells_that_are_equal_do_not_count_among_those_that_are_tested() -> None:
    tables = [MethodEntry(method="kd", options={"temperature": float(t)}) for t in range(5, 45)]
    still = [row for entry in tables for row in rows([73.0], entry)]
    again = [altered(row, day=2) for row in still]
    alone = compare(rows([73.0]), rows([71.7], day=2))
    among = compare(rows([73.0]) + still, rows([71.7], day=2) + again)
    assert [cell.accuracy for cell in alone] == [cell.accuracy for cell in among if cell.run.options == KD_OPTIONS]
    assert alone[0].accuracy.word == "regressed"


KD_OPTIONS = make_row(CIFAR, PAIR, KD, "full").run.options


def test_head_that_was_not_run_again_is_not_measured() -> None:
    base = rows([73.0, 73.1])
    cell = only(base, list(base))
    assert cell.words == ("not measured",) * 3
    assert "not rerun" in cell.accuracy.reason
    mixed = only(base, [base[0], *rows([70.0], first=1, day=2)])
    assert (mixed.accuracy.size, mixed.accuracy.n) == pytest.approx((-3.1, 1))


@pytest.mark.parametrize(("side", "lacking"), [(0, "HEAD"), (1, "BASE")])
def test_a_cell_on_one_side_is_not_measured_and_the_side_that_lacks_it_is_said(side: int, lacking: str) -> None:
    sides = [rows([73.0]), rows([73.0], day=2)]
    sides[side] += rows([74.0], DIST)
    found = {cell.run.method: cell for cell in compare(*sides)}
    assert found["dist"].accuracy.reason == found["dist"].speed.reason == f"not in {lacking}"
    assert found["dist"].words == ("not measured",) * 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": {"epochs": 300}}, "recipe.epochs 300, not 240"),
        ({"data": {"fingerprint": "beef"}}, "data.fingerprint beef, not d161"),
    ],
)
def test_another_recipe_or_another_data_set_is_another_cell_and_the_difference_is_said(
    changes: dict[str, dict[str, Any]], said: str
) -> None:
    (old,) = rows([73.0], data=DIGITS)
    update = {name: getattr(old.run, name).model_copy(update=fields) for name, fields in changes.items()}
    run = old.run.model_copy(update=update)
    new = altered(old, day=2).model_copy(update={"run": run, "id": run.id})
    cells = compare([old], [new])
    assert [cell.accuracy.word for cell in cells] == ["not measured"] * 2
    assert any(cell.accuracy.reason == f"not in HEAD; HEAD's nearest has {said}" for cell in cells)


def test_other_options_are_another_cell_whose_reason_names_the_nearest() -> None:
    base = rows([75.0], options={"temperature": 2.0}) + rows([74.0], options={"temperature": 3.0, "weight": 0.3})
    cells = compare(base, rows([70.0], options={"temperature": 2.0, "weight": 0.5}, day=2))
    assert sorted(cell.accuracy.word for cell in cells) == ["not measured", "not measured", "unsure"]
    reasons = {(cell.run.options["temperature"], cell.run.options["weight"]): cell.accuracy.reason for cell in cells}
    weight = KD_WEIGHT
    assert reasons[2.0, weight] == f"not in HEAD; HEAD's nearest has options.weight 0.5, not {weight:g}"
    assert reasons[2.0, 0.5] == f"not in BASE; BASE's nearest has options.weight {weight:g}, not 0.5"


def test_a_changed_default_never_passes_unseen_and_a_further_value_does() -> None:
    base, options = rows([75.0]) + rows([70.0], NONE), {"temperature": 1.0}
    broken = rows([0.0], options=options, day=2, status="diverged", reason="loss kd is nan at step 3")
    assert exit_status(compare(base, broken + rows([70.0], NONE, day=2))) == 2
    added = compare(base, rows([75.0], day=2) + rows([74.0], options=options, day=2) + rows([70.0], NONE, day=2))
    assert sorted(cell.accuracy.word for cell in added) == ["not measured", "unchanged", "unchanged"]


def test_options_are_equal_as_reports_compare_them() -> None:
    assert only(rows([75.0], options={"temperature": 4.0}), rows([75.0], options={"temperature": 4}, day=2)).head


def test_a_seed_that_diverges_in_head_alone_is_a_regression() -> None:
    head = rows([75.0], day=2) + rows([0.0], first=1, day=2, status="diverged", reason="loss kd is nan at step 3")
    cell = only(rows([75.0, 75.2]), head)
    assert (cell.accuracy.word, cell.accuracy.reason) == (
        "regressed",
        "HEAD: seed 1 diverged: loss kd is nan at step 3",
    )


@pytest.mark.parametrize(
    ("base", "head", "word"),
    [
        ("done", "failed", "regressed"),
        ("done", "timeout", "unsure"),
        ("done", "out-of-memory", "unsure"),
        ("done", "skipped", "unsure"),
        ("diverged", "done", "improved"),
        ("timeout", "done", "not measured"),
        ("failed", "failed", "not measured"),
    ],
)
def test_a_cell_without_a_number_on_one_side(base: str, head: str, word: str) -> None:
    cell = only(rows([75.0], status=base, reason="why"), rows([75.0], day=2, status=head, reason="why"))
    assert cell.accuracy.word == word
    side, status = ("HEAD", head) if base == "done" else ("BASE", base)
    assert cell.accuracy.reason == f"{side}: seed 0 {status}: why"


def test_mini_rows_of_another_machine_raise_no_alarm_and_a_broken_method_does() -> None:
    generator = random.Random(5)
    entries = [MethodEntry(method="kd", options={"temperature": float(t)}) for t in range(1, 61)]
    truth = {entry.options["temperature"]: generator.uniform(45, 58) for entry in entries}
    base = [row for e in entries for row in rows([truth[e.options["temperature"]]], e, "mini")]
    head = [
        row
        for e in entries
        for row in rows([truth[e.options["temperature"]] + generator.gauss(0, 2)], e, "mini", day=2, machine="other")
    ]
    cells = compare(base, head)
    assert len(cells) == 60
    assert {cell.accuracy.word for cell in cells} <= {"unchanged", "unsure"}
    assert sum(cell.accuracy.word == "unsure" for cell in cells) <= 3
    broken = [altered(row) for row in head[1:]] + rows([10.0], entries[0], "mini", day=2)
    assert [cell.accuracy.word for cell in compare(base, broken)].count("regressed") == 1


def test_noise_beyond_the_budget_is_seen_in_the_rows_and_counts() -> None:
    """Of four budgets; with the budget alone, nearly every comparison would raise an alarm."""
    generator = random.Random(11)
    entries = [MethodEntry(method="kd", options={"temperature": float(t)}) for t in range(1, 11)]
    made = [row for entry in entries for row in rows([70.0] * 5, entry)]
    alarms = 0
    for _ in range(20):
        sides = [[altered(row, day=day, values={"top1": generator.gauss(70, 1)}) for row in made] for day in (1, 2)]
        alarms += any(cell.accuracy.word in ("improved", "regressed") for cell in compare(*sides))
    assert alarms <= 1


def test_two_trainings_of_a_teacher_add_noise() -> None:
    base, head = rows([73.0] * 5), rows([73.1] * 5, day=2)
    assert only(base, head).accuracy.word == "unchanged"
    other = [
        row.model_copy(update={"teacher": row.teacher and row.teacher.model_copy(update={"sha256": "0f" * 32})})
        for row in head
    ]
    cell = only(base, other)
    assert cell.accuracy.word == "unsure" and "each side trained its own teacher" in cell.accuracy.reason
    alone = MethodEntry(method="none")
    assert only(rows([70.0] * 5, alone), rows([70.1] * 5, alone, day=2)).accuracy.word == "unchanged"


def test_what_is_sought_is_two_budgets_at_full_scale_and_six_at_mini() -> None:
    assert target(make_row(CIFAR, PAIR, KD, "full", data=CIFAR_DATA).run) == 0.5
    assert target(make_row(CIFAR, PAIR, KD, "mini").run) == 12.0


CIFAR_DATA = DIGITS.model_copy(update={"name": "cifar100"})


def test_speed_is_compared_on_one_machine_with_one_number_of_threads() -> None:
    values = [73.0, 73.1, 73.2, 73.3, 73.4]
    base = rows(values)
    slower = only(base, rows(values, factor=1.3, day=2))
    assert slower.speed.word == "regressed" and slower.speed.size == pytest.approx(1.3)
    assert only(base, rows(values, factor=0.7, day=2)).speed.word == "improved"
    assert only(base, rows(values, factor=1.05, day=2)).speed.word == "unchanged"
    other = only(base, rows(values, factor=1.3, machine="H100 x1", day=2)).speed
    assert other.word == "not measured"
    assert other.reason == "no machine in common: BASE 2-core x86 (2 threads), HEAD H100 x1 (2 threads)"
    assert only(base, rows(values, factor=1.3, threads=1, day=2)).speed.word == "not measured"


def test_of_several_machines_that_both_sides_share_the_one_with_most_rows_counts() -> None:
    values = [73.0, 73.1, 73.2, 73.3, 73.4, 73.5]
    base, head = rows(values), rows(values, factor=1.5, day=2)
    base[:2] = [altered(row, machine="other") for row in base[:2]]
    head[:2] = [altered(row, machine="other", factor=0.1) for row in head[:2]]
    cell = only(base, head)
    assert (cell.speed.word, cell.speed.n) == ("regressed", 4)


def losses(rows: list[Row], value: float) -> list[Row]:
    return [
        row.model_copy(update={"history": (row.history[0].model_copy(update={"losses": {"task": value}}),)})
        for row in rows
    ]


def test_changed_losses_are_unsure_and_losses_alone_are_no_measurement() -> None:
    base = rows([73.0] * 5)
    assert exit_status(compare(base, rows([73.05] * 5, day=2))) == 0
    assert exit_status(compare(base, losses(rows([73.05] * 5, day=2), 9.0))) == 2
    timeout = rows([73.0], status="timeout", reason="why")
    assert exit_status(compare(timeout, rows([73.0], day=2))) == 2


def test_runs_on_another_number_of_gpus_are_not_measured_against_each_other() -> None:
    base, head = rows([73.0, 73.5]), rows([71.0, 71.5], day=2)
    shared = [
        row.model_copy(update={"environment": row.environment.model_copy(update={"world_size": 8})}) for row in head
    ]
    cell = only(base, shared)
    assert cell.words == ("not measured",) * 3
    assert "1 GPU each, HEAD's 8 GPUs" in cell.accuracy.reason
    assert only(base, head).accuracy.word == "regressed"
