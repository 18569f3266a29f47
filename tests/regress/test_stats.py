"""Comparison on synthetic truth: known shifts are found, pure noise is not, too few seeds are said to be too few."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from dataclasses import replace

import pytest
from scipy import stats

from kdbench.regress.stats import (
    PRIOR,
    Change,
    Scores,
    Word,
    classify,
    estimate,
    exit_code,
    holm,
    pooled,
    seeds_needed,
    speed,
)

CHANGED = {"improved", "regressed"}


def scores(base: list[float], head: list[float], first_head_seed: int = 0, target: float = 2.0) -> Scores:
    """Budget and noise 1; seeds are shared from `first_head_seed` on."""
    return Scores(dict(enumerate(base)), dict(enumerate(head, first_head_seed)), 1.0, 1.0, 1.0, target)


def drawn(
    generator: random.Random, seeds: int, noise: float = 1.0, shift: float = 0.0, *, paired: bool = True
) -> Scores:
    """A cell whose truth is 50 in BASE and `shift` more in HEAD, with `noise` on every number; the budget is 1."""
    base, head = ([generator.gauss(truth, noise) for _ in range(seeds)] for truth in (50.0, 50.0 + shift))
    return scores(base, head, 0 if paired else 100)


def alarms(seeds: int, cells: int, noise: float = 1.0, *, paired: bool = True, draws: int = 100) -> float:
    """Share of comparisons of unchanged code that call any of their cells changed."""
    generator = random.Random(f"{seeds} {cells} {noise}")
    found = 0
    for _ in range(draws):
        changes = classify([drawn(generator, seeds, noise, paired=paired) for _ in range(cells)])
        found += any(change.word in CHANGED for change in changes)
    return found / draws


def words(seeds: int, shift: float, cells: int = 1, noise: float = 1.0, draws: int = 100) -> dict[Word, float]:
    """How often the one shifted cell among `cells` gets each word."""
    generator = random.Random(f"{seeds} {shift} {cells}")
    counts: Counter[Word] = Counter()
    for _ in range(draws):
        still = [drawn(generator, seeds, noise) for _ in range(cells - 1)]
        counts[classify([drawn(generator, seeds, noise, shift), *still])[0].word] += 1
    return {word: count / draws for word, count in counts.items()}


@pytest.mark.parametrize("cells", [1, 20, 100])
@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_noise_within_the_budget_raises_an_alarm_in_at_most_5_percent_of_comparisons(seeds: int, cells: int) -> None:
    assert alarms(seeds, cells, draws={1: 400, 20: 100, 100: 40}[cells]) <= 0.05


@pytest.mark.parametrize(("seeds", "cells"), [(1, 20), (3, 20)])
def test_seeds_that_are_not_shared_raise_no_more_alarms(seeds: int, cells: int) -> None:
    assert alarms(seeds, cells, paired=False) <= 0.05


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_noise_of_one_and_a_half_budgets_raises_few_more(seeds: int) -> None:
    assert alarms(seeds, 20, noise=1.5) <= 0.2


def test_what_seeds_share_of_two_teachers_raises_no_more_alarms() -> None:
    """As far as the teacher's noise is within the budget; without that term, a quarter of these comparisons would."""
    generator = random.Random(0)
    found = {0.0: 0, 1.0: 0}
    for _ in range(60):
        cells = [drawn(generator, 5, noise=0.3) for _ in range(10)]
        taught = generator.gauss(0, math.sqrt(2))
        moved = [replace(one, head={seed: x + taught for seed, x in one.head.items()}) for one in cells]
        for assumed in found:
            changes = classify([replace(one, teacher_sd=assumed) for one in moved])
            found[assumed] += any(change.word in CHANGED for change in changes)
    assert found[1.0] <= 3 < 12 < found[0.0]


def test_seeds_do_not_make_up_for_two_teachers() -> None:
    (change,) = classify([replace(scores([50.0] * 50, [50.1] * 50), teacher_sd=1.0)])
    assert change.word == "unsure"
    assert change.reason.endswith("no number suffices: each side trained its own teacher")
    assert classify([replace(scores([50.0] * 50, [40.0] * 50), teacher_sd=1.0)])[0].word == "regressed"


