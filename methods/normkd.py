"""NormKD: soft targets with a temperature for each image, by the standard deviation of its logits."""

from __future__ import annotations

from torch import Tensor

from ._logits import kl_of_rows, require_positive, standardized
from .base import Batch, Method, Outputs, Setting
from .functional import logits_pair


class NormKD(Method):
    """KD whose temperatures are proportional to the standard deviations of an image's logits.

        T(z) = temperature_norm * std(z), for each image and network, with the unbiased standard deviation
        loss = weight * T(teacher)^2 * KL(softmax(teacher / T(teacher)) || softmax(student / T(student))),
               mean over images

    z [N, K] logits. The gradient passes through T(student); the factor T^2 is the teacher's for both. The released code
    divides by a standard deviation of 0 where all logits of an image are equal; here 1e-7 is added to it.

    Args:
        setting: the run's shapes.
        weight: CIFAR 0.9; ImageNet 0.5.
        task_weight: factor on the task loss: CIFAR 0.1; ImageNet 0.5.
        temperature_norm: CIFAR 2; ImageNet 1.
    """

    name = "normkd"
    citation = (
        "Z. Chi, T. Zheng, H. Li, Z. Yang, B. Wu, B. Lin, D. Cai. NormKD: normalized logits for knowledge distillation"
        ". arXiv 2023. https://github.com/gizi1/NormKD"
    )
    tasks = frozenset({"classification"})
    min_classes = 2

    def __init__(
        self, setting: Setting, weight: float = 0.9, task_weight: float = 0.1, temperature_norm: float = 2.0
    ) -> None:
        super().__init__(setting)
        require_positive(self.name, temperature_norm=temperature_norm)
        self.weight, self.task_weight, self.temperature_norm = weight, task_weight, temperature_norm

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        # Softmax ignores a row's mean, so dividing standardized logits by the norm is dividing the logits by T.
        rows = kl_of_rows(standardized(s) / self.temperature_norm, standardized(t) / self.temperature_norm)
        return {self.name: self.weight * (teacher_temperature(t, self.temperature_norm).square() * rows).mean()}


def teacher_temperature(logits: Tensor, temperature_norm: float) -> Tensor:
    """T of each image: [N, K] -> [N]."""
    return temperature_norm * logits.std(dim=1)
