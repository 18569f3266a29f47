"""The Slurm engine: each job is an element of a job array, followed by its files and by `squeue`.

A job is one command, so that what submits and what is asked for are options of `sbatch`, the user's over ours. Nothing
is asked of Slurm's accounting, which many clusters do not have.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import EngineError
from ..records.atomic import writing
from ..records.row import Status
from ..text import counted
from ..train.events import ErrorEvent, Event, FinishedEvent, InterruptedEvent, StepEvent, WarningEvent
from ..train.job import Job
from .base import End, Engine, Handle, Resources
from .job_files import FOLDER, JobFiles
from .slurm_commands import ALIVE, GONE, call, is_pending, is_unreachable, states, words

LOOK = 10.0
"""Seconds between two calls of `squeue`."""

MOST = 1000
"""Elements of an array; what Slurm allows by default."""

SAVE = "B:TERM@120"
"""By default jobs are asked to stop two minutes before their time limit; they save and go on in another job."""

RESTARTS = 3
"""Without a new step, after which a job that Slurm starts again and again is cancelled."""

USUAL = {"None", "Priority", "Resources", "BeginTime"}
"""Why jobs wait that will start; any other reason is told, for some never do."""

CANCELLED = End("cancelled", "it was cancelled; the same command resumes it from its checkpoint")


@dataclass
class _Element:
    """A job in Slurm's hands.

    Attributes:
        id: such as 17_3; empty until it is submitted.
        state: as squeue said last.
        ended: when it was first seen to have ended; None before.
        finished: by what its events say.
        restarts: since its last new step.
        step: the last.
        cancelled: by this command.
        interrupted: asked to stop, as it says.
        well: it has told its end.
        held: that Slurm holds it was said.
        refused: Slurm did not take the call that cancels it.
        left: to other commands, which follow it, too.
    """

    files: JobFiles
    resources: Resources
    id: str = ""
    state: str = "PENDING"
    ended: float | None = None
    finished: End | None = None
    restarts: int = 0
    step: int = 0
    cancelled: bool = False
    interrupted: bool = False
    well: bool = False
    held: bool = False
    refused: bool = False
    left: bool = False


class SlurmEngine(Engine):
    """Submits jobs to Slurm from a machine that has its commands, with a results folder that all machines see.

    Args:
        results: folder of runs.
        options: of sbatch, by their long names without dashes.
        slots: the device of each job that may be in the queue or run at a time.
    """

    patience = 60.0

    def __init__(self, results: Path, options: Mapping[str, str], slots: Sequence[str]) -> None:
        self.results, self.options, self.slots = results.resolve(), dict(options), list(slots)
        self._elements: dict[Handle, _Element] = {}
        self._excluded: dict[str, str] = {}  # nodes whose devices fail, and why
        self._looked = -LOOK
        self._told: set[str] = set()  # reasons for waiting
        self._news: list[tuple[Handle, Event | End]] = []
        self._refused: dict[str, str] = {}  # by command, what it said last

    def submit(self, job: Job, resources: Resources) -> Handle:
        """Take a job, to be submitted with others at one of the next polls. One that is still queued is followed."""
        files = JobFiles.create(job)
        queued = next((each for each in files.earlier() if is_pending(each.queue_name())), None)
        if queued is not None:
            files.delete(with_log=True)
            files = queued
            text = (
                f"Slurm job {files.queue_name()} of an earlier command is in the queue, with that one's options, and "
            )
            self._news.append((files.name, WarningEvent(text=f"{text}is followed; scancel it to submit it anew")))
            files.follow()
        self._elements[files.name] = _Element(files, resources, queued.queue_name() if queued else "")
        return files.name

    def poll(self, seconds: float) -> list[tuple[Handle, Event | End]]:
        """Submit what is new; what jobs have written, and what Slurm says of them."""
        news = self._news + self._read()
        self._news = []
        if time.monotonic() - self._looked >= LOOK:
            self._looked = time.monotonic()
            news += self._submit_new()
            news += self._look()
        if not news:
            time.sleep(seconds)
        for handle, each in news:
            if isinstance(each, End):
                self._close(handle)
        return news

    def cancel(self, handle: Handle) -> None:
        """Cancel a job, whether it waits or runs; Slurm gives it some seconds to save (KillWait, 30 by default).

        One that another command follows, too, is left to that.
        """
        element = self._elements.get(handle)
        if element is None:
            return
        element.cancelled = True
        others = element.files.unfollow() if element.id else []
        if others:
            element.left, element.finished = True, CANCELLED
            text = f"Slurm job {element.id} goes on, because {others[0]} follows it, too: scancel {element.id}"
            self._news.append((handle, WarningEvent(text=f"{text} ends it for both")))
        else:
            self._news += self._cancel(handle, element)

    def _cancel(self, handle: Handle, element: _Element) -> list[tuple[Handle, Event | End]]:
        """Cancel a job, again at the next look where Slurm refuses; returns a warning then."""
        said = ""
        if element.id:
            done = call("scancel", element.id)
            said = words(done) if done.returncode and not any(each in done.stderr for each in GONE) else ""
        element.refused = bool(said)
        if element.state == "PENDING" and not said:
            element.finished = CANCELLED
        return self._answered(handle, "scancel", said)

    def script(self, names: Sequence[str], threads: int) -> str:
        """The batch script of an array of jobs."""
        folder = shlex.quote(str(self.results / FOLDER))
        lines = [
            "#!/bin/bash",
            f"export OMP_NUM_THREADS={threads} OMP_WAIT_POLICY=PASSIVE",
            f"names=({' '.join(names)})",
            f"job={folder}/${{names[$SLURM_ARRAY_TASK_ID]}}",
            'exec >> "$job.log" 2>&1',
            f'exec {shlex.quote(sys.executable)} -m kdbench.train.job "$job.json" "$job.jsonl"',
        ]
        return "\n".join(lines) + "\n"

    def command(self, resources: Resources, count: int) -> list[str]:
        """The call of sbatch for an array of jobs."""
        options = {"signal": SAVE, "cpus-per-task": str(resources.cores)}
        if resources.device != "cpu" and not any(name.startswith(("gres", "gpus")) for name in self.options):
            options["gres"] = f"gpu:{resources.world_size}"
        options |= self.options
        if self._excluded:
            given = [options["exclude"]] if "exclude" in options else []
            options["exclude"] = ",".join([*given, *self._excluded])
        log = str(self.results / FOLDER).replace("%", "%%") + "/slurm-%A_%a.log"
        ours = {"job-name": "kdbench", "output": log, "open-mode": "append", "array": f"0-{count - 1}"}
        given = [f"--{name}={value}" if value else f"--{name}" for name, value in (options | ours).items()]
        again = () if "no-requeue" in self.options else ("--requeue",)
        return ["sbatch", "--parsable", *again, *given]

    def explain(self, jobs: Sequence[Resources]) -> list[str]:
        """The call of sbatch and the script, for each kind of job."""
        lines = [f"Slurm: at most {counted(len(self.slots), 'job')} in the queue, students once their teacher is done"]
        for resources, count in Counter(jobs).items():
            script = self.script(["JOB", "..."], resources.threads).splitlines()
            lines += [
                f"{counted(count, 'job')}, in arrays of at most {MOST}:",
                shlex.join(self.command(resources, count)),
            ]
            lines += [f"  {line}" for line in script]
        return lines

    def check(self, resources: Resources) -> None:
        """Ask Slurm whether it would take such a job, without submitting it.

        Raises:
            EngineError: it would not, or is not there; says what sbatch says.
        """
        command = [*self.command(resources, 1), "--test-only"]
        done = call(*command, given=self.script(["test"], resources.threads))
        if done.returncode and not is_unreachable(done):
            raise EngineError(f"Slurm does not take such jobs: {words(done)}; change --slurm")

    def _submit_new(self) -> list[tuple[Handle, Event | End]]:
        """Submit new jobs, those that need the same as one array; returns the reason of those that wait.

        Raises:
            EngineError: Slurm refuses it.
        """
        groups: dict[Resources, list[_Element]] = {}
        for element in self._elements.values():
            if not element.id and element.finished is None:
                groups.setdefault(element.resources, []).append(element)
        news: list[tuple[Handle, Event | End]] = []
        for resources, elements in groups.items():
            for first in range(0, len(elements), MOST):
                done = self._submit_array(elements[first : first + MOST], resources)
                news += self._answered(elements[first].files.name, "sbatch", words(done) if done.returncode else "")
        return news

    def _submit_array(self, elements: Sequence[_Element], resources: Resources) -> subprocess.CompletedProcess[str]:
        """Submit jobs as an array; where Slurm takes fewer of a user at a time, some of them, and the others later.

        Returns the call of sbatch: where it was refused, the next poll tries again.
        """
        script = self.script([element.files.name for element in elements], resources.threads)
        done = call(*self.command(resources, len(elements)), given=script)
        if is_unreachable(done):
            return done
        if done.returncode and len(elements) > 1:
            return self._submit_array(elements[: len(elements) // 2], resources)
        if done.returncode and any(each.id for each in self._elements.values()):
            return done
        if done.returncode:
            raise EngineError(f"sbatch: {words(done)}; change --slurm")
        number = done.stdout.strip().split(";")[0]
        for index, element in enumerate(elements):
            element.id = f"{number}_{index}"
            with writing(element.files.queue):
                element.files.queue.write_text(f"{element.id}\n")
            element.files.follow()
        return done

    def _read(self) -> list[tuple[Handle, Event | End]]:
        """What jobs have written; the end of those that say that they have ended."""
        news: list[tuple[Handle, Event | End]] = []
        for handle, element in self._elements.items():
            for event in element.files.new_events():
                news.append((handle, event))
                if isinstance(event, StepEvent):
                    element.interrupted = False
                    if event.step > element.step:
                        element.step, element.restarts = event.step, 0
                elif isinstance(event, InterruptedEvent):
                    element.interrupted = True
                    element.finished = CANCELLED if element.cancelled else None
                elif isinstance(event, FinishedEvent):
                    element.finished, element.well = End("failed", "the job has left no row"), True
                elif isinstance(event, ErrorEvent):
                    element.finished = self._failed(element, event)
            if element.finished:
                news.append((handle, element.finished))
        return news

    def _failed(self, element: _Element, event: ErrorEvent) -> End:
        """The end of a job that says why; where its device is the reason, other jobs get other nodes."""
        if event.node and event.node not in self._excluded:
            self._excluded[event.node] = event.reason
        return End(event.status, f"{event.reason} ({event.node})" if event.node else event.reason, bool(event.node))

    def _look(self) -> list[tuple[Handle, Event | End]]:
        """What Slurm says of jobs that have not told their end."""
        followed = {each.id: handle for handle, each in self._elements.items() if each.id and each.finished is None}
        if not followed:
            return []
        news: list[tuple[Handle, Event | End]] = []
        for handle in followed.values():
            if self._elements[handle].refused:
                news += self._cancel(handle, self._elements[handle])
        known = states(followed)
        if not isinstance(known, dict):
            return news + self._answered(next(iter(followed.values())), "squeue", words(known))
        self._refused.pop("squeue", None)
        for number, handle in followed.items():
            element, (state, reason) = self._elements[handle], known.get(number, ("", ""))
            if state == "PENDING" and element.state not in ("PENDING", ""):
                element.restarts += 1
                news.append((handle, WarningEvent(text=f"Slurm has put job {number} back into its queue ({reason})")))
            if element.restarts >= RESTARTS and not element.cancelled:
                news += self._cancel(handle, element)
                if not element.refused:
                    reason = f"Slurm has started it {counted(RESTARTS, 'time')} without a new step"
                    news.append((handle, End("node-failure", reason)))
                    continue
            if state == "PENDING" and (text := self._waiting(element, reason)):
                news.append((handle, WarningEvent(text=text)))
            element.state = state
            if state in ALIVE:
                element.ended = None
            elif element.ended is None:
                element.ended = time.monotonic()
            elif element.cancelled or time.monotonic() - element.ended > self.patience:  # its row may not be seen yet
                news.append((handle, self._end(element, state)))
        return news

    def _waiting(self, element: _Element, reason: str) -> str:
        """Words on a job that may wait for ever, once for each that is held, and for each other reason."""
        if "held" in reason.lower():
            said, element.held = element.held, True
            return "" if said else f"Slurm job {element.id} is held ({reason}): scontrol release {element.id}"
        if reason in USUAL | self._told:
            return ""
        self._told.add(reason)
        return f"Slurm job {element.id} waits, and maybe for ever: {reason}; `squeue --me` shows which others do"

    def _answered(self, handle: Handle, command: str, said: str) -> list[tuple[Handle, Event | End]]:
        """A warning where a command was refused and says why, once for each reason; it is called again."""
        if self._refused.get(command, "") == said:
            return []
        self._refused[command] = said
        text = f"{command}: {said}; jobs in Slurm's hands go on, and it is asked again"
        return [(handle, WarningEvent(text=text))] if said else []

    def _end(self, element: _Element, state: str) -> End:
        """The end of a job that has not told it, by its last state; empty where Slurm does not know it any more."""
        reasons: dict[str, tuple[Status, str, bool]] = {
            "TIMEOUT": ("timeout", "its time limit was over", True),
            "DEADLINE": ("timeout", "its deadline was over", False),
            "NODE_FAIL": ("node-failure", "its node has failed", True),
            "BOOT_FAIL": ("node-failure", "its node could not be started", True),
            "PREEMPTED": ("preempted", "a job of higher priority took its place", True),
            "OUT_OF_MEMORY": ("out-of-memory", "more memory than it was given; raise --slurm mem=", False),
            "CANCELLED": (CANCELLED.status, CANCELLED.reason, False),
            "FAILED": (
                "timeout",
                "it was asked to stop, as before a time limit, or lost a run to others",
                True,
            ),
            "": ("failed", "Slurm knows it no longer, and it has left no result", True),
        }
        if state == "FAILED" and not element.interrupted:
            logs = f"{element.files.log} and {self._log(element)}"
            return End("failed", f"Slurm job {element.id} has failed without a reason; see {logs}")
        status, reason, retry = reasons.get(state, ("failed", f"it ended as {state}", False))
        return End(status, f"Slurm job {element.id}: {reason}", retry and not element.cancelled)

    def _close(self, handle: Handle) -> None:
        element = self._elements.pop(handle)
        if element.left:
            return
        element.files.delete(with_log=element.well)
        if element.well:
            self._log(element).unlink(missing_ok=True)

    def _log(self, element: _Element) -> Path:
        """What Slurm itself says of a job."""
        return self.results / FOLDER / f"slurm-{element.id}.log"
