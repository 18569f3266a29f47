"""The process of a job, watched until it ends. Nothing here imports torch: nodes of a cluster do this for each job."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

LOOK = 0.1
"""Seconds between looks at a job."""

GRACE = 30.0
"""Seconds that a job has to save its runs when its time is over."""

THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads of a job sleep while they wait for each other. By default they keep their core busy: beside other programs a
step of two threads then took 5 to 15 times as long."""


def watch(process: subprocess.Popen[bytes], timeout: float | None, look: Callable[[], None]) -> bool:
    """Wait until a job's process has ended; returns whether it was stopped because its time was over.

    Args:
        process: of the job.
        timeout: seconds that it may take; None without a limit.
        look: is called again and again, and once after the end.
    """
    begun, expired = time.monotonic(), False
    while process.poll() is None:
        look()
        passed = time.monotonic() - begun
        if timeout and passed > timeout:
            process.send_signal(signal.SIGKILL if passed > timeout + GRACE else signal.SIGTERM)
            expired = True
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK)
    look()
    return expired
