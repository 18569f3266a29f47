"""How a run ends that met an error: its status and the reason, without stopping the other runs of its cohort."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kdbench.methods.base import MethodError

from ..errors import USER_ERRORS, DivergedError, LoaderError
from ..records.row import Status
from . import ranks
from .interruption import Interrupted, interruption

if TYPE_CHECKING:
    from .student import Student


OUT_OF_MEMORY = re.compile(
    r"ALLOC(ATION)?_FAILED|(CUDA|cuda\w*|NCCL) (driver )?error:? .*out of memory|cudaErrorMemoryAllocation|"
    r"CUDA_ERROR_OUT_OF_MEMORY|cudaMalloc|NOT_INITIALIZED when calling .?cublasCreate|DefaultCPUAllocator",
    re.IGNORECASE,
)
"""In errors of libraries that do not raise torch's own: cuBLAS and cuDNN, which take memory besides, and the driver."""

LOST = re.compile(
    r"illegal (memory access|address|instruction)|misaligned address|device-side assert|launch failure|"
    r"launch timed out|uncorrectable|\bECC\b|\bXid\b|hardware stack error|invalid program counter|GPU is lost|"
    r"fallen off the bus|device (is )?lost|busy or unavailable|unknown error",
    re.IGNORECASE,
)
"""In errors after which a process can do nothing more on its device."""

UNUSABLE = "the process cannot use its device any more"

SIGNAL_SECONDS = 1.0
"""After the end of a job's loader processes, until a signal that has ended them has come here, too."""


@contextmanager
def isolate_failures(student: Student) -> Iterator[None]:
    """An error inside ends this student's run with a status; the other students of the cohort continue.

    Raises:
        DeviceLostError: nothing can be computed on the device any more.
        RankFailed: as `blame`.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - it becomes the run's status and is recorded in its row
        blame([student.run.id], error)
        student.status, student.reason = status_of(error)


class DeviceLostError(BaseException):
    """Nothing can be computed on the device in this process any more; no `except Exception` keeps it.

    Kernels run behind the code that starts them, so what has met it need not be the reason: no run is blamed for it.
    """


class RankFailed(BaseException):
    """One of several processes that train together has met an error of a run; no `except Exception` keeps it.

    Args:
        runs: ids of those that end by it.
        status: of these.
        reason: why.
    """

    def __init__(self, runs: tuple[str, ...], status: Status, reason: str) -> None:
        super().__init__(reason)
        self.runs, self.status, self.reason = runs, status, reason


def blame(runs: Sequence[str], error: Exception) -> None:
    """Let an error of some runs end all processes where several train: the others wait for this one's gradients.

    Losses are compared once all processes have them, so that all find the same runs to have diverged.

    Raises:
        RankFailed: several processes train, and not all of them are sure to have met this.
    """
    if ranks.world_size() > 1 and not isinstance(error, DivergedError):
        raise RankFailed(tuple(runs), *status_of(error)) from error


def recorded_status(error: Exception) -> tuple[Status, str]:
    """`status_of`, for a row.

    Raises:
        Interrupted: a signal has asked the job to stop, and the error may come from that: it has no row.
    """
    if isinstance(error, LoaderError) and not interruption.asked:
        time.sleep(SIGNAL_SECONDS)
    if interruption.asked:
        raise Interrupted from error
    return status_of(error)


def status_of(error: Exception) -> tuple[Status, str]:
    """The status of a run that met `error`, and the reason.

    Raises:
        DeviceLostError: the device was lost, for whatever reason.
    """
    if isinstance(error, DivergedError | FloatingPointError):  # detectron2 raises the latter for boxes that are NaN
        return "diverged", str(error)
    known = isinstance(error, (*USER_ERRORS, MethodError))
    if _is_out_of_memory(error) and not known:
        remedy = "try --cohort 1, micro-batches (--set accumulate=4) or smaller images (--set image_size=...)"
        return "out-of-memory", f"{_first_line(error)}; {remedy}"
    if known:
        return "failed", str(error)
    if reason := _lost(error):
        raise DeviceLostError(reason) from error
    where = traceback.extract_tb(error.__traceback__)[-1]
    return "failed", f"{type(error).__name__}: {_first_line(error)} ({Path(where.filename).name}:{where.lineno})"


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(_first_line(error)) is not None


def _lost(error: Exception) -> str:
    """How the device was lost that `error` was met on; empty where it still computes."""
    if isinstance(error, RuntimeError) and LOST.search(_first_line(error)):
        return f"{_first_line(error)}; {UNUSABLE}"
    if not torch.cuda.is_initialized():
        return ""
    try:
        torch.cuda.synchronize()
    except RuntimeError as sticky:
        return f"{_first_line(sticky)}; {UNUSABLE}"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
