"""Shared by methods on the logits of classifiers: labels, KL by image, standardization, the target class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Batch, MethodError

EPS = 1e-7
"""Added to the standard deviation of logits, as released with logit standardization."""


def require_positive(name: str, **options: float) -> None:
    """Refuse options that are 0 or below.

    Raises:
        MethodError: names the first one.
    """
    for option, value in options.items():
        if value <= 0:
            raise MethodError(f"{name}: {option} is {value}; it must be positive")


def require_warmup(name: str, warmup_epochs: int) -> None:
    """Refuse a negative number of epochs.

    Raises:
        MethodError: says so.
    """
    if warmup_epochs < 0:
        raise MethodError(f"{name}: warmup_epochs is {warmup_epochs}; use a number of epochs, or 0 for none")


def class_labels(name: str, batch: Batch, logits: Tensor) -> Tensor:
    """One class per image, int64 [N].

    Raises:
        MethodError: the targets are shares of classes, as mixed images have them.
    """
    labels: Tensor = batch.targets
    if labels.shape != logits.shape[:1]:
        raise MethodError(
            f"{name}: targets have shape {tuple(labels.shape)} for {len(logits)} images; it needs one class per image, "
            "so choose a recipe without mixup and cutmix"
        )
    return labels


def kl_of_rows(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of each row: [N, K], [N, K] -> [N]. Both may get a gradient."""
    log_q = F.log_softmax(teacher_logits, dim=1)
    return (log_q.exp() * (log_q - F.log_softmax(student_logits, dim=1))).sum(dim=1)


@torch.no_grad()
def entropy_of_rows(logits: Tensor) -> Tensor:
    """Entropy of the softmax of each row, in nats and without gradient: [N, K] -> [N]."""
    log_p = F.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def standardized(logits: Tensor) -> Tensor:
    """(z - mean) / (std + EPS) of each row, with the unbiased standard deviation: [N, K] -> [N, K]."""
    return (logits - logits.mean(dim=1, keepdim=True)) / (logits.std(dim=1, keepdim=True) + EPS)


def binary_logits(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """(log p_y, log(1 - p_y)) of p = softmax(logits / temperature): [N, K], [N] -> [N, 2]."""
    log_p = F.log_softmax(logits / temperature, dim=1)
    log_rest = non_target_logits(log_p, targets).logsumexp(dim=1)
    return torch.stack([log_p.gather(1, targets[:, None])[:, 0], log_rest], dim=1)


def non_target_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The logits of the non-target classes: [N, K], [N] -> [N, K - 1]."""
    classes = logits.shape[1]
    columns = torch.arange(classes - 1, device=logits.device).expand(len(logits), -1)
    return logits.gather(1, columns + (columns >= targets[:, None]))
