"""CTKD: curriculum temperature for knowledge distillation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ._logits import kl_of_rows, require_positive
from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import logits_pair


class CTKD(Method):
    """KD with a learned temperature that ascends the loss, the faster the later the epoch.

        T = t_start + t_end * sigmoid(theta), theta a scalar that starts at 1
        loss = weight * T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over images
        the gradient of theta is multiplied by lambda = -1 + (1 + cos(pi * min(e / ramp_epochs, 1))) / 2
        in the e-th epoch, from 1

    z [N, K] logits. lambda falls from 0 to -1, so theta ascends the loss; the student's gradient is not multiplied.
    theta trains in the recipe's optimizer with the recipe's weight decay, which is not reversed. The temperature is
    `learned`. This is the global temperature; the instance-wise one of the paper was not released.

    Args:
        setting: the run's shapes.
        weight: CIFAR 0.9; ImageNet 1.
        task_weight: factor on the task loss: CIFAR 0.1; ImageNet 1.
        t_start: the least temperature.
        t_end: the largest temperature is t_start + t_end.
        ramp_epochs: epochs until lambda is -1, by `epoch`; 0 is -1 from the start. CIFAR 10; ImageNet 5.
    """

    name = "ctkd"
    citation = (
        "Z. Li, X. Li, L. Yang, B. Zhao, R. Song, L. Luo, J. Li, J. Yang. Curriculum temperature for knowledge "
        "distillation. AAAI 2023. https://github.com/zhengli97/CTKD"
    )
    tasks = frozenset({"classification"})
    min_classes = 2

    def __init__(
        self,
        setting: Setting,
        weight: float = 0.9,
        task_weight: float = 0.1,
        t_start: float = 1.0,
        t_end: float = 20.0,
        ramp_epochs: int = 10,
    ) -> None:
        super().__init__(setting)
        require_positive(self.name, t_start=t_start, t_end=t_end)
        if ramp_epochs < 0:
            raise MethodError(f"ctkd: ramp_epochs is {ramp_epochs}; use a number of epochs, or 0 for none")
        self.weight, self.task_weight = weight, task_weight
        self.t_start, self.t_end, self.ramp_epochs = t_start, t_end, ramp_epochs
        self.theta = nn.Parameter(torch.ones(()))

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        fixed = self.theta.detach()
        temperature = self._temperature(fixed + self._lambda() * (self.theta - fixed))
        rows = kl_of_rows(s / temperature, t / temperature)
        return {self.name: self.weight * temperature.square() * rows.mean()}

    def learned(self) -> dict[str, float]:
        """The temperature."""
        return {"temperature": self._temperature(self.theta.detach()).item()}

    def _temperature(self, theta: Tensor) -> Tensor:
        return self.t_start + self.t_end * theta.sigmoid()

    def _lambda(self) -> float:
        """The factor on the gradient of theta."""
        progress = min((int(self.epoch) + 1) / self.ramp_epochs, 1.0) if self.ramp_epochs else 1.0
        return -1 + (1 + math.cos(math.pi * progress)) / 2
