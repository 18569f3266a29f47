"""Prompts: vectors that mask a teacher's feature, trained on the teacher's own losses before the student trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from .base import Batch


def prompt_masks(prompts: Tensor, features: Tensor) -> Tensor:
    """sigmoid(prompts @ features): [T, C], [N, C, H, W] -> [N, T, H, W]."""
    return torch.einsum("tc,nchw->nthw", prompts, features).sigmoid()


def dice(masks: Tensor) -> Tensor:
    """Mean of 2<a, b> / (<a, a> + <b, b> + 1e-12) over pairs of different masks of an image, [N, T, H, W]."""
    flat = masks.flatten(2)
    products = flat @ flat.mT
    squares = products.diagonal(dim1=1, dim2=2)
    ratio = 2 * products / (squares[:, :, None] + squares[:, None, :] + 1e-12)
    images, count, _ = ratio.shape
    pairs = ratio.sum() - ratio.diagonal(dim1=1, dim2=2).sum()
    return pairs / max(images * count * (count - 1), 1)


def train(
    parameters: list[nn.Parameter],
    loss: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    steps: int,
    lr: float,
) -> None:
    """Minimize a loss by Adam with weight decay 1e-3, the rate falling from lr to 1e-6 by a cosine.

    Gradients are computed for the parameters alone, so a teacher in the loss does not change. They do not require
    gradients afterwards.
    """
    if steps == 0:
        return
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=lr, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, eta_min=1e-6)
    for _, batch in zip(range(steps), batches, strict=False):
        gradients = torch.autograd.grad(loss(batch), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()
    for parameter in parameters:
        parameter.requires_grad_(False)
