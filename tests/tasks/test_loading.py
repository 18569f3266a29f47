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
from kdbench.tasks.loading import Loader, grouped, load
from kdbench.train.failures import status_of

CPU = torch.device("cpu")
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


class Processes(Samples):
    """The process that makes each sample."""

    def __getitem__(self, key: tuple[int, ...]) -> Any:
        return torch.tensor([os.getpid(), key[-1]])


def processes(batches: Any) -> set[int]:
    return {int(process) for batch in batches for process in batch[:, 0]}


def test_loader_processes_stay_from_call_to_call_also_where_the_rest_of_one_was_not_wanted() -> None:
    loader = Loader(Processes(), 1)
    first = processes(loader.batches(GROUPS))
    part = loader.batches(GROUPS)
    assert next(part)[:, 1].tolist() == [0, 1]
    del part
    again = list(loader.batches(GROUPS[1:]))
    assert processes(again) == first and len(first) == 1 and os.getpid() not in first
    assert [batch[:, 1].tolist() for batch in again] == [[2, 3], [4, 5]]


def test_an_iteration_that_is_under_way_is_not_disturbed_by_another() -> None:
    loader = Loader(Processes(), 1)
    one, other = loader.batches(GROUPS), loader.batches(GROUPS)
    both = [batch[:, 1].tolist() for pair in zip(one, other, strict=True) for batch in pair]
    assert both == [[0, 1], [0, 1], [2, 3], [2, 3], [4, 5], [4, 5]]


def test_after_an_error_the_next_call_has_its_own_processes() -> None:
    loader = Loader(Samples(death), 1)
    with pytest.raises(LoaderError):
        list(loader.batches(GROUPS))
    assert flat(loader.batches(GROUPS[:1])) == [(0, 0), (1, 1)]


def test_batches_come_in_pieces_where_shared_memory_for_whole_ones_is_over_the_budget(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes: list[int] = []

    def collate(samples: list[Any]) -> Any:
        sizes.append(len(samples))
        return torch.stack([image for image, _ in samples]), [int(more["index"]) for _, more in samples]

    groups = grouped([(0, i) for i in range(6) if i != 3], 5)
    for budget, pieces in ((2**29, [5]), (3 * 2 * 2 * 64, [2, 3]), (1, [1] * 5)):
        monkeypatch.setattr(loading, "BUDGET", budget)
        loader = loading._Pieces(Loader(Samples(), 2, collate), groups, CPU)
        assert [len(piece) for piece in loader._divided(groups[0])] in (pieces, pieces[::-1])
        ((images, index),) = load(Samples(), groups, 2, collate)
        assert index == [0, 1, 2, 4, 5] == images[:, 0, 0, 0].tolist()
    assert capsys.readouterr().err == ""


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
