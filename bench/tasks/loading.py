"""Batches of samples, prepared in this process or by loader processes."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, default_collate

from kdbench.datasets.base import DataError

from ..errors import LoaderError
from ..text import counted
from . import draws
from .order import Key
from .packing import Packed, joined

Collate = Callable[[list[Any]], Any]
Groups = Sequence[Sequence[Key]]

SHARED_MEMORY = Path("/dev/shm")
PREFETCH = 2  # parts of batches that each loader process prepares ahead
BUDGET = 2**29  # bytes of shared memory that the loader processes of a job use at a time
MARGIN = 2  # images differ in size, and other jobs take of the same memory
TIMEOUT = 600.0  # seconds for one batch; a loader process that died without a word is waited for no longer
CPU = torch.device("cpu")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Loader:
    """Batches of samples on a device, from loader processes that stay from one call to the next.

    A batch comes in one piece, or in parts where the pieces of all loader processes would take more than `BUDGET` of
    shared memory; or through pipes where there is less of it than that takes.

    Args:
        samples: maps a key to a sample, or to a DataError.
        workers: loader processes; the batches do not depend on it.
        collate: makes a batch of samples, or a part of one: tensors in tuples, lists and dicts, whose parts can be
            joined (`packing.joined`).
    """

    def __init__(self, samples: Dataset[Any], workers: int, collate: Collate = default_collate) -> None:
        self.samples, self.workers, self.collate = samples, workers, collate
        self._kept: _Pieces | None = None

    def batches(self, groups: Groups, device: torch.device = CPU) -> Iterator[Any]:
        """One batch for each of `groups`.

        Args:
            groups: keys, one sequence a batch.
            device: of the tensors; each piece is one transfer.

        Raises:
            DataError: the first one among the samples.
            LoaderError: a sample failed in another way, or the loader processes did.
        """
        pieces, self._kept = self._kept, None  # an iteration that is still under way has its own processes
        if pieces is None or pieces.device != device:
            pieces = _Pieces(self, groups, device)
        whole = True
        try:
            yield from pieces.batches(groups)
        except Exception:
            whole = False
            raise
        finally:  # also where the rest is not wanted
            if whole:
                self._kept = pieces


def load(
    samples: Dataset[Any],
    groups: Groups,
    workers: int,
    collate: Collate = default_collate,
    device: torch.device = CPU,
) -> Iterator[Any]:
    """`Loader.batches`, by loader processes that end with the last batch."""
    return Loader(samples, workers, collate).batches(groups, device)


def grouped(keys: list[Key], size: int) -> list[list[Key]]:
    """Keys by batches of `size`; the last may be smaller."""
    return [keys[i : i + size] for i in range(0, len(keys), size)]


class _Pieces:
    """The pieces of batches, from one `DataLoader`.

    Args:
        loader: whose samples these are.
        groups: keys of its first batches, whose sizes are taken for those of all.
        device: of the batches.
    """

    def __init__(self, loader: Loader, groups: Groups, device: torch.device) -> None:
        self.device, self.workers = device, loader.workers
        self.size, pipes = _piece_size(loader, groups)
        self.pieces: list[Sequence[Key]] = []
        self.loader: DataLoader[Any] = DataLoader(
            _Guarded(loader.samples),
            batch_sampler=self.pieces,  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=partial(_collated, loader.collate, pipes),
            pin_memory=device.type == "cuda",
            timeout=TIMEOUT if self.workers else 0,
            generator=torch.Generator(),  # otherwise every iteration draws from torch's global generator
            persistent_workers=self.workers > 0,
            prefetch_factor=PREFETCH if self.workers else None,
        )

    def batches(self, groups: Groups) -> Iterator[Any]:
        """One batch for each of `groups`; errors as in `Loader.batches`."""
        divided = [self._divided(group) for group in groups]
        self.pieces[:] = [piece for pieces in divided for piece in pieces]
        received = iter(self.loader)
        for pieces in divided:
            yield joined([self._next(received) for _ in pieces])

    def _divided(self, group: Sequence[Key]) -> list[Sequence[Key]]:
        count = -(-len(group) // self.size)
        return [group[len(group) * i // count : len(group) * (i + 1) // count] for i in range(count)]

    def _next(self, received: Iterator[Any]) -> Any:
        try:
            piece = next(received)
        except RuntimeError as error:  # of a DataLoader whose processes ended or did not answer
            raise LoaderError(_processes_failed(error, self.workers)) from error
        if isinstance(piece, DataError):
            raise piece
        if isinstance(piece, Failure):
            raise piece.error()
        if isinstance(piece, _Piped):
            piece = Packed(torch.from_numpy(piece.data), piece.layout)
        return piece.unpacked(self.device)


@dataclass(frozen=True)
class Failure:
    """An error of a loader process, in words: exceptions themselves cannot always be sent from process to process."""

    kind: str
    message: str
    stack: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        return cls(type(error).__name__, str(error), "".join(traceback.format_exception(error)))

    def error(self) -> Exception:
        """The error to raise in this process."""
        if self.kind in ("MemoryError", "OutOfMemoryError"):
            return MemoryError(f"while preparing a batch: {self.message}")
        raised = LoaderError(f"while preparing a batch: {self.kind}: {self.message}")
        raised.add_note(self.stack)
        return raised


@dataclass(frozen=True)
class _Piped:
    """What is packed, as an array: tensors are sent in shared memory."""

    data: NDArray[np.uint8]
    layout: Any


class _Guarded(Dataset[Any]):
    """Samples whose errors are returned: a DataLoader would wrap them in the traceback of its process."""

    def __init__(self, samples: Dataset[Any]) -> None:
        self.samples = samples

    def __getitems__(self, keys: Sequence[Key]) -> list[Any]:
        """The samples of a piece; they may seed the generators of the process."""
        with draws.kept():
            return [self[key] for key in keys]

    def __getitem__(self, key: Key) -> Any:
        try:
            return self.samples[key]
        except DataError as error:
            return error
        except Exception as error:  # noqa: BLE001 - raised by the process that asked for the batch
            return Failure.of(error)


def _collated(collate: Collate, pipes: bool, samples: list[Any]) -> Packed | _Piped | DataError | Failure:
    for sample in samples:
        if isinstance(sample, DataError | Failure):
            return sample
    try:
        packed = Packed.of(collate(samples))
        return _Piped(packed.data.numpy(), packed.layout) if pipes else packed
    except Exception as error:  # noqa: BLE001 - raised by the process that asked for the batch
        return Failure.of(error)


def _piece_size(loader: Loader, groups: Groups) -> tuple[int, bool]:
    """Images of a piece of a batch at most, and whether pieces come through pipes."""
    whole = max(map(len, groups), default=1)
    if not loader.workers or not groups or not SHARED_MEMORY.is_dir():
        return whole, False
    first = _collated(loader.collate, False, _Guarded(loader.samples).__getitems__([groups[0][0]]))
    if not isinstance(first, Packed):
        return whole, False  # an error, which is raised when its batch is asked for
    at_a_time = PREFETCH * loader.workers * max(1, first.data.nbytes)
    free = _free()
    if at_a_time * MARGIN > free:
        print(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free, and "
            f"{counted(loader.workers, 'loader process', 'loader processes')} may need "
            f"{at_a_time * MARGIN / 2**20:.0f} MiB: batches come through pipes, which is slower; enlarge it "
            "(docker: --shm-size 1g), or use fewer with --workers",
            file=sys.stderr,
        )
        return whole, True
    return min(whole, max(1, int(min(BUDGET, free / MARGIN)) // at_a_time)), False


def _processes_failed(error: RuntimeError, workers: int) -> str:
    """Why a DataLoader gave up, and what can be done."""
    reason = str(error).splitlines()[0].rstrip(".")
    shared = f"{SHARED_MEMORY} has {_free() / 2**20:.0f} MiB free; " if SHARED_MEMORY.is_dir() else ""
    return (
        f"the {counted(workers, 'loader process', 'loader processes')} failed ({reason}); {shared}--workers 0 "
        "prepares batches without them, and in a container --shm-size 1g gives them more memory to share"
    )


def _free() -> int:
    """Shared memory that is free, bytes."""
    return shutil.disk_usage(SHARED_MEMORY).free
