"""What a recipe trains with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from kdbench.methods.base import Method

from ..spec.recipe import Recipe

OWN = "own_rate"
"""Marks a group whose learning rate is a method's and not the schedule's."""


def make(recipe: Recipe, networks: Iterable[nn.Module], method: Method) -> torch.optim.Optimizer:
    """The recipe's optimiser over whatever requires gradients in the networks and the method.

    Groups of the method's own come last. Weight decay acts on every parameter, as in the detection and CIFAR papers'
    code, unless `decay_all` is off.
    """
    own = method.parameter_groups()
    taken = {id(parameter) for group in own for parameter in group["params"]}
    named = [item for module in (*networks, method) for item in module.named_parameters()]
    trained = [(name, p) for name, p in named if p.requires_grad and id(p) not in taken]
    groups: list[dict[str, Any]] = [{"params": [p for _, p in trained]}]
    if not recipe.decay_all:
        vectors = [name.endswith("bias") or p.ndim <= 1 for name, p in trained]
        groups = [
            {"params": [p for (_, p), vector in zip(trained, vectors, strict=True) if not vector]},
            {"params": [p for (_, p), vector in zip(trained, vectors, strict=True) if vector], "weight_decay": 0.0},
        ]
    groups += [group | {OWN: True} for group in own]
    return _optimiser(recipe, groups)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """The schedule's learning rate, for every group that has none of its own."""
    for group in optimiser.param_groups:
        if not group.get(OWN):
            group["lr"] = rate


def _optimiser(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, recipe.lr, weight_decay=recipe.weight_decay)
    if recipe.optimiser == "rmsprop_tf":
        from timm.optim.rmsprop_tf import RMSpropTF

        rmsprop: torch.optim.Optimizer = RMSpropTF(
            groups, recipe.lr, alpha=0.9, eps=1e-3, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        return rmsprop
    return torch.optim.SGD(
        groups, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
    )
