"""No distillation: the student alone, trained with its recipe; the baseline of all methods."""

from __future__ import annotations

from torch import Tensor

from .base import Batch, Method, Outputs


class NoDistillation(Method):
    """No terms: the run minimizes the task loss alone."""

    name = "none"
    citation = "The student alone, with its recipe; no paper."
    tasks = frozenset({"classification", "detection", "segmentation"})
    needs_teacher = False

    def __call__(self, batch: Batch, student: Outputs, teacher: Outputs, initial: bool = False) -> dict[str, Tensor]:
        """An empty dict; no output is converted to float32 for it."""
        return {}

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """An empty dict."""
        return {}
