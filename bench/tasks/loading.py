"""Batches of samples, prepared in this process or by loader processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from kdbench.datasets.base import DataError

from .order import Key

Collate = Callable[[list[Any]], Any]


def load(
    samples: Dataset[Any], groups: list[list[Key]], workers: int, collate: Collate = default_collate
) -> Iterator[Any]:
    """One batch for each of `groups`.

    Args:
        samples: maps a key to a sample, or to a DataError: raised in a worker, it would be wrapped in its traceback.
        groups: keys, one list a batch.
        workers: loader processes; the batches do not depend on it.
        collate: makes a batch of samples.

    Raises:
        DataError: the first one among the samples.
    """
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=groups,
        num_workers=workers,
        collate_fn=partial(_collated, collate),
        generator=torch.Generator(),  # otherwise every iteration draws from torch's global generator
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def grouped(keys: list[Key], size: int) -> list[list[Key]]:
    """Keys by batches of `size`; the last may be smaller."""
    return [keys[i : i + size] for i in range(0, len(keys), size)]


def _collated(collate: Collate, samples: list[Any]) -> Any:
    error = next((sample for sample in samples if isinstance(sample, DataError)), None)
    return collate(samples) if error is None else error
