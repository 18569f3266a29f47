"""The sum of several methods: what `a+b` means when `a` wraps nothing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting


class Sum(Method):
    """Every part's losses, named `part` or `part/term` when a part has several.

    The task weight is the product of the parts' task weights. Parts that train their teacher or begin with a phase of
    their own cannot be summed.
    """

    def __init__(self, setting: Setting, parts: Mapping[str, Method]) -> None:
        super().__init__(setting)
        self.part_names = tuple(parts)
        self.summands = nn.ModuleList(parts.values())
        for name, part in parts.items():
            if part.teacher_mode != "frozen" or part.initial_epochs:
                raise MethodError(
                    f"{name} cannot be part of a sum: it trains its teacher or begins before the task does"
                )
            self.task_weight *= part.task_weight

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for name, part in zip(self.part_names, self.summands, strict=True):
            own = part(batch, student, teacher)
            terms |= {name if len(own) == 1 else f"{name}/{term}": value for term, value in own.items()}
        return terms
