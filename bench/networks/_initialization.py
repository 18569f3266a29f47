"""Initial weights of small detection heads."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

SMALL_PRIOR = 0.05
"""Score that every class of a small one-stage head begins with."""


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


def prior_init(logits: nn.Conv2d, prior: float = SMALL_PRIOR) -> None:
    """Set the bias of a one-stage head's class logits, so that every score begins at about `prior`.

    The published 0.01 suits long schedules with thousands of background anchors an object. In a few hundred steps small
    heads leave it late, at a step that differs from seed to seed (RetinaNet on the embedded digits, 400 steps of three
    seeds: 9 to 19 AP against 23 to 28).
    """
    nn.init.constant_(cast(Tensor, logits.bias), -math.log((1 - prior) / prior))
