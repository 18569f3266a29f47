"""Learning rates at the steps where they change."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from kdbench.errors import SpecError
from kdbench.spec.recipe import load_recipe, stretched
from kdbench.train.lr_schedule import learning_rate

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


POLY = {"schedule": "poly", "warmup_steps": 0, "epochs": 100, "lr": 0.02, "epoch_steps": 400}


@pytest.mark.parametrize(("power", "floor"), [(0.9, 0.0), (0.9, 1e-4), (1.0, 1e-4), (2.0, 0.0)])
def test_poly_falls_from_the_full_rate_to_its_floor_as_a_power_of_what_is_left(power: float, floor: float) -> None:
    recipe = load_recipe("cifar_mini", POLY | {"power": power, "min_lr": floor})
    for step in (0, 1, 400, 20_000, 39_999, 40_000):
        expected = floor + (0.02 - floor) * (1 - step / 40_000) ** power
        assert learning_rate(recipe, step, 400) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert learning_rate(recipe, 0, 400) == 0.02
    assert learning_rate(recipe, 40_000, 400) == pytest.approx(floor, abs=1e-15)


def test_poly_at_the_middle_and_last_step_of_forty_thousand() -> None:
    cirkd, dist = (load_recipe("cifar_mini", POLY | {"min_lr": floor}) for floor in (0.0, 1e-4))
    assert learning_rate(cirkd, 20_000, 400) == pytest.approx(0.02 * 0.5358867312681466, rel=1e-12)
    assert learning_rate(cirkd, 39_999, 400) == pytest.approx(1.4427e-6, rel=1e-4)
    assert learning_rate(dist, 39_999, 400) == pytest.approx(1e-4 + 1.4355e-6, rel=1e-4)


def test_a_shorter_poly_run_keeps_the_whole_schedule_and_a_stretched_one_stretches_it() -> None:
    recipe = load_recipe("cifar_mini", POLY)
    cut = recipe.model_copy(update={"max_steps": 500})
    assert all(learning_rate(cut, step, 400) == learning_rate(recipe, step, 400) for step in range(0, 500, 7))
    longer = stretched(recipe.model_copy(update={"max_steps": 500}), 1.5)
    assert (longer.epochs, longer.epoch_steps, longer.max_steps) == (150, 400, 750)
    assert learning_rate(longer, 30_000, 400) == pytest.approx(learning_rate(recipe, 20_000, 400))


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
    own: dict[str, Any] = {} if schedule == "cosine" else {"gamma": 0.973}
    own |= {"milestones": [6]} if schedule == "step" else {}
    changes = {"epochs": 20, "warmup_steps": 0, "schedule": schedule} | own
    recipe = load_recipe("cifar_mini", changes | {"warmup_epochs": 5, "warmup_factor": 0.01})
    in_steps = recipe.model_copy(update={"warmup_epochs": 0, "warmup_steps": 35})
    plain = recipe.model_copy(update={"warmup_epochs": 0})
    assert learning_rate(recipe, 0, 7) == pytest.approx(0.01 * recipe.lr)
    for step in range(60):
        assert learning_rate(recipe, step, 7) == learning_rate(in_steps, step, 7)
        factor = 0.01 + 0.99 * step / 35 if step < 35 else 1.0
        assert learning_rate(recipe, step, 7) == pytest.approx(factor * learning_rate(plain, step, 7), rel=1e-12)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0.0, 1e-6),
        (0.99, 1e-6),  # the rate rises once an epoch
        (1.0, 1e-6 + (0.048 - 1e-6) / 3),
        (2.99, 1e-6 + (0.048 - 1e-6) * 2 / 3),
        (3.0, 0.048),
        (5.3, 0.048),  # 2.4 epochs after the end of the warm-up
        (5.5, 0.048 * 0.97),
        (7.7, 0.048 * 0.97),
        (7.9, 0.048 * 0.97**2),
        (449.99, 0.048 * 0.97**186),
    ],
)
def test_strategy_b2_warms_up_by_epochs_and_then_decays_from_the_end_of_the_warm_up(
    epoch: float, expected: float
) -> None:
    recipe = load_recipe("imagenet_b2")
    assert learning_rate(recipe, round(epoch * 1000), 1000) == pytest.approx(expected, rel=1e-6)


def test_the_decay_begins_one_step_after_the_first_of_full_rate() -> None:
    """As the released scheduler counts: its warm-up ends with a step at the full rate."""
    recipe = load_recipe("imagenet_b2", {"decay_epochs": 2.0})
    rates = [learning_rate(recipe, step, 10) / recipe.lr for step in range(30, 72)]
    assert rates == pytest.approx([1.0] * 21 + [0.97] * 20 + [0.97**2])


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0.5, 1e-6),
        (10.5, 1e-6 + (1e-3 - 1e-6) / 2),
        (20.0, 1e-3),
        (160.0, 5e-6 + (1e-3 - 5e-6) / 2),  # halfway from epoch 20 to 300
        (299.999, 5e-6),
    ],
)
def test_strategy_b3_falls_by_a_cosine_over_the_epochs_after_its_warm_up(epoch: float, expected: float) -> None:
    recipe = load_recipe("imagenet_b3")
    assert learning_rate(recipe, round(epoch * 1000), 1000) == pytest.approx(expected, rel=1e-4)


def test_poly_after_the_warm_up_falls_over_the_steps_that_are_left() -> None:
    recipe = load_recipe("cifar_mini", POLY | {"warmup_epochs": 20, "decay_after_warmup": True})
    assert learning_rate(recipe, 8000, 400) == learning_rate(recipe, 8001, 400) == 0.02
    assert learning_rate(recipe, 24_001, 400) == pytest.approx(0.02 * 0.5**0.9)


@pytest.mark.parametrize("schedule", ["cosine", "exponential", "poly"])
def test_a_run_that_ends_within_its_warm_up_does_not_decay(schedule: str) -> None:
    changes = {"schedule": schedule, "epochs": 2, "warmup_epochs": 2, "warmup_steps": 0, "warmup_factor": 1.0}
    recipe = load_recipe("cifar_mini", changes | {"decay_after_warmup": True})
    assert {learning_rate(recipe, step, 10) for step in range(20)} == {recipe.lr}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_by": "epoch", "warmup_steps": 5}, "set warmup_epochs"),
        ({"decay_after_warmup": True, "schedule": "step"}, "no effect on milestones"),
    ],
)
def test_a_warm_up_that_would_have_no_effect_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_recipe("cifar_mini", changes)
