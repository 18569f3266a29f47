"""Whether a training waits for its data, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from ..records.row import LONG_WAIT
from ..tasks.base import Task
from ..text import counted
from .timing import Waited

ENOUGH = 60.0
"""Seconds of training steps after which waiting is worth a warning."""


@dataclass
class Waiting:
    """What a job has waited for data, and whether this was said.

    Attributes:
        waited: seconds.
        total: of training steps, these included.
    """

    waited: float = 0.0
    total: float = 0.0
    said: bool = False

    def advice(self, waited: Waited, task: Task) -> str:
        """A warning, once, where the training waits for files; else empty.

        Args:
            waited: since the last call.
            task: whose batches are waited for.
        """
        self.waited, self.total = self.waited + sum(waited.waits), self.total + waited.total
        if self.said or not task.reads_files or self.total < ENOUGH or self.waited <= LONG_WAIT * self.total:
            return ""
        self.said = True
        how = "images are prepared between the steps"
        if task.workers:
            how = f"{counted(task.workers, 'loader process prepares', 'loader processes prepare')} the images"
        share = f"{self.waited / self.total:.0%}"
        return f"training waits for data in {share} of its time: {how}; {task.faster_loading()}"
