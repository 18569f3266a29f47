"""Events of a job: what it reports while it works, one JSON line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ..records.row import Status


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StepEvent(_Event):
    """Students have trained for some more steps.

    Attributes:
        epoch: under way, counted from 1.
        step: optimizer steps so far.
        steps: of the whole run.
        losses: by run, the mean of every loss term over the steps since the last such event.
        lr: learning rate of the last step.
        images_per_second: of the data stream, which all students of the cohort share.
        data_wait: share of the time since the last such event in which the device waited for data.
    """

    event: Literal["step"] = "step"
    epoch: int
    step: int
    steps: int
    losses: dict[str, dict[str, float]]
    lr: float
    images_per_second: float
    data_wait: float = 0.0


class EpochEvent(_Event):
    """A run has finished an epoch.

    Attributes:
        run: its id.
        epoch: counted from 1.
        step: optimizer steps so far.
        metrics: in percent by name; empty where the epoch was not evaluated. The last one is evaluated with the row.
    """

    event: Literal["epoch"] = "epoch"
    run: str
    epoch: int
    step: int
    metrics: dict[str, float]


class RowEvent(_Event):
    """A run has ended, and its row is written.

    Attributes:
        run: its id.
        status: how it ended.
        reason: why, where it is not done.
        metrics: of the row, in percent by name.
    """

    event: Literal["row"] = "row"
    run: str
    status: Status
    reason: str
    metrics: dict[str, float]


class ResumedEvent(_Event):
    """A run continues from its checkpoint.

    Attributes:
        run: its id.
        epoch: finished epochs.
        step: finished optimizer steps; 0 after an earlier phase of the method.
    """

    event: Literal["resumed"] = "resumed"
    run: str
    epoch: int
    step: int


class HeldEvent(_Event):
    """Another process trains a run, which is left to it.

    Attributes:
        run: its id.
        holder: the process, in words.
    """

    event: Literal["held"] = "held"
    run: str
    holder: str


class NoticeEvent(_Event):
    """Something to know about a run."""

    event: Literal["notice"] = "notice"
    run: str
    text: str


class PhaseEvent(_Event):
    """What the job is doing before its training."""

    event: Literal["phase"] = "phase"
    text: str


class WarningEvent(_Event):
    """Something to know about the whole job."""

    event: Literal["warning"] = "warning"
    text: str


class FinishedEvent(_Event):
    """The job has finished, `seconds` after its teacher was there."""

    event: Literal["finished"] = "finished"
    seconds: float


class InterruptedEvent(_Event):
    """A signal has stopped the job; its runs have no result and are resumed from their checkpoints."""

    event: Literal["interrupted"] = "interrupted"


class ErrorEvent(_Event):
    """The job has failed.

    Attributes:
        status: of all its runs that have no row.
        reason: why.
        node: machine whose device is the reason; empty where it is not.
        runs: that it ends, by one of several processes of a job; empty for all.
    """

    event: Literal["error"] = "error"
    status: Status
    reason: str
    node: str = ""
    runs: tuple[str, ...] = ()


Event = (
    StepEvent
    | EpochEvent
    | RowEvent
    | ResumedEvent
    | HeldEvent
    | NoticeEvent
    | PhaseEvent
    | WarningEvent
    | FinishedEvent
    | InterruptedEvent
    | ErrorEvent
)

Report = Callable[[Event], None]
"""Receives the events of a job."""

_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def to_line(event: Event) -> str:
    """An event as a line of JSON, without the line feed; floats that are not finite as NaN and Infinity."""
    return json.dumps(event.model_dump())


def from_line(line: str) -> Event | None:
    """The event in a line of a job's output; None for a line that is none, or not whole."""
    try:
        return _EVENT.validate_json(line)
    except ValidationError:
        return None
