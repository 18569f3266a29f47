"""The optimizers of a run: the recipe's, and those that its method trains modules of its own by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from kdbench.methods.base import Method, MethodError

from ..errors import SpecError
from ..spec.recipe import Recipe
from .separate_gradients import SeparateAdamW, SeparateGradients, SeparateSGD

CONSTANT_RATE = "own_rate"
"""Key of parameter groups whose learning rate a method sets, and which the schedule leaves alone."""

ADAM_MOMENTUM = 0.9
"""AdamW's beta 1, which is torch's default."""

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
"""What a method's parameter group may name as its `optimizer`."""

SEPARATE: dict[str, type[SeparateGradients]] = {"sgd": SeparateSGD, "adamw": SeparateAdamW}
"""Optimizers of recipes for methods with separate gradients."""


class Optimizers:
    """The recipe's optimizer, with those of the method's groups that name another one; all step together.

    Attributes:
        recipe: over the networks and the method's other parameters.
        method: one for each group of the method that names its optimizer, in order.
    """

    def __init__(self, recipe: torch.optim.Optimizer, method: Iterable[torch.optim.Optimizer]) -> None:
        self.recipe, self.method = recipe, list(method)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in (self.recipe, *self.method) for group in optimizer.param_groups]

    def zero_grad(self) -> None:
        for optimizer in (self.recipe, *self.method):
            optimizer.zero_grad(set_to_none=True)

    def each_gradient(self) -> Iterator[None]:
        """Once; with separate gradients a second time, while `grad` of the parameters is that of distillation."""
        yield
        if isinstance(self.recipe, SeparateGradients):
            with self.distillation():
                yield

    def distillation(self) -> AbstractContextManager[None]:
        """A block in which `grad` of the parameters is that of distillation, if gradients are separate."""
        return self.recipe.distillation() if isinstance(self.recipe, SeparateGradients) else nullcontext()

    def step(self) -> None:
        for optimizer in (self.recipe, *self.method):
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """The recipe's optimizer's, with those of the others under `method`."""
        return self.recipe.state_dict() | {"method": [optimizer.state_dict() for optimizer in self.method]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = dict(state)
        for optimizer, own in zip(self.method, state.pop("method", []), strict=True):
            optimizer.load_state_dict(own)
        self.recipe.load_state_dict(state)


def build_optimizer(recipe: Recipe, networks: Iterable[nn.Module], method: Method) -> Optimizers:
    """The optimizers over all parameters of the networks and the method that require gradients.

    Groups that the method defines come last. Weight decay acts on every parameter, as in the detection and CIFAR
    papers' code, unless `decay_all` is off.

    Raises:
        MethodError: a group of the method names an unknown optimizer, or a setting that it does not have.
        SpecError: the recipe's optimizer cannot keep the gradients of task and distillation apart.
    """
    method_groups = [group | {CONSTANT_RATE: True} for group in method.parameter_groups()]
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
    groups += [group for group in method_groups if "optimizer" not in group]
    named_optimizers = [_named_optimizer(group) for group in method_groups if "optimizer" in group]
    check_momenta(recipe, method)
    if method.gradients == "separate":
        return Optimizers(_separate(recipe, groups, method.momentum_delta), named_optimizers)
    return Optimizers(_optimizer(recipe, groups), named_optimizers)


def trained_parameters(optimizer: Optimizers) -> list[nn.Parameter]:
    """All parameters that are trained, in the order of the groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def set_learning_rate(optimizer: Optimizers, rate: float) -> None:
    """Set the schedule's learning rate in every group but those with a constant one."""
    for group in optimizer.param_groups:
        if not group.get(CONSTANT_RATE):
            group["lr"] = rate


def _named_optimizer(group: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer that a method's group names, with the group's other entries as its settings."""
    name = group["optimizer"]
    if name not in OPTIMIZERS:
        raise MethodError(f"parameter_groups: optimizer is {name!r}; use one of {', '.join(OPTIMIZERS)}")
    settings = {key: value for key, value in group.items() if key not in ("params", "optimizer", CONSTANT_RATE)}
    try:
        return OPTIMIZERS[name]([{"params": group["params"], CONSTANT_RATE: True}], **settings)
    except (TypeError, ValueError) as error:
        raise MethodError(f"parameter_groups: torch's {name} refuses the settings {settings}: {error}") from error


def _optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    fused = recipe.compile or None  # None: as torch chooses
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
    if recipe.optimizer == "rmsprop_tf":
        from timm.optim.rmsprop_tf import RMSpropTF

        rmsprop: torch.optim.Optimizer = RMSpropTF(
            groups, recipe.lr, alpha=0.9, eps=1e-3, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        return rmsprop
    return torch.optim.SGD(
        groups, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov, fused=fused
    )


def check_momenta(recipe: Recipe, method: Method) -> None:
    """Refuse a recipe whose optimizer cannot keep the gradients of task and distillation apart for a method that asks.

    Raises:
        SpecError: says which recipe can.
    """
    delta, momentum = method.momentum_delta, _momentum(recipe)
    if method.gradients != "separate" or (
        recipe.optimizer in SEPARATE and not recipe.nesterov and 0 <= delta <= momentum < 1 - delta
    ):
        return
    if recipe.optimizer in SEPARATE and not recipe.nesterov and momentum:
        raise SpecError(
            f"the method changes the momentum of the recipe, {momentum}, by {delta}, and both results must be at least "
            f"0 and below 1; give a delta from 0 to below {min(momentum, round(1 - momentum, 6))}"
        )
    raise SpecError(
        f"the method trains by SGD without Nesterov, or AdamW, and changes the momentum by {delta}; the recipe has "
        f"{recipe.optimizer}{' with Nesterov' if recipe.nesterov else ''} and momentum {momentum}; give "
        "--set optimizer=sgd --set nesterov=false --set momentum=0.9"
    )


def _momentum(recipe: Recipe) -> float:
    return recipe.momentum if recipe.optimizer == "sgd" else ADAM_MOMENTUM


def _separate(recipe: Recipe, groups: list[dict[str, Any]], delta: float) -> SeparateGradients:
    settings = {"lr": recipe.lr, "momentum": _momentum(recipe), "weight_decay": recipe.weight_decay}
    return SEPARATE[recipe.optimizer](groups, **settings, delta=delta)
