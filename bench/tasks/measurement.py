"""What an evaluation measures: metrics of the whole validation set, and scores of each class."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

MOST_PAIRS = 10_000
"""Pairs of confused classes that are kept, the most frequent; all of up to 100 classes."""

Confusions = tuple[tuple[int, int, int], ...]
"""Indices of the true and of the predicted class, which differ, and how often; the most frequent first."""


@dataclass(frozen=True)
class ByClass:
    """Scores of each of K classes.

    Attributes:
        scores: in percent, K values; None for a class that the metric leaves out, because nothing measures it.
        counts: what the validation set has of each class, K numbers: images, boxes or pixels.
        confusions: images or pixels of one class that were taken for another; empty for detection.
    """

    scores: tuple[float | None, ...]
    counts: tuple[int, ...]
    confusions: Confusions = ()


@dataclass(frozen=True)
class Measurement:
    """An evaluation of one network.

    Attributes:
        metrics: in percent, by name.
        by_class: scores of each class; they average to the headline metric.
        predictions: predicted class of each validation image, int64 [N] on the CPU, by which students' agreement is
            measured; None for tasks that do not measure it.
        agreement: with another network's predictions, in percent, by name; empty where none were given.
    """

    metrics: dict[str, float]
    by_class: ByClass
    predictions: Tensor | None = None
    agreement: dict[str, float] = field(default_factory=dict)


def most_confused(pairs: Tensor, counts: Tensor, classes: int) -> Confusions:
    """The most frequent pairs; of equally frequent ones the first in the order of the classes.

    Args:
        pairs: true class * K + predicted class, ascending, int64 [P].
        counts: how often each occurs, int64 [P].
        classes: K.
    """
    order = counts.sort(descending=True, stable=True).indices[:MOST_PAIRS]
    most = pairs[order]
    return tuple(zip((most // classes).tolist(), (most % classes).tolist(), counts[order].tolist(), strict=True))
