"""Optimizers on two gradients of each parameter, of task and distillation, with a momentum for each (DOT)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

TASK, DISTILLATION = "momentum_buffer", "momentum_distillation_buffer"
SQUARES, STEPS = "squares", "step"


class SeparateGradients(torch.optim.Optimizer):
    """Keeps the gradients of task and distillation apart; a parameter's `grad` is the task's, but in `distillation`.

    Args:
        groups: parameter groups.
        settings: of all groups: `lr`, `weight_decay`, `momentum` of parameters with one of the gradients alone, and
            `delta`: that of task gradients is smaller by so much, that of distillation gradients larger.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **settings: float) -> None:
        super().__init__(groups, settings)
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
        """Move the parameters that have a gradient, those with the same gradients and state at once."""
        for group in self.param_groups:
            kinds: dict[tuple[bool, bool, int], list[Tensor]] = {}
            for p in group["params"]:
                steps = int(self.state[p].get(STEPS, 0))
                kinds.setdefault((p.grad is not None, p in self._others, steps), []).append(p)
            for (task, distilled, steps), parameters in kinds.items():
                if task or distilled:
                    delta = group["delta"] if task and distilled else 0.0
                    gradients = [[p.grad for p in parameters if p.grad is not None] if task else []]
                    gradients += [[self._others[p] for p in parameters] if distilled else []]
                    momenta = group["momentum"] - delta, group["momentum"] + delta
                    self.move(group, parameters, gradients[0], gradients[1], momenta, steps)
                    for p in parameters:
                        self.state[p][STEPS] = steps + 1

    @abstractmethod
    def move(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        task: list[Tensor],
        distilled: list[Tensor],
        momenta: tuple[float, float],
        steps: int,
    ) -> None:
        """Move parameters of a group that have moved `steps` times, by the gradients that they have."""

    def kept(self, key: str, parameters: list[Tensor]) -> list[Tensor]:
        """A state of each parameter, zeros at first."""
        for p in parameters:
            if key not in self.state[p]:
                self.state[p][key] = torch.zeros_like(p)
        return [self.state[p][key] for p in parameters]


class SeparateSGD(SeparateGradients):
    """SGD as released; `methods/dot.py` has the formulas."""

    def move(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        task: list[Tensor],
        distilled: list[Tensor],
        momenta: tuple[float, float],
        steps: int,
    ) -> None:
        decay = group["weight_decay"]
        if decay and task:
            task = list(torch._foreach_add(task, parameters, alpha=decay))
        elif decay and steps:  # distillation alone has no decay in its first step
            distilled = list(torch._foreach_add(distilled, parameters, alpha=decay))
        for key, gradients, momentum in zip((TASK, DISTILLATION), (task, distilled), momenta, strict=True):
            if gradients:
                buffers = self.kept(key, parameters)
                torch._foreach_mul_(buffers, momentum)
                torch._foreach_add_(buffers, gradients)
                torch._foreach_add_(parameters, buffers, alpha=-group["lr"])


class SeparateAdamW(SeparateGradients):
    """AdamW with a first moment for each gradient and the second moment of their sum; without `delta` it is AdamW.

    Our extension, for recipes with AdamW: DOT was released for SGD.
    """

    BETA, EPS = 0.999, 1e-8

    def move(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        task: list[Tensor],
        distilled: list[Tensor],
        momenta: tuple[float, float],
        steps: int,
    ) -> None:
        count = steps + 1
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        total = list(torch._foreach_add(task, distilled)) if task and distilled else task or distilled
        squares = self.kept(SQUARES, parameters)
        torch._foreach_mul_(squares, self.BETA)
        torch._foreach_addcmul_(squares, total, total, value=1 - self.BETA)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, (1 - self.BETA**count) ** 0.5)
        torch._foreach_add_(roots, self.EPS)
        for key, gradients, momentum in zip((TASK, DISTILLATION), (task, distilled), momenta, strict=True):
            if gradients:
                means = self.kept(key, parameters)
                torch._foreach_lerp_(means, gradients, 1 - momentum)
                torch._foreach_addcdiv_(parameters, means, roots, value=-group["lr"] / (1 - momentum**count))
