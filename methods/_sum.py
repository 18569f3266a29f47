"""The sum of several methods: `a+b` where `a` is no wrapper."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting


class Sum(Method):
    """All losses of several methods, named `method`, or `method/term` if a method has several.

    The task weight is the product of the methods' task weights. Where one method lets the teacher's BatchNorm count the
    batch, all read these outputs. Methods that train their teacher or have an initial
    phase cannot be summed.
    """

    def __init__(self, setting: Setting, summands: Mapping[str, Method]) -> None:
        super().__init__(setting)
        self.summand_names = tuple(summands)
        self.needs_teacher = any(method.needs_teacher for method in summands.values())  # type: ignore[misc]
        self.summands = nn.ModuleList(summands.values())
        for name, method in summands.items():
            if method.teacher_mode != "frozen" or method.initial_epochs:
                raise MethodError(f"{name} cannot be part of a sum: it trains its teacher or has an initial phase")
            self.task_weight *= method.task_weight
            self.student_bias &= method.student_bias
            self.teacher_batch_statistics |= method.teacher_batch_statistics
            if method.gradients == "separate":
                self.gradients, self.momentum_delta = method.gradients, method.momentum_delta

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for name, method in zip(self.summand_names, self.summands, strict=True):
            losses = method(batch, student, teacher)
            terms |= {name if len(losses) == 1 else f"{name}/{term}": value for term, value in losses.items()}
        return terms
