"""TTM: transformed teacher matching."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ._logits import kl_of_rows, require_positive
from .base import Batch, Method, Outputs, Setting
from .functional import logits_pair


class TTM(Method):
    """KL between a power of the teacher's distribution and the student's distribution without a temperature.

        q = p(teacher)^exponent / n,  n = sum over classes of p(teacher)^exponent;  p = softmax(z)
        loss = weight * KL(q || p(student)), mean over images

    z [N, K] logits. q is the softmax of the teacher's logits times `exponent`, so 1 / exponent is a temperature of the
    teacher alone, and there is no T^2.

    Args:
        setting: the run's shapes.
        weight: CIFAR-100, vgg13 to vgg8: 45. Values of other pairs are not released.
        exponent: 0.1 for that pair.
    """

    name = "ttm"
    citation = (
        "K. Zheng, E.-H. Yang. Knowledge distillation based on transformed teacher matching. ICLR 2024. "
        "https://github.com/zkxufo/TTM"
    )
    tasks = frozenset({"classification"})
    min_classes = 2

    def __init__(self, setting: Setting, weight: float = 45.0, exponent: float = 0.1) -> None:
        super().__init__(setting)
        require_positive(self.name, exponent=exponent)
        self.weight, self.exponent = weight, exponent

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        transformed = self.exponent * F.log_softmax(t, dim=1)
        return {self.name: self.weight * (self.row_weights(transformed) * kl_of_rows(s, transformed)).mean()}

    def row_weights(self, transformed: Tensor) -> Tensor | float:
        """Factors on the images' losses, for log p(teacher)^exponent [N, K]."""
        return 1.0
