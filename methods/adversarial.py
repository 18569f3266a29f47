"""The holistic loss of structured knowledge distillation: a discriminator between teacher and student logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import logits_pair

WIDTHS = (64, 128, 256, 512)
MIN_SIZE = 64
"""Least height and width for the discriminator's last layer."""


class Adversarial(Method):
    """Hinge GAN loss: a discriminator D separates the teacher's logits from the student's, which learn to deceive it.

        generator = -weight * mean D(S)                                          for the student
        discriminator = discriminator_weight * mean (max(0, 1 - D(T)) + max(0, 1 + D(S)))    for D

    S, T [N, K, h, w], raw logits. The hinge loss, without gradient penalty, is that of CIRKD's code. One backward pass
    computes both terms with the same D, as released. It is a summand of segmentation rows, as in
    `skd+kd+adversarial`; no table includes it by default.

    D trains by an Adam of its own, as released, at a constant rate and without weight decay.

    Args:
        setting: the run's shapes.
        weight: factor on the student's term.
        discriminator_weight: factor on the discriminator's term.
        lr: the discriminator's learning rate.
        beta1: Adam's decay of the mean of gradients.
        beta2: Adam's decay of the mean of their squares.
    """

    name = "adversarial"
    citation = (
        "Y. Liu, K. Chen, C. Liu, Z. Qin, Z. Luo, J. Wang. Structured knowledge distillation for semantic "
        "segmentation. CVPR 2019. https://arxiv.org/abs/1903.04197; as run by https://github.com/winycg/CIRKD"
    )
    tasks = frozenset({"segmentation"})
    min_classes = 2

    def __init__(
        self,
        setting: Setting,
        weight: float = 0.001,
        discriminator_weight: float = 0.1,
        lr: float = 4e-4,
        beta1: float = 0.9,
        beta2: float = 0.99,
    ) -> None:
        super().__init__(setting)
        if lr <= 0:
            raise MethodError(f"adversarial: lr is {lr}; it must be positive")
        if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise MethodError(f"adversarial: beta1 is {beta1} and beta2 {beta2}; both must be at least 0 and below 1")
        self.weight, self.discriminator_weight = weight, discriminator_weight
        self.lr, self.betas = lr, (beta1, beta2)
        self.discriminator = Discriminator(setting.num_classes)

    def parameter_groups(self) -> list[dict[str, Any]]:
        parameters = list(self.discriminator.parameters())
        return [{"params": parameters, "optimizer": "adam", "lr": self.lr, "betas": self.betas}]

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `generator` and `discriminator`; see the class."""
        logits, teacher_logits = logits_pair(self.name, student, teacher)
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        score = functional_call(self.discriminator, frozen, (logits,)).mean()
        fake, real = self.discriminator(logits.detach()), self.discriminator(teacher_logits)
        hinge = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        return {"generator": -self.weight * score, "discriminator": self.discriminator_weight * hinge}


class Discriminator(nn.Module):
    """Realness scores of logits: [N, K, h, w] -> [N, 1, h', w'].

    BatchNorm, then four 4x4 convolutions of stride 2 with spectral normalization and LeakyReLU(0.1), self-attention
    after the third and the fourth, and a 4x4 convolution to one channel. Logits smaller than 64x64 are enlarged to
    that size (our choice; Cityscapes crops have 64x128).
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm2d(classes)]
        for inputs, outputs in zip((classes, *WIDTHS), WIDTHS, strict=False):
            conv = nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1)
            layers += [spectral_norm(conv, eps=1e-12), nn.LeakyReLU(0.1)]
            if outputs in WIDTHS[2:]:
                layers.append(SelfAttention(outputs))
        self.layers = nn.Sequential(*layers, nn.Conv2d(WIDTHS[-1], 1, kernel_size=4))

    def forward(self, logits: Tensor) -> Tensor:
        height, width = logits.shape[2:]
        if min(height, width) < MIN_SIZE:
            size = (max(height, MIN_SIZE), max(width, MIN_SIZE))
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        scores: Tensor = self.layers(logits)
        return scores


class SelfAttention(nn.Module):
    """x + gamma * attention over positions, gamma learned from 0: [N, C, h, w] -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, kernel_size=1)
        self.key = nn.Conv2d(channels, channels // 8, kernel_size=1)
        self.value = nn.Conv2d(channels, channels, kernel_size=1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (conv(x).flatten(2) for conv in (self.query, self.key, self.value))
        attention = (query.mT @ key).softmax(dim=2)  # [N, P, P]: weights of all positions (columns) for each position
        attended: Tensor = (value @ attention.mT).view_as(x)
        return x + self.gamma * attended
