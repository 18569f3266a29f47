"""Batches from loader processes: through shared memory or pipes, and what is said when they fail."""

from __future__ import annotations

import os
import signal
import time
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from kdbench.datasets.base import DataError
from kdbench.errors import LoaderError
from kdbench.tasks import loading
from kdbench.tasks.loading import grouped, load
from kdbench.train.failures import status_of

GROUPS = grouped([(0, i) for i in range(6)], 2)


class Samples(Dataset[Any]):
    """Pairs of an image and its position; `broken` is called at position 3."""

    def __init__(self, broken: Callable[[], Any] | None = None) -> None:
        self.broken = broken

    def __getitem__(self, key: tuple[int, ...]) -> Any:
        if key[-1] == 3 and self.broken:
            return self.broken()
        return torch.full((3, 4, 4), key[-1], dtype=torch.uint8), {"index": torch.tensor(key[-1])}


def a_bug() -> None:
    raise ZeroDivisionError("of a test")


def no_memory() -> None:
    raise MemoryError("of a test")


def data_error() -> DataError:
    return DataError("a.jpg: broken")


def death() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def flat(batches: Any) -> list[tuple[int, int]]:
    return [(int(image[0, 0, 0]), int(i)) for images, more in batches for image, i in zip(images, more["index"])]  # noqa: B905


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("free", [1, 2**40])
def test_batches_are_the_same_with_any_shared_memory(
    workers: int, free: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")(0, 0, free)
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda _: usage)
    batches = list(load(Samples(), GROUPS, workers))
    assert flat(batches) == [(i, i) for i in range(6)]
    assert all(isinstance(images, torch.Tensor) for images, _ in batches)
    assert ("batches come through pipes" in capsys.readouterr().err) == (workers > 0 and free == 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_sample_is_told_as_it_is(workers: int) -> None:
    with pytest.raises(LoaderError, match=r"while preparing a batch: ZeroDivisionError: of a test") as failed:
        list(load(Samples(a_bug), GROUPS, workers))
    assert "in a_bug" in "".join(failed.value.__notes__)
    with pytest.raises(DataError, match=r"a\.jpg: broken"):
        list(load(Samples(data_error), GROUPS, workers))
    with pytest.raises(MemoryError) as memory:
        list(load(Samples(no_memory), GROUPS, workers))
    assert status_of(memory.value)[0] == "out-of-memory"


def test_loader_processes_that_die_name_the_remedy() -> None:
    with pytest.raises(LoaderError, match="loader process(es)? failed") as failed:
        list(load(Samples(death), GROUPS, 1))
    status, reason = status_of(failed.value)
    assert status == "failed" and "--workers 0" in reason and "--shm-size" in reason
    assert "Caught" not in reason and "\n" not in reason


class Waiting(Samples):
    def __getitem__(self, key: tuple[int, ...]) -> Any:
        time.sleep(5)


def test_loader_processes_that_do_not_answer_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "TIMEOUT", 0.5)
    monkeypatch.setattr(loading, "SHARED_MEMORY", loading.Path("/nowhere"))  # no first sample is read here
    with pytest.raises(LoaderError, match="timed out after 0.5 seconds"):
        list(load(Waiting(), GROUPS, 1))
