"""No distillation: the student's own recipe, the row that every other row is compared with."""

from __future__ import annotations

from torch import Tensor

from .base import Batch, Method, Outputs


class NoDistillation(Method):
    """Adds no term: the run minimises `task_loss` alone."""

    name = "none"
    citation = "The student's own recipe; nothing to cite."
    tasks = frozenset({"classification", "detection", "segmentation"})
    needs_teacher = False

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """An empty dict."""
        return {}