@pytest.mark.parametrize(("seeds", "cells", "shift"), [(1, 1, 6), (1, 100, 13), (3, 20, 6), (3, 100, 8), (5, 100, 5)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_known_shifts_are_found(seeds: int, cells: int, shift: float, sign: int) -> None:
    found = words(seeds, sign * shift, cells, draws=30)
    assert found.get("improved" if sign > 0 else "regressed", 0) > 0.9
    assert not found.get("regressed" if sign > 0 else "improved")


def test_a_shift_of_two_budgets_is_found_by_five_seeds_in_four_of_five_cases() -> None:
    assert 0.75 < words(5, -2.0, draws=400)["regressed"] < 0.9


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_up_to_three_seeds_are_too_few_to_call_a_cell_unchanged(seeds: int) -> None:
    (change,) = classify([scores([50.0] * seeds, [50.1] * seeds)])
    assert change.word == "unsure"
    assert change.reason.startswith("1 seed is too few" if seeds == 1 else f"{seeds} seeds are too few")
    assert "to detect 2 points" in change.reason
    assert words(seeds, 0.0).get("unchanged", 0) == 0


def test_as_many_seeds_as_are_asked_for_do() -> None:
    (few,) = classify([scores([50.0] * 3, [50.1] * 3)])
    needed = int(few.reason.split("points, ")[1].split(" ")[0])
    assert 3 < needed < 8
    assert classify([scores([50.0] * needed, [50.1] * needed)])[0].word == "unchanged"
    assert words(10, 0.0)["unchanged"] > 0.9


def test_a_shift_below_the_budget_does_not_count_however_sure_it_is() -> None:
    (change,) = classify([scores([50.0] * 30, [49.2] * 30)])
    assert (change.word, round(change.size or 0, 6)) == ("unchanged", -0.8)
    assert classify([scores([50.0] * 30, [48.9] * 30)])[0].word == "regressed"


def test_what_stands_out_alone_is_unsure_among_many() -> None:
    suspect = scores([50.0], [45.0])
    assert classify([suspect])[0].word == "regressed"
    (change, *_) = classify([suspect, *(scores([50.0], [50.2]) for _ in range(50))])
    assert change.word == "unsure"
    assert change.reason == "p 0.0077 alone, 0.39 among 51 cells"


def test_one_collapse_among_many_cells_is_found_by_one_seed() -> None:
    cells = [scores([50.0], [50.0 + 2 * math.sin(i)], target=5.0) for i in range(99)]
    changes = classify([*cells, scores([55.0], [10.0], target=5.0)])
    assert [change.word for change in changes] == ["unchanged"] * 99 + ["regressed"]


def test_the_pair_is_a_moderated_paired_t_test_by_hand() -> None:
    one = estimate(scores([50.0, 51.0, 53.0], [49.0, 49.0, 52.0]))
    variance = (PRIOR * 2 + statistics.variance([-1.0, -2.0, -1.0]) * 2) / (PRIOR + 2)
    assert one.difference == pytest.approx(-4 / 3)
    assert one.error == pytest.approx(math.sqrt(variance / 3))
    assert (one.freedom, one.seeds) == (PRIOR + 2, 3)
    assert one.p == pytest.approx(2 * stats.t.sf(4 / 3 / one.error, PRIOR + 2))


def test_without_shared_seeds_it_is_welchs_test_by_hand() -> None:
    one = estimate(scores([50.0, 51.0, 53.0], [49.0, 47.0], first_head_seed=7))
    sides = [(PRIOR / 2 + 2 * statistics.variance([50, 51, 53])) / (PRIOR / 2 + 2), (PRIOR / 2 + 2) / (PRIOR / 2 + 1)]
    parts = sides[0] / 3, sides[1] / 2
    assert one.difference == pytest.approx(48 - 154 / 3)
    assert one.error == pytest.approx(math.sqrt(sum(parts)))
    assert one.freedom == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 6 + parts[1] ** 2 / 5))


def test_with_many_seeds_the_budget_hardly_counts() -> None:
    generator = random.Random(1)
    cell = drawn(generator, 400, noise=3.0)
    plain = stats.ttest_rel(list(cell.head.values()), list(cell.base.values())).pvalue
    assert estimate(cell).p == pytest.approx(plain, abs=0.02)


def test_one_seed_a_side_rests_on_the_budget_whether_it_is_shared_or_not() -> None:
    shared, apart = estimate(scores([50.0], [47.0])), estimate(scores([50.0], [47.0], first_head_seed=3))
    assert shared.error == apart.error == pytest.approx(math.sqrt(2))
    assert shared.freedom == apart.freedom == PRIOR


