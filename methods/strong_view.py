"""STRONG_VIEW: a wrapper around a method on logits, which reads a strong view of each image as well."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Method, Outputs, Setting


class StrongView(Method):
    """The losses of a method on logits, of each image and of its strong view: MLKD's views without its levels.

        loss = base(z_s, z_t) + base(z_s', z_t') + task_weight * cross-entropy of z_s'

    z, z' [N, K]: logits of an image and of its strong view, which has its own crop and flip, two of 14 operations and
    a gray square. The task weight is the base's. As in MLKD, each view is a forward of its own, the strong one after
    the other. No paper has this method: it shows what the second view and the longer training are worth alone.

    Args:
        setting: the run's shapes.
        base: the wrapped method, whose options and task weight are used.
    """

    name = "strong_view"
    citation = (
        "The views of: Y. Jin, J. Wang, D. Lin. Multi-level logit distillation. CVPR 2023. "
        "https://github.com/Jin-Ying/Multi-Level-Logit-Distillation"
    )
    tasks = frozenset({"classification"})
    min_classes = 2
    views = ("strong",)
    wraps = ("dist", "dkd", "kd")

    def __init__(self, setting: Setting, base: Method) -> None:
        super().__init__(setting)
        self.name = f"strong_view+{base.name}"  # type: ignore[misc]
        self.base = base
        self.task_weight = base.task_weight

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """The base's terms of both views, `strong_NAME` of the strong one, and `strong_cross_entropy`."""
        view, strong = batch.views["strong"], student.views["strong"]
        terms = self.base(batch, student, teacher)
        terms |= {f"strong_{name}": value for name, value in self.base(view, strong, teacher.views["strong"]).items()}
        assert isinstance(strong.logits, Tensor)
        return terms | {"strong_cross_entropy": self.task_weight * F.cross_entropy(strong.logits, view.targets)}
