"""A control group whose memory is used up: the kernel kills the process in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.slurm import wait_for

ROOTS = {Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes", Path("/sys/fs/cgroup"): "memory.max"}
"""Where versions 1 and 2 of control groups are mounted, and the file of their limit."""

BYTES = 65536


@contextmanager
def limit_memory(process: int) -> Iterator[None]:
    """Move a process into a group that allows no more memory than a few pages; skips the test where it cannot.

    What the process has counts for the group that it had.
    """
    group, limit = _group()
    try:
        (group / limit).write_text(str(BYTES))
        (group / "cgroup.procs").write_text(str(process))
        yield
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), 30)
        group.rmdir()


def _group() -> tuple[Path, str]:
    for root, limit in ROOTS.items():
        group = root / f"kdbench-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():
            return group, limit
        group.rmdir()
    pytest.skip("no control group can be made here")