def test_one_seed_that_is_shared_is_compared_with_itself_alone() -> None:
    one = estimate(Scores({0: 40.0, 1: 60.0, 2: 80.0}, {1: 59.0}, 1.0, 1.0, 20.0, 2.0))
    assert (one.base, one.head, one.seeds) == (60.0, 59.0, 1)


@pytest.mark.parametrize(("spread", "target"), [(math.sqrt(2), 2.0), (1.0, 2.0), (3.0, 2.0)])
def test_the_seeds_that_are_needed_see_the_change_in_80_percent_of_cases(spread: float, target: float) -> None:
    needed = seeds_needed(spread, target)
    assert needed is not None

    def seen(seeds: int) -> float:
        freedom = PRIOR + seeds - 1
        return float(stats.nct.sf(stats.t.ppf(0.975, freedom), freedom, target * math.sqrt(seeds) / spread))

    assert seen(needed) >= 0.8 > seen(needed - 1)


def test_more_seeds_than_anybody_runs_are_not_counted() -> None:
    assert seeds_needed(100.0, 1.0) is None
    noisy = scores([50.0, 90.0, 10.0], [90.0, 10.0, 50.0])
    assert "more than 200 would suffice" in classify([noisy])[0].reason


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == [] and classify([]) == []


def test_the_pooled_deviation_by_hand() -> None:
    assert pooled([[1.0, 3.0], [5.0], [2.0, 2.0, 5.0]]) == (pytest.approx(math.sqrt((2 + 6) / 3)), 3)
    assert pooled([[1.0], []]) == (0.0, 0)


def steps(generator: random.Random, rows: int, seconds: float = 0.1, noise: float = 0.05) -> list[float]:
    return [seconds * (1 + generator.gauss(0, noise)) for _ in range(rows)]


@pytest.mark.parametrize("noise", [0.05, 0.15])
@pytest.mark.parametrize("rows", [4, 5, 10])
def test_noise_alone_is_called_a_change_of_speed_in_at_most_5_percent_of_cells(rows: int, noise: float) -> None:
    generator = random.Random(rows)
    found = [speed(steps(generator, rows, noise=noise), steps(generator, rows, noise=noise)).word for _ in range(600)]
    assert sum(word in CHANGED for word in found) / len(found) <= 0.05


@pytest.mark.parametrize(("factor", "word"), [(1.3, "regressed"), (0.7, "improved"), (1.04, "unchanged")])
def test_known_changes_of_speed_are_found(factor: float, word: Word) -> None:
    generator = random.Random(factor)
    found = [speed(steps(generator, 5, noise=0.02), steps(generator, 5, 0.1 * factor, 0.02)).word for _ in range(50)]
    assert found == [word] * 50


@pytest.mark.parametrize(("base", "head"), [(1, 1), (3, 3), (2, 5), (1, 30)])
def test_rows_whose_ranks_can_never_be_rare_enough_are_too_few(base: int, head: int) -> None:
    near, far = speed([0.1] * base, [0.105] * head), speed([0.1] * base, [0.2] * head)
    assert (near.word, far.word) == ("not measured", "unsure")
    assert near.reason == f"too few rows for a rank test: {base} and {head}, 4 and 4 would suffice"
    assert far.size == pytest.approx(2.0)


def test_four_rows_a_side_are_enough() -> None:
    assert speed([0.1, 0.11, 0.12, 0.13], [0.2, 0.21, 0.22, 0.23]).word == "regressed"


def test_step_times_that_overlap_are_unsure() -> None:
    change = speed([0.1, 0.11, 0.12, 0.3, 0.31], [0.09, 0.13, 0.15, 0.16, 0.32])
    assert change.word == "unsure" and change.reason.startswith("rows overlap (p 0.")


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (["unchanged", "improved", "not measured"], 0),
        (["unchanged", "regressed", "unsure"], 1),
        (["unchanged", "unsure"], 2),
        (["not measured"], 2),
        ([], 2),
    ],
)
def test_exit_codes(found: list[Word], code: int) -> None:
    assert exit_code(found) == code


def test_a_change_says_from_what_to_what() -> None:
    (change,) = classify([scores([50.0, 52.0], [40.0, 42.5])])
    assert change == Change("regressed", "", 51.0, 41.25, -9.75, 2)
