"""The result row: all fields of a run's result, with types and descriptions."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..spec.run import Run

SCHEMA = 1

Status = Literal["done", "skipped", "diverged", "failed", "timeout", "out-of-memory"]


class Record(BaseModel):
    """A part of a row: frozen, strict, without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Epoch(Record):
    """Losses and metrics of one epoch."""

    epoch: int = Field(description="Counted from 1; 0 for published weights that were not trained.")
    steps: int = Field(description="Optimizer steps since the start of the run.")
    lr: float = Field(description="Learning rate at the epoch's last step.")
    losses: dict[str, float] = Field(description="Mean over the epoch's steps of every weighted loss term.")
    metrics: dict[str, float] = Field(description="Validation metrics in percent; empty where not evaluated.")


class Metrics(Record):
    """Validation metrics in percent, by name (`ap`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, ...)."""

    last: dict[str, float] = Field(
        description="Of the saved student file, by the reference evaluator. Classifiers with a teacher also have "
        "`agreement` and `agreement5`: top-1 and top-5 accuracy with the teacher's predictions as labels. Of several "
        "online teachers, the first is used, as it was at the end of training."
    )
    best: dict[str, float] = Field(description="Of the best evaluated epoch by the table's headline metric.")
    best_epoch: int
    mean_last10: dict[str, float] = Field(description="Mean over the last ten evaluated epochs.")
    evaluated: int = Field(description="How many epochs were evaluated.")
    evaluator: str = Field(description="Library that computed `last`, with its version.")


class TeacherRecord(Record):
    """The frozen teacher, measured before training, or the first online teacher, measured after it."""

    network: str
    sha256: str = Field(description="Of the checkpoint file.")
    recorded: float | None = Field(description="Headline metric in the row of the teacher's run, percent.")
    measured: float = Field(description="Headline metric measured here, on the teacher's inputs, percent.")


class StudentRecord(Record):
    """The saved student, which was evaluated."""

    file: str = Field(description="Relative to the folder of runs.")
    sha256: str


class Cost(Record):
    """Computation, time and memory. In a cohort, the data stream and the teacher's forward are shared."""

    params: int = Field(description="Parameters of the student at test time.")
    flops: float = Field(description="Floating-point operations of one student forward on one image (2 x MAdds).")
    image_size: tuple[int, int] = Field(description="Height and width that `flops` refers to, pixels.")
    step_seconds: float = Field(description="A step of a run alone: data + teacher + student.")
    data_seconds: float = Field(description="Waiting for data, mean over steps.")
    teacher_seconds: float = Field(description="The teacher's forward, median over steps, mean over epochs.")
    student_seconds: float = Field(description="Student, losses and optimizer, median over steps, mean over epochs.")
    prepare_seconds: float = Field(description="The phases of the method before the training.")
    images_per_second: float = Field(description="Training throughput of a run alone: batch / step_seconds.")
    peak_memory: int = Field(description="Peak resident memory of the process, bytes; on CUDA, taken from the device.")
    wall_seconds: float = Field(description="Training and evaluation of the whole cohort.")
    cohort: int = Field(description="How many students shared the data stream and the teacher's forward.")
    captured: bool = Field(default=False, exclude=True, repr=False, description="Retired: read in old rows, not kept.")


class Environment(Record):
    """Software and hardware of the run."""

    commit: str = Field(description="Git commit; ends in `+` when the tree held uncommitted changes.")
    python: str
    libraries: dict[str, str] = Field(description="Versions of libraries that results depend on.")
    device: str
    machine: str = Field(description="Hardware; throughput is compared within one machine only.")
    threads: int
    deterministic: bool


class Row(Record):
    """The result of one run."""

    schema_version: int = SCHEMA
    id: str = Field(description="Hash of the resolved spec.")
    run: Run = Field(description="The resolved spec itself.")
    status: Status
    reason: str = Field(default="", description="Why the status is not done.")
    metrics: Metrics | None = None
    history: tuple[Epoch, ...] = ()
    teacher: TeacherRecord | None = None
    student: StudentRecord | None = None
    learned: dict[str, float] = Field(
        default={}, description="Learned values that the method's paper reports, such as AD's loss weights, by name."
    )
    cost: Cost | None = None
    environment: Environment
    finished: str = Field(description="UTC, ISO 8601.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.status == "done" and not (self.metrics and self.cost and self.student and self.history):
            raise ValueError("a row that is done needs metrics, cost, student and history")
        if self.status != "done" and not self.reason:
            raise ValueError(f"a row that is {self.status} needs a reason")
        return self
