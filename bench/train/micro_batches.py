"""Micro-batches: the parts of a batch whose gradients are summed for one optimizer step."""

from __future__ import annotations

from itertools import pairwise

from kdbench.methods.base import Batch


def micro_batches(batch: Batch, size: int) -> list[tuple[Batch, float]]:
    """A batch in the fewest nearly equal parts of at most `size` images, in order, each with its share of the images.

    With their shares as weights, losses that are means over images sum to that of the whole batch. The inputs are
    views; padding stays as it is in the batch.
    """
    images = len(batch.inputs)
    count = -(-images // size)
    if count == 1:
        return [(batch, 1.0)]
    ends = [images * i // count for i in range(count + 1)]
    return [(_part(batch, slice(start, end)), (end - start) / images) for start, end in pairwise(ends)]


def _part(batch: Batch, images: slice) -> Batch:
    full = batch.full_inputs
    return Batch(
        inputs=batch.inputs[images],
        targets=batch.targets[images],
        index=batch.index[images],
        full_inputs=None if full is None else full[images],
        views={name: _part(view, images) for name, view in batch.views.items()},
    )
