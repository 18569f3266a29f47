"""A teacher whose head reads any features, for methods that train something on its losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.methods.base import Batch, Outputs

CHANNELS = (5, 6)


class SmallTeacher(nn.Module):
    """Two feature levels and a classifier over their means, in evaluation mode like any frozen teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in zip((3, *CHANNELS), CHANNELS, strict=False)
        )
        self.head = nn.Linear(sum(CHANNELS), 4)
        self.eval()

    def forward(self, inputs: Tensor) -> Outputs:
        features = []
        for stage in self.stages:
            inputs = stage(inputs)
            features.append(inputs)
        return Outputs(self.classify(features), tuple(features))

    def classify(self, features: Any) -> Tensor:
        return self.head(torch.cat([feature.mean(dim=(2, 3)) for feature in features], dim=1))

    def losses_from(self, features: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        return {"classes": F.cross_entropy(self.classify(features), batch.targets)}


def endless(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch
