"""Slurm's commands: what they are asked, and what they answer."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection

from ..errors import EngineError

FORGOTTEN = "Invalid job id"
"""In what squeue says where Slurm knows none of the jobs any more; anything else is no answer."""

GONE = (FORGOTTEN, "already completing or completed")
"""In what scancel says of a job that has ended."""

UNREACHABLE = ("Unable to contact", "timed out", "Connection refused", "Zero Bytes were transmitted")
"""In what Slurm's commands say where its controller does not answer; it is asked again."""

PENDING = "PENDING"
"""State of a job that waits."""

ALIVE = {PENDING, "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"}
ALIVE |= {"RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD"}

ELEMENT = re.compile(r"\d+_\d+")
"""The number of an array's element, such as 17_3."""


def call(*command: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Call one of Slurm's commands.

    Raises:
        EngineError: it is not installed.
    """
    try:
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise EngineError(f"no {command[0]} on this machine; use --engine slurm where Slurm's commands are") from error


def states(numbers: Collection[str]) -> dict[str, tuple[str, str]] | subprocess.CompletedProcess[str]:
    """State and reason of the elements of arrays that Slurm knows; the call where it was not answered.

    Args:
        numbers: of elements; all others of their arrays are among the answers.
    """
    arrays = ",".join(sorted({number.split("_")[0] for number in numbers}))
    done = call("squeue", "--noheader", "--array", "--states=all", "--format=%F_%K|%T|%r", f"--jobs={arrays}")
    if done.returncode:
        return {} if FORGOTTEN in done.stderr else done
    listed = (line.split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2)
    return {number.strip(): (state, reason) for number, state, reason in listed}


def is_pending(number: str) -> bool:
    """Whether a job waits or runs, as far as Slurm can be asked."""
    known = states([number]) if number else {}
    return isinstance(known, dict) and known.get(number, ("", ""))[0] in ALIVE


def queue_states(numbers: Collection[str]) -> dict[str, str] | None:
    """The states of jobs that wait or run, by number; None where Slurm cannot be asked from here."""
    numbers = [number for number in numbers if ELEMENT.fullmatch(number)]
    try:
        known = states(numbers) if numbers else {}
    except EngineError:
        return None
    if not isinstance(known, dict):
        return None
    return {number: known[number][0] for number in numbers if number in known and known[number][0] in ALIVE}


def is_unreachable(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a command was not answered."""
    return done.returncode != 0 and any(each in done.stderr for each in UNREACHABLE)


def words(done: subprocess.CompletedProcess[str]) -> str:
    """What a command says that was refused."""
    return " ".join(done.stderr.replace("sbatch: error: ", "").split()) or f"exit code {done.returncode}"
