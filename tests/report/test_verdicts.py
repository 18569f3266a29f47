"""Verdicts: hand-computed tolerances, every word, and how often chance alone makes a cell look different."""

from __future__ import annotations

import math
import random

import pytest

from kdbench.report.verdicts import (
    MINI,
    Sample,
    Verdict,
    factor,
    make_verdict,
    noise_budget,
    teacher_differs,
    tolerance,
)

ONE = Sample(40.0, None, 1)
THREE = Sample(40.0, 0.3, 3)


def test_a_sample_of_known_numbers() -> None:
    four = Sample.of([1.0, 2.0, 3.0, 4.0])
    assert four and (four.mean, four.n) == (2.5, 4)
    assert four.sd == pytest.approx(1.2909944)
    assert Sample.of([40.2]) == Sample(40.2, None, 1)
    assert Sample.of([]) is None


def test_the_interval_of_a_mean_uses_students_t() -> None:
    assert THREE.half_width == pytest.approx(4.302653 * 0.3 / math.sqrt(3), rel=1e-6)
    assert ONE.half_width is None


@pytest.mark.parametrize(("n", "expected"), [(1, 1.96), (2, 12.7062), (3, 4.302653), (5, 2.776445), (31, 2.042272)])
def test_factors_are_those_of_the_tables_of_t(n: int, expected: float) -> None:
    assert factor(n) == pytest.approx(expected, rel=1e-5)


def test_no_seeds_have_no_factor() -> None:
    with pytest.raises(ValueError, match="at least one"):
        factor(0)


@pytest.mark.parametrize(
    ("measured", "budget", "std", "expected"),
    [
        (ONE, 0.2, None, 0.554372),  # 1.96 x 0.2 x sqrt(2)
        (ONE, 0.2, 0.1, 0.438270),  # 1.96 x hypot(0.2, 0.1)
        (THREE, 0.2, None, 0.842050),  # hypot(4.302653 x 0.3 / sqrt(3), 1.96 x 0.2)
        (THREE, 0.2, 0.25, 0.891899),  # hypot(0.745241, 1.96 x 0.25)
        (Sample(40.0, 0.0, 3), 0.5, None, 0.98),  # three equal seeds: the paper's spread alone
    ],
)
def test_tolerances_computed_by_hand(measured: Sample, budget: float, std: float | None, expected: float) -> None:
    assert tolerance(measured, budget, std) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("reported", "word"),
    [(40.0, "reproduced"), (40.54, "reproduced"), (39.46, "reproduced"), (40.56, "below"), (39.44, "above")],
)
def test_words_change_at_the_tolerance(reported: float, word: str) -> None:
    verdict = make_verdict(ONE, reported, 0.2)
    assert verdict.word == word
    assert verdict.difference == pytest.approx(40.0 - reported)
    assert verdict.tolerance == pytest.approx(0.554372, abs=1e-5)


def test_incompatibilities_make_a_cell_not_comparable_without_a_difference() -> None:
    verdict = make_verdict(
        ONE, 40.0, 0.2, incompatibilities=["recipe: epochs 1, not 24", "96 train images, not 118287"]
    )
    assert verdict == Verdict("not comparable", "recipe: epochs 1, not 24; 96 train images, not 118287")
    assert (verdict.difference, verdict.tolerance) == (None, None)


def test_without_a_reported_number_a_cell_is_only_measured() -> None:
    assert make_verdict(ONE, None, 0.2) == Verdict("measured", "no reported number")
    assert make_verdict(ONE, None, 0.2, incompatibilities=["x"]).reason == "no reported number; x"


def test_mini_is_worded_exactly() -> None:
    assert MINI.text == "not comparable (mini)"
    assert (MINI.difference, MINI.tolerance) == (None, None)


@pytest.mark.parametrize(
    ("dataset", "task", "budget"),
    [
        ("cifar100", "classification", 0.25),
        ("imagenet", "classification", 0.11),
        ("coco", "detection", 0.2),
        ("cityscapes", "segmentation", 0.5),
        ("camvid", "segmentation", 0.5),  # no budget of its own: its task's
    ],
)
def test_noise_budgets(dataset: str, task: str, budget: float) -> None:
    assert noise_budget(dataset, task) == budget


def test_a_teacher_within_its_noise_is_the_papers() -> None:
    assert not teacher_differs(38.55, 38.9, 0.2)
    assert teacher_differs(38.1, 38.9, 0.2)
    assert teacher_differs(39.7, 38.9, 0.2)


def alarms(n: int, shift: float = 0.0, sd: float = 0.2, draws: int = 4000) -> float:
    """How often a cell is not `reproduced`, when its truth lies `shift` above that of the paper."""
    generator = random.Random(n)
    count = 0
    for _ in range(draws):
        reported = generator.gauss(40.0, sd)
        measured = Sample.of([generator.gauss(40.0 + shift, sd) for _ in range(n)])
        assert measured is not None
        count += make_verdict(measured, reported, sd).word != "reproduced"
    return count / draws


@pytest.mark.parametrize(("n", "low", "high"), [(1, 0.04, 0.06), (2, 0.005, 0.03), (3, 0.015, 0.04), (10, 0.035, 0.06)])
def test_chance_alone_rarely_makes_a_cell_look_different(n: int, low: float, high: float) -> None:
    """Over 4,000 draws the rate's own standard error is 0.35 points at 5 %; never above the nominal 5 % by more."""
    assert low < alarms(n) < high


@pytest.mark.parametrize("n", [1, 3, 5])
def test_a_difference_of_six_sds_is_found(n: int) -> None:
    assert alarms(n, shift=1.2, draws=500) > 0.85
