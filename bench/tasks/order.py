"""Which samples an epoch takes, and in what order: part of what a run is, so it never changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Key = tuple[int, ...]
"""What seeds a sample's own draws; its last number, modulo the size of the training set, is its position there."""


@dataclass(frozen=True)
class Part:
    """Samples that an epoch takes from one draw of the order.

    Attributes:
        turn: what seeds the draw, after the data seed and the stream.
        size: how many samples are drawn.
        chosen: which of them.
    """

    turn: int
    size: int
    chosen: slice


def parts(epoch: int, samples: int, count: int, endless: bool) -> list[Part]:
    """What an epoch is made of.

    Args:
        epoch: counted from 0.
        samples: size of the training set.
        count: samples an epoch.
        endless: epochs follow each other in one stream of rounds through the set, wherever that cuts a round; round r
            is what epoch r would be if it went through the set once. Else every epoch draws its own order.
    """
    if not endless:
        return [Part(epoch, count, slice(0, count))]
    begin, end = epoch * count, (epoch + 1) * count
    turns = range(begin // samples, -(-end // samples))
    return [Part(t, samples, slice(max(0, begin - t * samples), min(samples, end - t * samples))) for t in turns]


def keys(seed: tuple[int, int], samples: int, parts: list[Part]) -> list[Key]:
    """The samples of an epoch in parts, each as data seed, stream, turn and number (see `permuted`)."""
    return [
        (*seed, part.turn, number)
        for part in parts
        for number in permuted(np.random.default_rng((*seed, part.turn)), samples, part.size)[part.chosen].tolist()
    ]


def permuted(rng: np.random.Generator, samples: int, count: int) -> NDArray[np.int64]:
    """Every sample once in random order, then all again in another until there are `count`: int64 [count].

    The sample at position i is written i in the first round, i + samples in the second, and so on.
    """
    rounds = -(-count // samples)
    return np.concatenate([rng.permutation(samples) + samples * turn for turn in range(rounds)])[:count]
