"""What an error means for a run: its status and reason, or that its device is lost and no run is to blame."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kdbench.errors import DeviceError, LoaderError
from kdbench.records.store import Store
from kdbench.train import job as jobs
from kdbench.train.events import ErrorEvent, Event
from kdbench.train.failures import DeviceLostError, isolate_failures, status_of

WITHOUT_MEMORY = [
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
    "CUDA driver error: out of memory",
    "cudaMalloc failed to allocate 2097152 bytes",
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory",
]
LOST = [
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported at another call",
    "CUDA error: device-side assert triggered",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: unspecified launch failure",
    "CUDA error: misaligned address",
    "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus",
]


def raised(error: Exception) -> Exception:
    """The error as it is caught, with where it comes from."""
    try:
        raise error
    except Exception as caught:  # noqa: BLE001
        return caught


@pytest.mark.parametrize("message", WITHOUT_MEMORY)
def test_what_libraries_say_without_memory_is_out_of_memory(message: str) -> None:
    status, reason = status_of(RuntimeError(message))
    assert status == "out-of-memory" and reason.startswith(message.splitlines()[0]) and "accumulate" in reason


@pytest.mark.parametrize("message", LOST)
def test_an_error_that_leaves_the_device_unusable_is_no_runs_fault(message: str) -> None:
    student: Any = SimpleNamespace(status=None, reason="", run=SimpleNamespace(id="one"))
    with pytest.raises(DeviceLostError, match="cannot use its device any more"), isolate_failures(student):
        raise RuntimeError(message)
    assert student.status is None and student.reason == ""


def test_any_other_error_is_the_runs_where_the_device_still_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    error = raised(RuntimeError("CUDA error: invalid configuration argument"))
    assert status_of(error)[0] == "failed"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert status_of(error)[0] == status_of(raised(KeyError("labels")))[0] == "failed"

    def sticky() -> None:
        raise RuntimeError("CUDA error: an error that no list has\nmore")

    monkeypatch.setattr(torch.cuda, "synchronize", sticky)
    with pytest.raises(DeviceLostError, match="an error that no list has; the process"):
        status_of(KeyError("labels"))


@pytest.mark.parametrize("error", [LoaderError("ECC and cudaMalloc"), DeviceError("cuda:0: misaligned address")])
def test_an_error_with_a_message_of_our_own_is_taken_at_its_word(error: Exception) -> None:
    assert status_of(error) == ("failed", str(error))


def test_a_lost_device_ends_the_job_without_any_row_and_names_its_machine(
    make_run: Any, make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(students: Any, *_: Any) -> None:
        with isolate_failures(students[0]):
            raise RuntimeError(LOST[0])

    monkeypatch.setattr(jobs, "train", lost)
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    job = make_job(make_run("none"))
    events: list[Event] = []
    with pytest.raises(DeviceLostError) as ended:
        jobs.execute(job, events.append)
    assert not Store(job.results).row_file(job.runs[0].id).exists()
    event = jobs.error_event(ended.value)
    assert isinstance(event, ErrorEvent) and (event.status, event.node) == ("failed", "node7")
    assert jobs.error_event(RuntimeError(LOST[1])).node == "node7"
    assert jobs.error_event(raised(RuntimeError("a bug"))).node == ""
