"""Batches of samples, prepared in this process or by loader processes."""

from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from kdbench.datasets.base import DataError

from ..errors import LoaderError
from ..text import counted
from .order import Key

Collate = Callable[[list[Any]], Any]

SHARED_MEMORY = Path("/dev/shm")
PREFETCH = 2  # batches that each loader process prepares ahead
MARGIN = 2  # images differ in size, and other jobs take of the same memory
TIMEOUT = 600.0  # seconds for one batch; a loader process that died without a word is waited for no longer


def load(
    samples: Dataset[Any], groups: list[list[Key]], workers: int, collate: Collate = default_collate
) -> Iterator[Any]:
    """One batch for each of `groups`.

    Batches come from loader processes in shared memory, or through pipes where that is too small for them.

    Args:
        samples: maps a key to a sample, or to a DataError.
        groups: keys, one list a batch.
        workers: loader processes; the batches do not depend on it.
        collate: makes a batch of samples.

    Raises:
        DataError: the first one among the samples.
        LoaderError: a sample failed in another way, or the loader processes did.
    """
    pipes = workers > 0 and not _fits(samples, groups, workers, collate)
    loader: DataLoader[Any] = DataLoader(
        _Guarded(samples),
        batch_sampler=groups,
        num_workers=workers,
        collate_fn=partial(_collated, collate, pipes),
        timeout=TIMEOUT if workers else 0,
        generator=torch.Generator(),  # otherwise every iteration draws from torch's global generator
    )
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:  # of a DataLoader whose processes ended or did not answer
            raise LoaderError(_processes_failed(error, workers)) from error
        if isinstance(batch, DataError):
            raise batch
        if isinstance(batch, Failure):
            raise batch.error()
        yield _mapped(batch, torch.from_numpy) if pipes else batch


def grouped(keys: list[Key], size: int) -> list[list[Key]]:
    """Keys by batches of `size`; the last may be smaller."""
    return [keys[i : i + size] for i in range(0, len(keys), size)]


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


class _Guarded(Dataset[Any]):
    """Samples whose errors are returned: a DataLoader would wrap them in the traceback of its process."""

    def __init__(self, samples: Dataset[Any]) -> None:
        self.samples = samples

    def __getitem__(self, key: Key) -> Any:
        try:
            return self.samples[key]
        except DataError as error:
            return error
        except Exception as error:  # noqa: BLE001 - raised by the process that asked for the batch
            return Failure.of(error)


def _collated(collate: Collate, pipes: bool, samples: list[Any]) -> Any:
    for sample in samples:
        if isinstance(sample, DataError | Failure):
            return sample
    try:
        batch = collate(samples)
        return _mapped(batch, Tensor.numpy) if pipes else batch
    except Exception as error:  # noqa: BLE001 - raised by the process that asked for the batch
        return Failure.of(error)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with every array in its lists, tuples and dicts changed."""
    if isinstance(value, dict):
        return {name: _mapped(inner, change) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(inner, change) for inner in value)
    return change(value)


def _fits(samples: Dataset[Any], groups: list[list[Key]], workers: int, collate: Collate) -> bool:
    """Whether the batches that all loader processes hold at a time fit into the shared memory that is free."""
    if not groups or not SHARED_MEMORY.is_dir():
        return True
    first = _collated(collate, False, [_Guarded(samples)[groups[0][0]]])
    if isinstance(first, DataError | Failure):
        return True  # raised when its batch is asked for
    sizes: list[int] = []
    _mapped(first, lambda array: sizes.append(array.nbytes))
    needed = sum(sizes) * max(map(len, groups)) * PREFETCH * workers * MARGIN
    free = _free()
    if needed > free:
        print(
            f"{SHARED_MEMORY} has {free / 2**20:.0f} MiB free, and "
            f"{counted(workers, 'loader process', 'loader processes')} may need "
            f"{needed / 2**20:.0f} MiB: batches come through pipes, which is slower; enlarge it "
            "(docker: --shm-size 8g), or use fewer with --workers",
            file=sys.stderr,
        )
    return needed <= free


def _processes_failed(error: RuntimeError, workers: int) -> str:
    """Why a DataLoader gave up, and what can be done."""
    reason = str(error).splitlines()[0].rstrip(".")
    shared = f"{SHARED_MEMORY} has {_free() / 2**20:.0f} MiB free; " if SHARED_MEMORY.is_dir() else ""
    return (
        f"the {counted(workers, 'loader process', 'loader processes')} failed ({reason}); {shared}--workers 0 "
        "prepares batches without them, and in a container --shm-size 8g gives them more memory to share"
    )


def _free() -> int:
    """Shared memory that is free, bytes."""
    return shutil.disk_usage(SHARED_MEMORY).free
