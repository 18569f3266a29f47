"""Initial weights of small detection heads."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def he_init(head: nn.Module) -> None:
    """He initialization of the normalized convolutions of a small head.

    The published 0.01 is so small that, before a normalization, it multiplies the step size; in a few hundred steps
    small heads do not recover from that (RetinaNet on the embedded digits: 4 AP against 13 after 244 steps).
    """
    for module in head.modules():
        if isinstance(module, nn.Sequential):
            for conv, norm in pairwise(module):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.GroupNorm):
                    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
