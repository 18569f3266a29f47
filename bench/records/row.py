"""The result row: every field that a finished run leaves behind, typed and described. One JSON file a run."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..spec.run import Run

SCHEMA = 1

Status = Literal["done", "skipped", "diverged", "failed", "timeout", "out-of-memory"]


class Record(BaseModel):
    """A frozen part of a row that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Epoch(Record):
    """What one epoch left behind."""

    epoch: int = Field(description="Counted from 1; 0 for published weights, taken as they are.")
    steps: int = Field(description="Optimizer steps since the start of the run.")
    lr: float = Field(description="Learning rate at the epoch's last step.")
    losses: dict[str, float] = Field(description="Mean over the epoch's steps of every weighted loss term.")
    metrics: dict[str, float] = Field(description="Validation metrics in percent; empty where not evaluated.")


class Metrics(Record):
    """Validation metrics in percent, by name (`ap`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, ...)."""

    last: dict[str, float] = Field(
        description="Of the saved student file, by the reference evaluator. Classifiers with a teacher also have "
        "`agreement` and `agreement5`: top-1 and top-5 with the teacher's classes of the same images as labels; of "
        "teachers that learned beside the student, the first as it ended."
    )
    best: dict[str, float] = Field(description="Of the best evaluated epoch by the table's headline metric.")
    best_epoch: int
    mean_last10: dict[str, float] = Field(description="Mean over the last ten evaluated epochs.")
    evaluated: int = Field(description="How many epochs were evaluated.")
    evaluator: str = Field(description="What computed `last`, with its version.")


class TeacherRecord(Record):
    """The teacher as it was found before training; where teachers learned beside the student, the first at the end."""

    network: str
    sha256: str = Field(description="Of the checkpoint file.")
    recorded: float | None = Field(description="Headline metric on record, percent.")
    measured: float = Field(description="Headline metric re-measured, percent; on what a teacher sees.")


class StudentRecord(Record):
    """The saved student file: what was evaluated."""

    file: str = Field(description="Relative to the folder of runs.")
    sha256: str


class Cost(Record):
    """What the run cost. In a cohort, data and teacher time are those of the shared stream and forward."""

    params: int = Field(description="Parameters of the student at test time.")
    flops: float = Field(description="Floating-point operations of one student forward on one image (2 x MAdds).")
    image_size: tuple[int, int] = Field(description="Height and width that `flops` refers to, pixels.")
    step_seconds: float = Field(description="A step as if alone: data + teacher + student.")
    data_seconds: float = Field(description="Waiting for data, mean over steps.")
    teacher_seconds: float = Field(description="The teacher's forward, median over steps, mean over epochs.")
    student_seconds: float = Field(description="Student, losses and optimizer, median over steps, mean over epochs.")
    prepare_seconds: float = Field(description="The method's earlier phase, whole.")
    images_per_second: float = Field(description="Training throughput as if alone: batch / step_seconds.")
    peak_memory: int = Field(description="Peak resident memory of the process, bytes; on CUDA, taken from the device.")
    wall_seconds: float = Field(description="Training and evaluating, all members of the cohort included.")
    cohort: int = Field(description="How many students shared the data stream and the teacher's forward.")
    captured: bool = Field(default=False, exclude=True, repr=False, description="Retired: read in old rows, not kept.")


class Environment(Record):
    """Where the run happened."""

    commit: str = Field(description="Git commit; ends in `+` when the tree held uncommitted changes.")
    python: str
    libraries: dict[str, str] = Field(description="Versions that can move a number.")
    device: str
    machine: str = Field(description="Names the hardware: throughput is compared within one machine only.")
    threads: int
    deterministic: bool


class Row(Record):
    """One run's result."""

    schema_version: int = SCHEMA
    id: str = Field(description="Hash of the resolved spec.")
    run: Run = Field(description="The resolved spec itself.")
    status: Status
    reason: str = Field(default="", description="Why, for every status but done.")
    metrics: Metrics | None = None
    history: tuple[Epoch, ...] = ()
    teacher: TeacherRecord | None = None
    student: StudentRecord | None = None
    learned: dict[str, float] = Field(
        default={}, description="What the method has learned and its paper reports: AD's factors, by loss."
    )
    cost: Cost | None = None
    environment: Environment
    finished: str = Field(description="UTC, ISO 8601.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.status == "done" and not (self.metrics and self.cost and self.student and self.history):
            raise ValueError("a row that is done needs metrics, cost, student and history")
        if self.status != "done" and not self.reason:
            raise ValueError(f"a row that is {self.status} needs a reason")
        return self
