"""AT: attention transfer."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import attention_map, check_stages, match_sizes


class AT(Method):
    """Where a network looks: the energy of a feature over space, as a unit vector.

        A(F) = v / ||v||,  v = mean_c |F|^p                  [N, H*W]
        stage loss = mean_{n,hw} (A(S) - A(T))^2;  summed over stages, times weight

    S [N, C_s, H_s, W_s], T [N, C_t, H_t, W_t]; of maps of different size the larger is first pooled to the smaller by
    adaptive averages. Classification: every stage, not the stem. Segmentation: the last feature alone, the map before
    the classifier, as CIRKD runs it.

    Args:
        setting: the run's shapes.
        weight: CIFAR 1000; segmentation in CIRKD's scripts 10000, beside `kd`.
        p: power of the activations.
    """

    name = "at"
    citation = (
        "S. Zagoruyko, N. Komodakis. Paying more attention to attention: improving the performance of convolutional "
        "neural networks via attention transfer. ICLR 2017. https://github.com/szagoruyko/attention-transfer"
    )
    tasks = frozenset({"classification", "segmentation"})

    def __init__(self, setting: Setting, weight: float = 1000.0, p: float = 2.0) -> None:
        super().__init__(setting)
        if p <= 0:
            raise MethodError(f"at: p is {p}; it must be positive")
        self.weight, self.p = weight, p
        if setting.task == "classification":
            check_stages(self.name, setting)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        first = -1 if self.setting.task == "segmentation" else 1
        pairs = zip(student.features[first:], teacher.features[first:], strict=True)
        total = torch.stack([self.compare(own, other) for own, other in pairs]).sum()
        return {self.name: self.weight * total}

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The stage loss of [N, C_s, H_s, W_s] and [N, C_t, H_t, W_t], unweighted."""
        own, other = match_sizes(student, teacher)
        return (attention_map(own, self.p) - attention_map(other, self.p)).square().mean()
