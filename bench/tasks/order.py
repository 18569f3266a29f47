"""The samples of an epoch and their order. Results depend on both, so neither ever changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Key = tuple[int, ...]
"""Seed of a sample's random draws; its last number, modulo the size of the training set, is its position there."""


@dataclass(frozen=True)
class Part:
    """The samples that an epoch takes from one draw of the order.

    Attributes:
        turn: seeds the draw, after the data seed and the stream.
        size: number of samples that are drawn.
        chosen: those that the epoch takes.
    """

    turn: int
    size: int
    chosen: slice


@dataclass(frozen=True)
class Epoch:
    """One epoch of a stream of batches.

    Attributes:
        number: counted from 0.
        seed: data seed and stream.
        samples: size of the training set.
        count: samples the epoch takes.
        parts: the draws that these come from.
    """

    number: int
    seed: tuple[int, int]
    samples: int
    count: int
    parts: tuple[Part, ...]

    def keys(self) -> list[Key]:
        """The epoch's samples in order."""
        return keys(self.seed, self.samples, self.parts)


def parts(epoch: int, samples: int, count: int, endless: bool) -> list[Part]:
    """The draws that an epoch takes its samples from.

    Args:
        epoch: counted from 0.
        samples: size of the training set.
        count: samples an epoch.
        endless: epochs are cut from one stream of rounds through the set; round r has the order of epoch r of a run
            whose epochs go through the set once. Otherwise every epoch draws its order.
    """
    if not endless:
        return [Part(epoch, count, slice(0, count))]
    begin, end = epoch * count, (epoch + 1) * count
    turns = range(begin // samples, -(-end // samples))
    return [Part(t, samples, slice(max(0, begin - t * samples), min(samples, end - t * samples))) for t in turns]


def keys(seed: tuple[int, int], samples: int, parts: Sequence[Part]) -> list[Key]:
    """The samples of an epoch, each as data seed, stream, turn and number (see `permuted`)."""
    return [
        (*seed, part.turn, number)
        for part in parts
        for number in permuted(np.random.default_rng((*seed, part.turn)), samples, part.size)[part.chosen].tolist()
    ]


def permuted(rng: np.random.Generator, samples: int, count: int) -> NDArray[np.int64]:
    """Rounds through all samples, each in a random order, cut at `count`: int64 [count].

    The sample at position i has number i in the first round, i + samples in the second, and so on.
    """
    rounds = -(-count // samples)
    return np.concatenate([rng.permutation(samples) + samples * turn for turn in range(rounds)])[:count]
