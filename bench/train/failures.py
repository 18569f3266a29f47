"""How a run ends that met an error: its status and the reason, without stopping the other runs of its cohort."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kdbench.methods.base import MethodError

from ..errors import USER_ERRORS, DivergedError, LoaderError
from ..records.row import Status
from .interruption import Interrupted, interruption

if TYPE_CHECKING:
    from .student import Student


SIGNAL_SECONDS = 1.0
"""After the end of a job's loader processes, until a signal that has ended them has come here, too."""


@contextmanager
def isolate_failures(student: Student) -> Iterator[None]:
    """An error inside ends this student's run with a status; the other students of the cohort continue."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - it becomes the run's status and is recorded in its row
        student.status, student.reason = status_of(error)


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
    """The status of a run that met `error`, and the reason."""
    if isinstance(error, DivergedError | FloatingPointError):  # detectron2 raises the latter for boxes that are NaN
        return "diverged", str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        remedy = "try --cohort 1, micro-batches (--set accumulate=4) or smaller images (--set image_size=...)"
        return "out-of-memory", f"{_first_line(error)}; {remedy}"
    if isinstance(error, (*USER_ERRORS, MethodError)):
        return "failed", str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return "failed", f"{type(error).__name__}: {_first_line(error)} ({Path(where.filename).name}:{where.lineno})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
