"""Learning rates at the steps where they change."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bench.recipe import load_recipe
from bench.schedules import learning_rate

STEPS = 7330  # an epoch of COCO at batch 16
COCO = load_recipe("coco_2x")


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 1.0e-5),
        (1, 1.0e-5 + 0.01 * 0.999 / 500),
        (250, 0.01 * (0.001 + 0.999 / 2)),
        (499, 0.01 * (0.001 + 0.999 * 499 / 500)),
        (500, 0.01),
        (STEPS, 0.01),
        (16 * STEPS - 1, 0.01),
        (16 * STEPS, 0.001),
        (22 * STEPS - 1, 0.001),
        (22 * STEPS, 0.0001),
        (24 * STEPS - 1, 0.0001),
    ],
)
def test_the_published_2x_schedule_warms_up_and_drops_at_its_milestones(step: int, expected: float) -> None:
    assert learning_rate(COCO, step, STEPS) == pytest.approx(expected, rel=1e-12)


def test_milestones_count_epochs_whatever_an_epoch_holds() -> None:
    assert learning_rate(COCO, 16 * 1000 - 1, 1000) == pytest.approx(0.01)
    assert learning_rate(COCO, 16 * 1000, 1000) == pytest.approx(0.001)


def test_cosine_starts_at_the_full_rate_is_halved_midway_and_ends_near_zero() -> None:
    recipe = load_recipe("coco_mini", {"warmup_steps": 0, "epochs": 10})
    rates = [learning_rate(recipe, step, 100) / recipe.lr for step in range(1000)]
    assert rates[0] == 1.0
    assert rates[500] == pytest.approx(0.5)
    assert rates[250] == pytest.approx(0.5 + 0.5**1.5)
    assert 0 < rates[999] < 1e-5
    assert all(later < earlier for earlier, later in pairwise(rates))


def test_warm_up_multiplies_the_cosine() -> None:
    recipe = load_recipe("coco_mini", {"warmup_steps": 10, "warmup_factor": 0.1})
    plain = recipe.model_copy(update={"warmup_steps": 0})
    for step in range(30):
        factor = 0.1 + 0.9 * min(step, 10) / 10
        assert learning_rate(recipe, step, 50) == pytest.approx(factor * learning_rate(plain, step, 50))


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_a_run_that_is_cut_short_keeps_the_whole_schedule(schedule: str) -> None:
    whole = load_recipe("coco_2x", {"schedule": schedule})
    short = whole.model_copy(update={"max_steps": 600})
    for step in (0, 300, 500, 599):
        assert learning_rate(short, step, STEPS) == learning_rate(whole, step, STEPS)


def test_a_step_schedule_without_milestones_stays() -> None:
    recipe = load_recipe("coco_2x", {"milestones": [], "warmup_steps": 0})
    assert {learning_rate(recipe, step, 10) for step in range(240)} == {0.01}
