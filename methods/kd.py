"""KD: knowledge distillation by soft targets."""

from __future__ import annotations

from torch import Tensor

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import kl_divergence, logits_pair


class KD(Method):
    """KL between softened class probabilities.

        loss = weight * T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over rows

    A row is an image of [N, K] logits; in segmentation a pixel of [N, K, h, w] raw logits, including ignored pixels.
    The factor T^2 compensates for the gradient of the KL, which scales as 1 / T^2.

    Args:
        setting: the run's shapes.
        weight: CIFAR 0.9; ImageNet in DIST's recipe 1, in mdistiller's 0.5; segmentation 1.
        task_weight: factor on the task loss: CIFAR 0.1; ImageNet in DIST's recipe 0.9, in mdistiller's 0.5;
            segmentation 1.
        temperature: T: CIFAR 4; ImageNet in DIST's recipe 4, in mdistiller's 1; segmentation 1.
    """

    name = "kd"
    citation = (
        "G. Hinton, O. Vinyals, J. Dean. Distilling the knowledge in a neural network. NIPS workshop 2014. "
        "https://arxiv.org/abs/1503.02531; weights of https://github.com/HobbitLong/RepDistiller"
    )
    tasks = frozenset({"classification", "segmentation"})
    min_classes = 2

    def __init__(
        self, setting: Setting, weight: float = 0.9, task_weight: float = 0.1, temperature: float = 4.0
    ) -> None:
        super().__init__(setting)
        if temperature <= 0:
            raise MethodError(f"kd: temperature is {temperature}; it must be positive")
        self.weight, self.task_weight, self.temperature = weight, task_weight, temperature

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        return {self.name: self.weight * kl_divergence(s, t, self.temperature)}
