"""The files of a job in the results folder, by which it is followed from any machine: what to do, events and log."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from ..errors import StoreError
from ..records.atomic import write_atomically, writing
from ..records.leases import UNKNOWN, Holder, has_ended, read_holder, this_process
from ..records.store import Store
from ..spec.schema import digest
from ..train.events import Event, from_line
from ..train.job import Job

FOLDER = "jobs"


class JobFiles:
    """`<results>/jobs/<name>.*` of one job.

    Args:
        results: folder of runs.
        name: of the job.
    """

    def __init__(self, results: Path, name: str) -> None:
        self.name = name
        self.spec, self.events, self.log, self.queue, self.followers = (
            results / FOLDER / f"{name}.{suffix}" for suffix in ("json", "jsonl", "log", "queue", "followers")
        )
        self._place = 0

    @classmethod
    def create(cls, job: Job) -> JobFiles:
        """Files of a name of their own, with the job in the first.

        Raises:
            StoreError: the results folder cannot be written.
        """
        files = cls(job.results, f"{digest([run.id for run in job.runs])}-{secrets.token_hex(3)}")
        write_atomically(files.spec, job.model_dump_json(indent=1).encode())
        return files

    @classmethod
    def all(cls, results: Path) -> list[JobFiles]:
        """Those of every job that has not ended well, the oldest first."""
        made: dict[str, int] = {}
        for path in (results / FOLDER).glob("*.json"):
            with suppress(FileNotFoundError):  # another command deletes it, or a network file system lists it still
                made[path.stem] = path.stat().st_mtime_ns
        return [cls(results, name) for name in sorted(made, key=lambda name: made[name])]

    def earlier(self) -> list[JobFiles]:
        """Those of other jobs with the same runs."""
        folder, pattern = self.spec.parent, f"{self.name.partition('-')[0]}-*.json"
        return [JobFiles(folder.parent, path.stem) for path in folder.glob(pattern) if path.stem != self.name]

    def job(self) -> Job | None:
        """The job; None where the file is gone, or not of this version."""
        try:
            return Job.model_validate_json(self.spec.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def is_settled(self, statuses: Collection[str] | None = None) -> bool:
        """Whether every run of the job has a row of later, of one of these statuses or of any."""
        job = self.job()
        try:
            made = self.spec.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        if job is None:
            return False
        store = Store(job.results)
        for run in job.runs:
            version, row = store.version(run.id), store.row(run.id)
            if version is None or row is None or version[0] < made or row.status not in (statuses or [row.status]):
                return False
        return True

    def queue_name(self) -> str:
        """What a batch system calls the job; empty without one."""
        try:
            return self.queue.read_text().strip()
        except FileNotFoundError:
            return ""

    def follow(self) -> None:
        """Note that this process follows the job, as several commands may that find it in a queue.

        Raises:
            StoreError: the results folder cannot be written.
        """
        with writing(self.followers), self.followers.open("a") as file:
            file.write(f"{json.dumps(vars(this_process()))}\n")

    def followed_by(self) -> list[Holder]:
        """The processes that follow the job, without those that are known to have ended."""
        scope = this_process().scope
        try:
            lines = self.followers.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        holders = [holder for line in lines if (holder := read_holder(line)) != UNKNOWN]
        return [holder for holder in dict.fromkeys(holders) if not has_ended(holder, scope)]

    def unfollow(self) -> list[Holder]:
        """Note that this process follows the job no longer; the other processes that do."""
        others = [holder for holder in self.followed_by() if holder != this_process()]
        with suppress(StoreError):  # in a folder that cannot be written any more
            write_atomically(self.followers, "".join(f"{json.dumps(vars(holder))}\n" for holder in others).encode())
        return others

    def new_events(self) -> list[Event]:
        """The events since the last call, in lines that are whole; other lines are left out.

        The file is opened each time, which lets network file systems ask their server for what is new.
        """
        try:
            with self.events.open("rb") as file:
                file.seek(self._place)
                new = file.read()
        except OSError:  # not there yet, or on a network file system that does not answer: the next call reads it
            return []
        end = new.rfind(b"\n") + 1
        self._place += end
        return [event for line in new[:end].splitlines() if (event := from_line(line.decode(errors="replace")))]

    def delete(self, with_log: bool) -> None:
        """Delete what is not needed any more; the log stays with the job where that failed.

        In a folder that cannot be written any more all of them stay.
        """
        for file in (self.events, self.queue, self.followers, *((self.spec, self.log) if with_log else ())):
            with suppress(OSError):
                file.unlink(missing_ok=True)
