"""Losses of the first epoch: what a rounding error does to them passes, what a wrong formula does is found."""

from __future__ import annotations

import pytest

from kdbench.records.row import Row
from kdbench.regress.loss_drift import drift
from tests.helpers.rows import make_row
from tests.helpers.tables import fixed_table

TABLE = fixed_table("dist/cifar100")
KD = next(entry for entry in TABLE.methods if entry.method == "kd")
MEASURED = {"cross_entropy": 0.2315, "kd": 4.519}  # of cifar_mini, seed 0


def row(losses: dict[str, float], seed: int = 0, **changes: object) -> Row:
    made = make_row(TABLE, TABLE.pairs[0], KD, "mini", seed, 55.0)
    first = made.history[0].model_copy(update={"losses": losses})
    return made.model_copy(update={"history": (first, *made.history[1:]), **changes})


@pytest.mark.parametrize(
    ("head", "word"),
    [
        ({"cross_entropy": 0.2315, "kd": 4.519}, "unchanged"),
        ({"cross_entropy": 0.2306, "kd": 4.295}, "unchanged"),  # the teacher trained again with other instructions
        ({"cross_entropy": 0.2306, "kd": 1.663}, "unsure"),  # temperature dropped with its square
        ({"cross_entropy": 0.2307, "kd": 26.63}, "unsure"),  # not divided by the temperature, square kept
        ({"cross_entropy": 0.2306, "kd": -4.7}, "unsure"),  # sign flipped
        ({"cross_entropy": 0.2306, "kd": 0.0}, "unsure"),
        ({"cross_entropy": 0.31, "kd": 4.519}, "unsure"),
    ],
)
def test_a_changed_term_is_found_and_noise_is_not(head: dict[str, float], word: str) -> None:
    assert drift([row(MEASURED)], [row(head)]).word == word


def test_the_term_that_changed_most_is_named() -> None:
    change = drift([row(MEASURED)], [row({"cross_entropy": 0.3, "kd": 1.5})])
    assert change.reason == "loss term kd was 4.519 over the first epoch, now 1.5: something else is computed"
    assert change.size == pytest.approx(1.5 / 4.519 - 1)


def test_a_term_that_adds_next_to_nothing_may_change() -> None:
    assert drift([row(MEASURED | {"tiny": 0.001})], [row(MEASURED | {"tiny": 0.002})]).word == "unchanged"
    assert drift([row(MEASURED | {"tiny": 0.001})], [row(MEASURED | {"tiny": 0.2})]).word == "unsure"


def test_terms_that_came_or_went_are_named() -> None:
    change = drift([row({"kd": 1.0, "a": 1.0})], [row({"kd": 1.0, "b": 1.0})])
    assert (change.word, change.reason) == ("unsure", "other loss terms: without a and with b")


def test_seeds_are_set_against_themselves() -> None:
    one, two = {"kd": 1.0}, {"kd": 2.0}
    assert drift([row(one), row(two, 1)], [row(two, 1)]).word == "unchanged"
    assert drift([row(one)], [row(one, 1)]).word == "not measured"


def test_rows_without_an_epoch_are_not_measured() -> None:
    assert drift([row(MEASURED)], [row(MEASURED, history=())]).word == "not measured"


def test_a_small_term_that_vanished_or_changed_its_sign_is_found() -> None:
    base = row(MEASURED | {"attention": 0.016})
    for value, word in ((0.03, "unchanged"), (-0.016, "unsure"), (0.0, "unsure")):
        assert drift([base], [row(MEASURED | {"attention": value})]).word == word
    assert drift([row(MEASURED | {"tiny": 0.001})], [row(MEASURED | {"tiny": -0.001})]).word == "unchanged"
