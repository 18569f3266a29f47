"""The learning rate at each step."""

from __future__ import annotations

import math

from .specs import Recipe


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of optimiser step `step`, counted from 0.

    Linear warm-up from `warmup_factor`, multiplied with the schedule: "step" drops by `gamma` at each milestone
    epoch, "cosine" falls to 0 at the end of the last epoch. A run cut short by `max_steps` keeps the whole schedule.
    """
    if recipe.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * step / (recipe.epochs * steps_per_epoch)))
    else:
        factor = recipe.gamma ** sum(step >= milestone * steps_per_epoch for milestone in recipe.milestones)
    if step < recipe.warmup_steps:
        factor *= recipe.warmup_factor + (1 - recipe.warmup_factor) * step / recipe.warmup_steps
    return recipe.lr * factor
