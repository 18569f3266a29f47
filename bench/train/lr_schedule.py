"""How many steps there are, and the learning rate at each."""

from __future__ import annotations

import math

from ..spec.recipe import Recipe


def total_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    """Optimizer steps of a whole run."""
    return min(recipe.epochs * steps_per_epoch, recipe.max_steps or 2**62)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of optimizer step `step`, counted from 0.

    Linear warm-up from `warmup_factor`, multiplied with the schedule: "step" drops by `gamma` at each milestone
    epoch, "exponential" by `gamma` once every `decay_epochs`, "cosine" falls to `min_lr` at the end of the last epoch,
    "poly" too, with (1 - step / steps)^power of the way to go. A run cut short by `max_steps` keeps the whole schedule.
    With `warmup_by` epoch, the rate rises at the beginning of an epoch and stays within it. With `decay_after_warmup`,
    the schedule begins at the step after the first one of full rate, and has the remaining steps.
    """
    warmup = recipe.warmup_steps or recipe.warmup_epochs * steps_per_epoch
    factor = _decay(recipe, step, steps_per_epoch, warmup)
    if step < warmup:
        risen = step // steps_per_epoch * steps_per_epoch if recipe.warmup_by == "epoch" else step
        factor *= recipe.warmup_factor + (1 - recipe.warmup_factor) * risen / warmup
    return recipe.lr * factor


def _decay(recipe: Recipe, step: int, steps_per_epoch: int, warmup: int) -> float:
    """The schedule's factor on the learning rate, the warm-up's aside."""
    if recipe.schedule == "step":
        return recipe.gamma ** sum(step >= milestone * steps_per_epoch for milestone in recipe.milestones)
    steps, spans = recipe.epochs * steps_per_epoch, (step // steps_per_epoch) // recipe.decay_epochs
    if recipe.decay_after_warmup:
        step, steps = max(step - warmup - 1, 0), max(steps - warmup, 1)
        spans = step // (recipe.decay_epochs * steps_per_epoch)
    if recipe.schedule == "exponential":
        return float(recipe.gamma**spans)
    least = recipe.min_lr / recipe.lr
    if recipe.schedule == "cosine":
        return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * step / steps))
    return float(least + (1 - least) * (1 - step / steps) ** recipe.power)
