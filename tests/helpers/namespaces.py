"""Daemons in namespaces, as on several machines: each has its own host name, process numbers and mounts.

Killing the first process of such a namespace kills all of its processes, as if the machine lost power. Nothing
outlives the tests, even if pytest is killed. Needs util-linux and permission to create namespaces, which root has, and
other users where the kernel allows user namespaces.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PROGRAMS = ("setpriv", "unshare")
SECONDS = 120  # to wait at most


def start(
    host: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    log: Path,
    hidden: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a daemon on a machine.

    Args:
        host: name of the machine.
        command: of the daemon.
        environment: of the daemon.
        folder: that it works in.
        log: file that its output is added to.
        hidden: folder in whose place the machine has an empty one.
    """
    mount = 'mount -t tmpfs none "$1" && ' if hidden else ""
    # The first process is a shell, which reaps orphans.
    shell = f'hostname "$0" && {mount}shift && {{ "$@" & wait $!; }}'
    line = [*_unshare(), "--kill-child", "sh", "-c", shell, host, str(hidden or ""), *command]
    with log.open("ab") as stream:
        return subprocess.Popen(
            line, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
        )  # fmt: skip


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a machine, and wait until nothing of it is left."""
    # `unshare` ends after the namespace's first process, and that one after all others of the namespace.
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
    process.wait(SECONDS)


def missing(path: str | None = None) -> str:
    """What this machine lacks for it, in words; empty where it lacks nothing."""
    programs = [program for program in PROGRAMS if not shutil.which(program, path=path)]
    if programs:
        return f"no {', '.join(programs)} on this machine: install util-linux"
    tried = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False)
    return f"no namespaces on this machine: {tried.stderr.strip()}" if tried.returncode else ""


def _unshare() -> list[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    return ["setpriv", "--pdeathsig", "KILL", "unshare", *user, "--mount", "--pid", "--mount-proc", "--uts", "--fork"]
