"""One of the processes of a job on several GPUs; `processes` starts them and speaks for them.

`python -m kdbench.train.rank RANK PORT DESCRIPTOR` finds its job in the store at PORT of this machine, and writes what
it reports as lines of JSON to the file descriptor.
"""

from __future__ import annotations

import os
import signal
import sys

import torch
from torch.distributed import Store, TCPStore, destroy_process_group  # type: ignore[attr-defined]

from ..records.leases import writing_for
from . import ranks
from .events import ErrorEvent, Event, Report, to_line
from .failures import DeviceLostError, RankFailed
from .interruption import EXIT_CODE, Interrupted, interruption
from .job import Job, check_device, end_with_parent, error_event, execute


def main() -> None:
    rank, port, descriptor = map(int, sys.argv[1:4])
    end_with_parent(save=False)  # it saves before, where it is asked to stop
    interruption.listen()

    def report(event: Event) -> None:
        os.write(descriptor, to_line(event).encode() + b"\n")

    try:
        store = TCPStore("127.0.0.1", port, is_master=False)
        _train(Job.model_validate_json(store.get(ranks.JOB)), store, rank, report)
    except Interrupted:
        sys.exit(EXIT_CODE)
    except RankFailed as error:
        _wait_for_the_end(report, ErrorEvent(status=error.status, reason=error.reason, runs=error.runs))
    except (Exception, DeviceLostError) as error:  # noqa: BLE001 - it is reported
        _wait_for_the_end(report, error_event(error))


def _train(job: Job, store: Store, rank: int, report: Report) -> None:
    device = job.device
    if device != "cpu":
        device = f"cuda:{rank}"
        torch.cuda.set_device(rank)
    check_device(device)
    ranks.join(store, rank, job.world_size)
    with writing_for(job.results, store.get(ranks.LEASES).decode()):
        execute(job.model_copy(update={"device": device}), report if rank == 0 else lambda _: None)
    destroy_process_group()


def _wait_for_the_end(report: Report, event: ErrorEvent) -> None:
    """Report an error, and wait until all processes are ended.

    Those that wait for this one in a reduction would fail otherwise, and be taken for the reason.
    """
    report(event)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
