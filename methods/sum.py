"""The sum of several methods: what `a+b` means when `a` wraps nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from .base import Batch, Method, Outputs, Setting, Teacher


class Sum(Method):
    """Every part's losses, named `part` or `part/term` when a part has several.

    The task weight is the product of the parts' task weights.
    """

    def __init__(self, setting: Setting, parts: Mapping[str, Method]) -> None:
        super().__init__(setting)
        self.part_names = tuple(parts)
        self.parts = nn.ModuleList(parts.values())
        for part in parts.values():
            self.task_weight *= part.task_weight

    def prepare(self, teacher: Teacher, batches: Iterable[Batch]) -> None:
        for part in self.parts:
            part.prepare(teacher, batches)  # type: ignore[operator]

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for name, part in zip(self.part_names, self.parts, strict=True):
            own = part(batch, student, teacher)
            terms |= {name if len(own) == 1 else f"{name}/{term}": value for term, value in own.items()}
        return terms
