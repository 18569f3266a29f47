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
    """
    least = recipe.min_lr / recipe.lr
    if recipe.schedule == "cosine":
        factor = least + (1 - least) * 0.5 * (1 + math.cos(math.pi * step / (recipe.epochs * steps_per_epoch)))
    elif recipe.schedule == "poly":
        factor = least + (1 - least) * (1 - step / (recipe.epochs * steps_per_epoch)) ** recipe.power
    elif recipe.schedule == "exponential":
        factor = recipe.gamma ** ((step // steps_per_epoch) // recipe.decay_epochs)
    else:
        factor = recipe.gamma ** sum(step >= milestone * steps_per_epoch for milestone in recipe.milestones)
    warmup = recipe.warmup_steps or recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        factor *= recipe.warmup_factor + (1 - recipe.warmup_factor) * step / warmup
    return recipe.lr * factor
