"""MAS: multi-granularity distillation with stable excitation; a wrapper around a classifier's method."""

from __future__ import annotations

import torch
from torch import Tensor

from ._granularity import Granularity


class MAS(Granularity):
    """MAG with a softer target: the mean of the teacher's logits and of those decoded from its two codes.

        Z = (z_t + z_abstract + z_detailed) / 3
        L = ce_weight * CE + soft_weight * KL_4(z_s || Z) + base + KL_2(a_s || a_t) + KL_8(e_s || e_t)

    Everything else, including the code losses and `prepare`, is as in MAG; see `methods/mag.py`.

    Args:
        setting: the run's shapes.
        base: the wrapped method.
        ce_weight: as in MAG: None is 0.2 around kd and 1 around any other base.
        soft_weight: as in MAG: None is 0.8 around kd and 1 around any other base.
        soft_temperature: temperature of the soft target.
        abstract_temperature: temperature of the abstract code and of its decoder in `prepare`.
        detailed_temperature: temperature of the detailed code and of its decoder in `prepare`.
        abstract_dim: units of the abstract code.
        detailed_dim: units of the detailed code.
        module_epochs: epochs of `prepare`.
        module_lr: learning rate of `prepare`.
    """

    name = "mas"
    citation = (
        "B. Shao, Y. Chen. Multi-granularity for knowledge distillation. Image and Vision Computing 2021. "
        "https://github.com/shaoeric/multi-granularity-distillation"
    )

    def soft_target(self, logits: Tensor, abstract: Tensor, detailed: Tensor) -> Tensor:
        """The mean of the teacher's logits and of both decoded logits."""
        return torch.stack([logits, *self.teacher_modules.decode(abstract, detailed)]).mean(dim=0)
