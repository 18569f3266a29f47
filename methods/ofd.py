"""OFD: the overhaul of feature distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import level_pairs, pre_activations, stage_channels


class OFD(Method):
    """Partial squared distance to the teacher's pre-activations, clamped from below at a margin.

        T = max(t, margin_c),  margin_c = E[x | x < 0] for x ~ N(bias_c, weight_c^2) of the teacher's BatchNorm
        d(s, T) = 0 where s <= T <= 0, else (s - T)^2
        loss = weight * sum over stages l of 1 / 2^(stages - l) * 1/N sum_{n,c,h,w} d(connector_l(S_l), T_l)

    S, t: `pre_activations`, [N, C, h, w]; l counts from 1. A connector is a 1x1 convolution to the teacher's width and
    a BatchNorm. A teacher's map of another size is average-pooled to the student's size. Margins are computed when the
    method is built, so the teacher must have its trained weights by then.

    Args:
        setting: the run's shapes; the teacher's NetworkInfo needs `norms`.
        weight: CIFAR-100 0.001; ImageNet ResNet50 -> MobileNet 0.0001.
    """

    name = "ofd"
    citation = (
        "B. Heo, J. Kim, S. Yun, H. Park, N. Kwak, J. Y. Choi. A comprehensive overhaul of feature distillation. "
        "ICCV 2019. https://github.com/clovaai/overhaul-distillation"
    )
    tasks = frozenset({"classification"})

    def __init__(self, setting: Setting, weight: float = 0.001) -> None:
        super().__init__(setting)
        self.weight = weight
        stages = stage_channels(self.name, setting)
        if len(setting.teacher.norms) != len(stages):
            raise MethodError(
                f"ofd: the teacher has {len(setting.teacher.norms)} norms for {len(stages)} stages; its margins "
                "come from the BatchNorm before each stage's last ReLU; choose a teacher with such layers (ResNet, VGG)"
            )
        self.connectors = nn.ModuleList(_connector(s, t) for s, t in stages)
        for level, norm in enumerate(setting.teacher.norms):
            self.register_buffer(f"margin_{level}", margins(norm)[:, None, None])

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        maps = zip(self.connectors, pre_activations(student), strict=False)
        connected = tuple(connector(feature) for connector, feature in maps)
        targets = tuple(
            F.adaptive_avg_pool2d(t, tuple(s.shape[2:])) if t.shape[2:] != s.shape[2:] else t
            for t, s in zip(pre_activations(teacher), connected, strict=False)
        )
        losses = []
        for level, (s, t) in enumerate(level_pairs(self.name, connected, targets, "connected pre-activations")):
            floored = torch.maximum(t, self.get_buffer(f"margin_{level}"))
            losses.append(partial_distance(s, floored) / 2 ** (len(self.connectors) - level - 1))
        return {self.name: self.weight * torch.stack(losses).sum()}


def margins(norm: nn.Module) -> Tensor:
    """E[x | x < 0] of each output channel of a BatchNorm, [C]; -3 |weight| if x < 0 has a probability below 0.001.

    Raises:
        MethodError: the layer has no weight or no bias.
    """
    if not isinstance(norm.weight, Tensor) or not isinstance(norm.bias, Tensor):
        raise MethodError(f"ofd: margins need the weight and bias of a BatchNorm; the teacher has a {norm}")
    mean = norm.bias.detach().double()
    deviation = norm.weight.detach().double().abs().clamp_min(1e-12)
    ratio = mean / deviation
    below = torch.special.ndtr(-ratio)
    density = (-ratio.square() / 2).exp() / (2 * torch.pi) ** 0.5
    expected = mean - deviation * density / below.clamp_min(1e-3)
    return torch.where(below > 1e-3, expected, -3 * deviation).float()


def partial_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over all elements of d(student, teacher), divided by N; two [N, C, h, w] maps."""
    free = (student <= teacher) & (teacher <= 0)
    return (student - teacher).square().masked_fill(free, 0.0).sum() / len(student)


def _connector(student: int, teacher: int) -> nn.Sequential:
    conv = nn.Conv2d(student, teacher, kernel_size=1, bias=False)
    nn.init.normal_(conv.weight, std=(2 / teacher) ** 0.5)
    return nn.Sequential(conv, nn.BatchNorm2d(teacher))
