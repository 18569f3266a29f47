"""IFVD: intra-class feature variation distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Method, Outputs, Setting
from .functional import head_pair, labels_at


class IFVD(Method):
    """Squared error between the similarities of each pixel to the center of its class.

        center(F)[n, k] = mean of F over the pixels of class k in image n
        V(F)[n, i] = cosine of pixel i and the center of its class
        loss = weight * mean_{n,i} (V(S) - V(T))^2

    S [N, C_s, h, w], T [N, C_t, h, w], the maps before the classifiers; widths may differ. Labels are resized to h x w
    by nearest neighbor, and centers have gradients. Ignored pixels have no center: they add 0 but count in the mean, as
    released. CIRKD's scripts run `ifvd+kd+adversarial`.

    Args:
        setting: the run's shapes.
        weight: CIRKD's scripts: 20.
    """

    name = "ifvd"
    citation = (
        "Y. Wang, W. Zhou, T. Jiang, X. Bai, Y. Xu. Intra-class feature variation distillation for semantic "
        "segmentation. ECCV 2020. https://github.com/YukangWang/IFVD; as run by https://github.com/winycg/CIRKD"
    )
    tasks = frozenset({"segmentation"})

    def __init__(self, setting: Setting, weight: float = 20.0) -> None:
        super().__init__(setting)
        self.weight = weight

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        s, t = head_pair(self.name, student, teacher)
        labels = labels_at(self.name, batch, s.shape[2:]).flatten(1)[:, :, None]
        members = (labels == torch.arange(self.setting.num_classes, device=labels.device)).float()
        return {self.name: self.weight * (variation(s, members) - variation(t, members)).square().mean()}


def variation(features: Tensor, members: Tensor) -> Tensor:
    """Cosine of each pixel and the center of its class; 0 for pixels without class.

    Args:
        features: [N, C, h, w].
        members: [N, h*w, K]; 1 if pixel i is of class k, else 0.

    Returns:
        [N, h*w].
    """
    pixels = features.flatten(2).mT
    centers = members.mT @ pixels / members.sum(dim=1).clamp_min(1)[:, :, None]
    return F.cosine_similarity(pixels, members @ centers, dim=2)
