"""SGD on two gradients of each parameter, of the task loss and of distillation, with a momentum for each (DOT)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

TASK, DISTILLATION = "momentum_buffer", "momentum_distillation_buffer"


class SeparateSGD(torch.optim.Optimizer):
    """SGD that keeps the gradients of task and distillation apart; `methods/dot.py` has the formulas.

    A parameter's `grad` is that of the task, but in `distillation`.

    Args:
        groups: parameter groups.
        lr: learning rate.
        momentum: of parameters with one of the gradients.
        delta: that of task gradients is smaller by so much, that of distillation gradients larger.
        weight_decay: of the task part.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, momentum: float, delta: float, weight_decay: float
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay})
        self._others: dict[Tensor, Tensor] = {}

    @contextmanager
    def distillation(self) -> Iterator[None]:
        """A block in which `grad` of every parameter is that of distillation."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            other = self._others.pop(parameter, None)
            if parameter.grad is not None:
                self._others[parameter] = parameter.grad
            parameter.grad = other

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget both gradients."""
        super().zero_grad(set_to_none)
        self._others.clear()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the parameters that have a gradient."""
        for group in self.param_groups:
            kinds: dict[tuple[bool, bool, bool], list[Tensor]] = {}
            for p in group["params"]:
                kind = p.grad is not None, p in self._others, DISTILLATION in self.state[p]
                if kind[0] or kind[1]:
                    kinds.setdefault(kind, []).append(p)
            for (task, distilled, moved), parameters in kinds.items():
                self._move(group, parameters, task, distilled, moved)

    def _move(self, group: dict[str, Any], parameters: list[Tensor], task: bool, distilled: bool, moved: bool) -> None:
        delta, decay = group["delta"] if task and distilled else 0.0, group["weight_decay"]
        if task:
            gradients = [p.grad for p in parameters if p.grad is not None]
            decayed = torch._foreach_add(gradients, parameters, alpha=decay) if decay else gradients
            self._advance(TASK, parameters, decayed, group["momentum"] - delta, group["lr"])
        if distilled:
            others = [self._others[p] for p in parameters]
            if decay and not task and moved:
                others = list(torch._foreach_add(others, parameters, alpha=decay))
            self._advance(DISTILLATION, parameters, others, group["momentum"] + delta, group["lr"])

    def _advance(
        self, key: str, parameters: list[Tensor], gradients: Iterable[Tensor], momentum: float, lr: float
    ) -> None:
        for p in parameters:
            if key not in self.state[p]:
                self.state[p][key] = torch.zeros_like(p)
        buffers = [self.state[p][key] for p in parameters]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, list(gradients))
        torch._foreach_add_(parameters, buffers, alpha=-lr)
