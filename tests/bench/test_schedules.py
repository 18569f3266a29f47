"""Learning rates at the steps where they change."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bench.recipe import load_recipe
from bench.schedules import learning_rate

STEPS = 7330  # an epoch of COCO at batch 16
COCO = load_recipe("coco_2x")
EXPONENTIAL = {"schedule": "exponential", "gamma": 0.973, "epochs": 20, "warmup_steps": 0}


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


@pytest.mark.parametrize(
    ("epoch", "drops"), [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (7, 2), (8, 3), (9, 3), (10, 4), (12, 5)]
)
def test_exponential_drops_at_the_first_whole_epoch_after_each_span(epoch: int, drops: int) -> None:
    """Every 2.4 epochs: at epochs 2.4, 4.8, 7.2, 9.6 and 12, counted in whole epochs."""
    recipe = load_recipe("cifar_mini", EXPONENTIAL | {"decay_epochs": 2.4})
    for step in (epoch * 10, epoch * 10 + 9):
        assert learning_rate(recipe, step, 10) == pytest.approx(recipe.lr * 0.973**drops, rel=1e-12)


def test_exponential_drops_every_epoch_by_default() -> None:
    recipe = load_recipe("cifar_mini", EXPONENTIAL)
    rates = [learning_rate(recipe, step, 5) / recipe.lr for step in (0, 4, 5, 9, 10)]
    assert rates == pytest.approx([1, 1, 0.973, 0.973, 0.973**2])


def test_cosine_falls_to_its_least_rate_and_not_below() -> None:
    recipe = load_recipe("cifar_mini", {"warmup_steps": 0, "epochs": 10, "lr": 0.5, "min_lr": 0.1})
    assert learning_rate(recipe, 0, 100) == 0.5
    assert learning_rate(recipe, 500, 100) == pytest.approx(0.3)
    assert learning_rate(recipe, 1000, 100) == pytest.approx(0.1)
    rates = [learning_rate(recipe, step, 100) for step in range(1000)]
    assert min(rates) == rates[-1] > 0.1
    assert all(later < earlier for earlier, later in pairwise(rates))


@pytest.mark.parametrize("schedule", ["step", "cosine", "exponential"])
def test_a_warm_up_in_epochs_is_the_one_of_as_many_steps(schedule: str) -> None:
    changes = EXPONENTIAL | {"schedule": schedule, "milestones": [6] if schedule == "step" else []}
    recipe = load_recipe("cifar_mini", changes | {"warmup_epochs": 5, "warmup_factor": 0.01})
    in_steps = recipe.model_copy(update={"warmup_epochs": 0, "warmup_steps": 35})
    plain = recipe.model_copy(update={"warmup_epochs": 0})
    assert learning_rate(recipe, 0, 7) == pytest.approx(0.01 * recipe.lr)
    for step in range(60):
        assert learning_rate(recipe, step, 7) == learning_rate(in_steps, step, 7)
        factor = 0.01 + 0.99 * step / 35 if step < 35 else 1.0
        assert learning_rate(recipe, step, 7) == pytest.approx(factor * learning_rate(plain, step, 7), rel=1e-12)
