"""Steps as CUDA graphs: work that does the same at every step, captured once and replayed from then on.

A small network's step is hundreds of kernels that take longer to launch than to run; a replay is one launch. Captured
work reads and writes tensors at fixed addresses and must not look at what is in them: what Python decided while it was
captured, it decided for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor

from kdbench.methods.base import Batch, Outputs

from ..errors import CaptureError

Result = TypeVar("Result")

WARM = 3  # times that work is carried out before it is captured: libraries choose algorithms and build handles first


class Recorder(Protocol):
    """Captures work on one device."""

    def stream(self) -> AbstractContextManager[object]:
        """Whatever comes before, between and after captures and replays happens in this context."""
        ...

    def capture(self, work: Callable[[], Result], lasting: bool) -> tuple[Callable[[], object], Result]:
        """`work`, without carrying it out: what carries it out, and the result whose tensors that fills each time.

        What it fills is to be read before anything else is replayed, or, if it is `lasting`, before it is itself.
        """
        ...


class CudaGraphs:
    """Captures as CUDA graphs that share one pool of memory, but for those whose results last.

    Before torch 2.13 whatever is captured after a capture that failed may fail as well.
    """

    def __init__(self, device: torch.device) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.side = torch.cuda.Stream(device)  # the default stream cannot be captured

    @contextmanager
    def stream(self) -> Iterator[None]:
        outer = torch.cuda.current_stream(self.side.device)
        self.side.wait_stream(outer)
        try:
            with torch.cuda.stream(self.side):
                yield
        finally:
            outer.wait_stream(self.side)

    def capture(self, work: Callable[[], Result], lasting: bool) -> tuple[Callable[[], object], Result]:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=None if lasting else self.pool, stream=self.side):
                result = work()
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.pool = torch.cuda.graph_pool_handle()  # the other may be left half open
            cause = error.__context__ or error  # ending the capture raises another error over the first
            first = (str(cause).splitlines() or [""])[0]
            raise CaptureError(f"a step cannot be captured ({first}); run it without --capture") from error
        return graph.replay, result


class Repeated(Generic[Result]):
    """Work that is captured when it has been carried out `WARM` times, and replayed from then on.

    Args:
        lasting: other work is replayed while its result is still read.
    """

    def __init__(self, lasting: bool = False) -> None:
        self.lasting = lasting
        self.times = 0
        self.replay: Callable[[], object] | None = None
        self.result: Result | None = None

    @property
    def captured(self) -> bool:
        return self.replay is not None

    def __call__(self, work: Callable[[], Result], recorder: Recorder | None) -> Result:
        """Carry it out, as it comes where there is no recorder. The next replay overwrites what one returned."""
        if recorder is None:
            return work()
        if self.replay is None:
            self.times += 1
            if self.times <= WARM:
                return work()
            self.replay, self.result = recorder.capture(work, self.lasting)
        self.replay()
        return cast(Result, self.result)


class Shared:
    """What all members of a cohort read at a step, at fixed addresses: the batch, and what a frozen teacher shows.

    Args:
        recorder: None where every step is carried out as it comes.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self.recorder = recorder
        self.shown: Repeated[Outputs] = Repeated(lasting=True)
        self._batch: Batch | None = None

    def place(self, batch: Batch) -> tuple[Batch, Recorder | None]:
        """The batch at its fixed address, and the recorder; as it came and without one where it has another shape.

        So an epoch's last batch, if it is smaller, is carried out as it comes.
        """
        if self.recorder is None:
            return batch, None
        values = _tensors(batch)
        if self._batch is None:
            self._batch = Batch(**{name: value.clone() for name, value in values.items()})
        if _kinds(batch) != _kinds(self._batch):
            return batch, None
        for name, place in _tensors(self._batch).items():
            place.copy_(values[name])
        return self._batch, self.recorder


def _tensors(batch: Batch) -> dict[str, Tensor]:
    values: dict[str, Any] = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value for name, value in values.items() if value is not None}


def _kinds(batch: Batch) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in _tensors(batch).items()}
