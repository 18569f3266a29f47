"""The optimizer of a recipe, and the learning rate of its groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from kdbench.methods.base import Method

from ..spec.recipe import Recipe

CONSTANT_RATE = "own_rate"
"""Key of parameter groups whose learning rate a method sets, and which the schedule leaves alone."""


def build_optimizer(recipe: Recipe, networks: Iterable[nn.Module], method: Method) -> torch.optim.Optimizer:
    """The recipe's optimizer over all parameters of the networks and the method that require gradients.

    Groups that the method defines come last. Weight decay acts on every parameter, as in the detection and CIFAR
    papers' code, unless `decay_all` is off.
    """
    method_groups = method.parameter_groups()
    grouped = {id(parameter) for group in method_groups for parameter in group["params"]}
    named = [item for module in (*networks, method) for item in module.named_parameters()]
    trained = [(name, p) for name, p in named if p.requires_grad and id(p) not in grouped]
    groups: list[dict[str, Any]] = [{"params": [p for _, p in trained]}]
    if not recipe.decay_all:
        vectors = [name.endswith("bias") or p.ndim <= 1 for name, p in trained]
        groups = [
            {"params": [p for (_, p), vector in zip(trained, vectors, strict=True) if not vector]},
            {"params": [p for (_, p), vector in zip(trained, vectors, strict=True) if vector], "weight_decay": 0.0},
        ]
    groups += [group | {CONSTANT_RATE: True} for group in method_groups]
    return _optimizer(recipe, groups)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the schedule's learning rate in every group but those with a constant one."""
    for group in optimizer.param_groups:
        if not group.get(CONSTANT_RATE):
            group["lr"] = rate


def _optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, recipe.lr, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "rmsprop_tf":
        from timm.optim.rmsprop_tf import RMSpropTF

        rmsprop: torch.optim.Optimizer = RMSpropTF(
            groups, recipe.lr, alpha=0.9, eps=1e-3, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        return rmsprop
    return torch.optim.SGD(
        groups, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
    )
