"""What the Ray engine runs on a node: a task that starts a job's process and ends with it. It imports no torch."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from .memory_kills import memory_kills
from .process import GRACE, THREADS, watch
from .ray_mirror import LostRunError, Mirror, temporary_folder

WITH_PARENT = "--with-parent"  # as in train.job
LOST_LEASE = 75  # as in train.interruption


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
        relay: actor of `ray_relay.Relay` for nodes that do not see the results folder; None while none is known.
    """

    spec: Path
    content: bytes
    events: Path
    log: Path
    folder: Path
    threads: int
    timeout: float | None
    patience: float
    relay: Any = None


@dataclass(frozen=True)
class Unseen:
    """The results folder is not seen on a node, and there is no relay.

    Attributes:
        host: its machine.
    """

    host: str


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


def train(order: Order) -> Exit | Unseen:
    """Run a job's process; it is asked to save when the task is cancelled, and dies with the task's process.

    On a node that does not see the results folder it is trained in a temporary folder, and sent.
    """
    # Ray cancels with SIGINT, which a shell that starts Ray in the background has its processes ignore.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if _sees(order):
        return _run(order, order.spec, order.events, order.log, order.folder if order.folder.is_dir() else None)
    if order.relay is None:
        return Unseen(platform.node())
    with temporary_folder() as folder:
        mirror = Mirror(order.relay, order.spec.stem, folder)
        if not mirror.ready:
            return _exit(0)
        try:
            return _run(order, mirror.spec, mirror.events, mirror.log, folder, mirror.send)
        except LostRunError:
            return _exit(LOST_LEASE)


def _run(
    order: Order, spec: Path, events: Path, log: Path, folder: Path | None, look: Callable[[], None] = lambda: None
) -> Exit:
    """Run a job's process in a folder; `look` is called while it runs, and after its end."""
    before = memory_kills()
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "kdbench.train.job", str(spec), str(events), WITH_PARENT],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            cwd=folder,
            env=THREADS | dict(os.environ) | {"OMP_NUM_THREADS": str(order.threads)},
        )
    try:
        expired = watch(process, order.timeout, look)
    except (KeyboardInterrupt, SystemExit):  # the task is cancelled, or its worker stopped
        process.send_signal(signal.SIGTERM)
        process.wait(GRACE)
        look()
        raise
    finally:
        process.kill()
    return _exit(process.returncode, expired, (before, memory_kills()))


def _exit(code: int, expired: bool = False, kills: tuple[int | None, int | None] = (None, None)) -> Exit:
    return Exit(code, expired, kills, ray.get_runtime_context().get_node_id(), platform.node())


def _sees(order: Order) -> bool:
    """Whether the job's file is the command's; network file systems keep old listings of a folder a while."""
    until = time.monotonic() + order.patience
    while not order.spec.is_file():
        if not order.spec.parent.is_dir() or time.monotonic() > until:
            return False
        time.sleep(1)
    return order.spec.read_bytes() == order.content
