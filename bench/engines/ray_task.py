"""What the Ray engine runs on a node: a task that starts a job's process and ends with it. It imports no torch."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import ray

from .memory_kills import memory_kills
from .process import GRACE, THREADS, watch

WITH_PARENT = "--with-parent"  # as in train.job


class NotSharedError(RuntimeError):
    """A node does not see the results folder of the command."""


@dataclass(frozen=True)
class Order:
    """What a task is to do.

    Attributes:
        spec: file of the job in the results folder.
        content: of that file.
        events: file that the job writes.
        log: file of what it prints.
        folder: where the command was given.
        threads: of the job.
        timeout: seconds after which it is stopped; None without a limit.
        patience: seconds until what the command has written is sure to be seen on other machines.
    """

    spec: Path
    content: bytes
    events: Path
    log: Path
    folder: Path
    threads: int
    timeout: float | None
    patience: float


@dataclass(frozen=True)
class Exit:
    """How a job's process has ended.

    Attributes:
        code: of the process.
        expired: whether its time was over.
        kills: processes that the kernel of its machine had killed for memory before it, and after.
        node: Ray's name of the node.
        host: its machine.
    """

    code: int
    expired: bool
    kills: tuple[int | None, int | None]
    node: str
    host: str


def train(order: Order) -> Exit:
    """Run a job's process; it is asked to save when the task is cancelled, and dies with the task's process.

    Raises:
        NotSharedError: this node does not see the results folder.
    """
    if not _sees(order):
        raise NotSharedError(f"{platform.node()} does not see {order.spec.parent.parent}")
    before = memory_kills()
    with order.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "kdbench.train.job", str(order.spec), str(order.events), WITH_PARENT],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=order.folder if order.folder.is_dir() else None,
            env=THREADS | dict(os.environ) | {"OMP_NUM_THREADS": str(order.threads)},
        )
    try:
        expired = watch(process, order.timeout, lambda: None)
    except (KeyboardInterrupt, SystemExit):  # the task is cancelled, or its worker stopped
        process.send_signal(signal.SIGTERM)
        process.wait(GRACE)
        raise
    kills = before, memory_kills()
    return Exit(process.returncode, expired, kills, ray.get_runtime_context().get_node_id(), platform.node())


def _sees(order: Order) -> bool:
    """Whether the job's file is the command's; network file systems keep old listings of a folder a while."""
    until = time.monotonic() + order.patience
    while not order.spec.is_file():
        if not order.spec.parent.is_dir() or time.monotonic() > until:
            return False
        time.sleep(1)
    return order.spec.read_bytes() == order.content
