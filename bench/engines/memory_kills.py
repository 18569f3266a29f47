"""How often the kernel has killed a process for memory: the only sign that tells it from any other SIGKILL."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

VMSTAT = Path("/proc/vmstat")
CGROUP = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def memory_kills() -> int | None:
    """Processes killed for memory so far, on this machine or in this process' control group; None if not known."""
    counts = [count for file in _files() if (count := _count(file)) is not None]
    return sum(counts) if counts else None


def _files() -> list[Path]:
    files = [VMSTAT]
    with suppress(OSError, IndexError):
        files.append(CGROUP / OWN.read_text().split("::", 1)[1].strip().lstrip("/") / "memory.events")
    return files


def _count(file: Path) -> int | None:
    with suppress(OSError):
        if found := re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE):
            return int(found[1])
    return None
