"""OFA-KD: one-for-all distillation between networks of any architecture, for students that are CNNs."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, Method, MethodError, NetworkInfo, Outputs, Setting
from .functional import logits_pair


class OFAKD(Method):
    """The student's logits, and those of a head on each of its stages, learn the teacher's logits.

        p = softmax(teacher / T),  q = softmax(z / T)
        L(z) = -mean_n sum_c ((p_c + [c = y])^eps - [c = y]) log q_c
        logits = weight * L(student),  stages = stage_weight * sum over stages of L(head(S))

    S [N, C, H, W]: the student's stages, without the stem. Of n stages, the head of stage s < n is n - s times
    SepConv, the mean over positions and a linear layer to the K classes; that of the last stage has a 1x1 convolution
    in place of SepConv. SepConv: depthwise 3x3 of stride 2, 1x1, BatchNorm, ReLU, depthwise 3x3, 1x1, BatchNorm, ReLU;
    each doubles the channels but the last one, which leads to D, the larger of both networks' pooled_dim. Of the
    teacher the logits alone are read. Released for four stages; other numbers are our choice, and so are students that
    pool features of another width than the last stage's. With soft labels, y is the class of the largest.

    The heads for students that are ViTs or MLPs, on tokens, are not implemented: their features are taken as maps.

    Args:
        setting: the run's shapes; both networks' pooled_dim must be known.
        weight: factor on the student's logits.
        stage_weight: factor on the stages.
        eps: exponent: CIFAR-100 1, ImageNet 1.5; above 1 it strengthens the target class.
        temperature: T.
    """

    name = "ofakd"
    citation = (
        "Z. Hao, J. Guo, K. Han, Y. Tang, H. Hu, Y. Wang, C. Xu. One-for-all: bridge the gap between heterogeneous "
        "architectures in knowledge distillation. NeurIPS 2023. https://github.com/Hao840/OFAKD"
    )
    tasks = frozenset({"classification"})
    min_classes = 2

    def __init__(
        self,
        setting: Setting,
        weight: float = 1.0,
        stage_weight: float = 1.0,
        eps: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(setting)
        if temperature <= 0 or eps <= 0:
            raise MethodError(f"ofakd: temperature is {temperature} and eps {eps}; both must be positive")
        stages = setting.student.channels[1:]
        if not stages:
            raise MethodError("ofakd: the student has no stages after its stem; choose another one")
        self.weight, self.stage_weight, self.eps, self.temperature = weight, stage_weight, eps, temperature
        width = max(_pooled_dim(setting.student, "student"), _pooled_dim(setting.teacher, "teacher"))
        self.heads = nn.ModuleList(
            _head(channels, len(stages) - stage, width, setting.num_classes) for stage, channels in enumerate(stages, 1)
        )
        for layer in self.heads.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)  # released: truncated at 2, a hundred deviations away
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `logits` and `stages`; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        labels = batch.targets if batch.targets.ndim == 1 else batch.targets.argmax(dim=1)
        stages = zip(self.heads, student.features[1:], strict=True)
        losses = torch.stack([self.loss(head(feature), t, labels) for head, feature in stages])
        return {"logits": self.weight * self.loss(s, t, labels), "stages": self.stage_weight * losses.sum()}

    def loss(self, logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """L of logits [N, K] with the teacher's [N, K] and labels [N]."""
        p, log_q = (teacher_logits / self.temperature).softmax(dim=1), F.log_softmax(logits / self.temperature, dim=1)
        classes = torch.arange(p.shape[1], device=p.device)
        is_target = (labels[:, None] == classes).to(p.dtype)
        return -(((p + is_target) ** self.eps - is_target) * log_q).sum(dim=1).mean()


def _head(channels: int, halvings: int, width: int, classes: int) -> nn.Sequential:
    """Logits from a stage with that many stages after it."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, kernel_size=1)]
    if halvings:
        widths = [*(channels * 2**i for i in range(halvings)), width]
        layers = [_separable(inputs, outputs) for inputs, outputs in pairwise(widths)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    """SepConv of the class: [N, inputs, H, W] -> [N, outputs, H/2, W/2]."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, kernel_size=3, stride=2, padding=1, groups=inputs, bias=False),
        nn.Conv2d(inputs, inputs, kernel_size=1, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, inputs, kernel_size=3, padding=1, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, kernel_size=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _pooled_dim(info: NetworkInfo, who: str) -> int:
    if info.pooled_dim is None:
        raise MethodError(f"ofakd: the {who} has no pooled feature; choose a network that pools before it classifies")
    return info.pooled_dim
