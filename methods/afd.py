"""AFD: attentive feature distillation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import level_pairs, stage_channels

EPS = 1e-6


class AFD(Method):
    """Squared error between maps with unit-length channels, weighted by learned attention over the teacher's channels.

        u(x)[n,c] = x[n,c] / (||x[n,c]||_2 + 1e-6), norm over positions
        rho(t) = a / sum_c a,  a = sigmoid(W2 relu(W1 mean_{h,w} t))                            [N, C], learned
        loss = weight * mean over stages of mean_n sum_c rho(T)[n,c] mean_{h,w} (u(align(S)) - u(T))^2[n,c]

    S, T: the stages without the stem, [N, C, h, w]. This is the AFD of Wang et al. (ICLR 2020; half of their AFDS) with
    the squeeze-and-excitation attention of Knowledge-Distillation-Zoo instead of the paper's, which that repository
    reports as unstable; the multi-granularity paper's code probably uses this form (it mentions such an attention but
    never sets it). It is not the AFD of Ji et al. (AAAI 2021).

    Args:
        setting: the run's shapes.
        weight: 500, Knowledge-Distillation-Zoo's for CIFAR-10; the multi-granularity paper's is unknown.
        att_f: channels of the attention's hidden layer per channel of the teacher.
        align: "conv1x1" puts a 1x1 convolution on each student stage of another width than the teacher's (our choice;
            the sources compare equal widths only); None refuses such pairs.
    """

    name = "afd"
    citation = (
        "K. Wang, X. Gao, Y. Zhao, X. Li, D. Dou, C. Xu. Pay attention to features, transfer learn faster CNNs. "
        "ICLR 2020. As released in https://github.com/AberHu/Knowledge-Distillation-Zoo"
    )
    tasks = frozenset({"classification"})

    def __init__(
        self, setting: Setting, weight: float = 500.0, att_f: float = 1.0, align: str | None = "conv1x1"
    ) -> None:
        super().__init__(setting)
        stages = stage_channels(self.name, setting)
        student, teacher = zip(*stages, strict=True)
        if align not in ("conv1x1", None):
            raise MethodError(f"afd: align is {align!r}; use 'conv1x1' or null")
        if align is None and student != teacher:
            raise MethodError(f"afd: align is null but widths differ ({student} and {teacher}); use 'conv1x1'")
        if int(min(teacher) * att_f) < 1:
            raise MethodError(f"afd: att_f is {att_f} and a stage of the teacher has {min(teacher)} channels; raise it")
        self.weight = weight
        self.align = nn.ModuleList(nn.Identity() if s == t else nn.Conv2d(s, t, kernel_size=1) for s, t in stages)
        self.attention = nn.ModuleList(_attention(width, int(width * att_f)) for width in teacher)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        aligned = tuple(align(feature) for align, feature in zip(self.align, student.features[1:], strict=False))
        losses = []
        pairs = level_pairs(self.name, aligned, teacher.features[1:], "stages")
        for attention, (s, t) in zip(self.attention, pairs, strict=True):
            score = attention(t.mean(dim=(2, 3))).sigmoid()
            rho = score / score.sum(dim=1, keepdim=True)
            error = (unit(s) - unit(t)).square().mean(dim=(2, 3))
            losses.append((rho * error).sum(dim=1).mean())
        return {self.name: self.weight * torch.stack(losses).mean()}


def unit(feature: Tensor) -> Tensor:
    """u of the class docstring: channels of unit length, [N, C, h, w]."""
    length: Tensor = torch.linalg.vector_norm(feature, dim=(2, 3), keepdim=True)
    return feature / (length + EPS)


def _attention(width: int, hidden: int) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
    for layer in (layers[0], layers[2]):
        assert isinstance(layer, nn.Linear)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return layers
