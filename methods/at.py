"""AT: attention transfer."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import attention_map, match_sizes, stage_channels


class AT(Method):
    """Squared error between attention maps: the energy of a feature over space, as a unit vector.

        A(F) = v / ||v||,  v = mean_c |F|^p                  [N, H*W]
        stage loss = mean_{n,hw} (A(S) - A(T))^2;  summed over stages, times weight

    S [N, C_s, H_s, W_s], T [N, C_t, H_t, W_t]; the larger of two maps is first reduced to the smaller size by
    adaptive average pooling. Classification: every stage, without the stem. Segmentation: only the last feature, the
    map before the classifier, as in CIRKD's scripts.

    Args:
        setting: the run's shapes.
        weight: CIFAR 1000; segmentation in CIRKD's scripts 10000, together with `kd`.
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
            stage_channels(self.name, setting)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        first = -1 if self.setting.task == "segmentation" else 1
        pairs = zip(student.features[first:], teacher.features[first:], strict=True)
        total = torch.stack([self.compare(s, t) for s, t in pairs]).sum()
        return {self.name: self.weight * total}

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The stage loss of [N, C_s, H_s, W_s] and [N, C_t, H_t, W_t], unweighted."""
        s, t = match_sizes(student, teacher)
        return (attention_map(s, self.p) - attention_map(t, self.p)).square().mean()
