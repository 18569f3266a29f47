"""The result row: all fields of a run's result, with types and descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapSerializer,
    WrapValidator,
    model_validator,
)

from ..spec.run import Run
from .history import Epoch, History, Percent, Record, Scores, Value

__all__ = ["SCHEMA", "Cost", "Environment", "Epoch", "Metrics", "Record", "Result", "Row", "Status"]
__all__ += ["StudentRecord", "TeacherRecord"]

SCHEMA = 1

LONG_WAIT = 0.1
"""Share of the time in training steps from which waiting for data is worth a remark."""

NAME = r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,99}"
"""What may become the name of a file or folder."""

Status = Literal[
    "done",
    "skipped",
    "diverged",
    "failed",
    "timeout",
    "out-of-memory",
    "killed",
    "preempted",
    "node-failure",
    "cancelled",
]


Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Measure = Annotated[float, Field(ge=0, le=1e18)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
"""Up to thirty years."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _validated_history(value: Any, validate: ValidatorFunctionWrapHandler) -> Sequence[Epoch]:
    return value if isinstance(value, History) else tuple(validate(value))


def _listed_history(value: Sequence[Epoch], serialize: SerializerFunctionWrapHandler) -> Any:
    return serialize(tuple(value))


class Metrics(Record):
    """Validation metrics in percent, by name (`ap`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, ...)."""

    last: Scores = Field(
        description="Of the saved student file, by the reference evaluator. Classifiers with a teacher also have "
        "`agreement` and `agreement5`: top-1 and top-5 accuracy with the teacher's predictions as labels. Of several "
        "online teachers, the first is used, as it was at the end of training."
    )
    best: Scores = Field(description="Of the best evaluated epoch by the table's headline metric.")
    best_epoch: Count
    mean_last10: Scores = Field(description="Mean over the last ten evaluated epochs.")
    evaluated: Count = Field(description="How many epochs were evaluated.")
    evaluator: str = Field(description="Library that computed `last`, with its version.")


class TeacherRecord(Record):
    """The frozen teacher, measured before training, or the first online teacher, measured after it."""

    network: str
    sha256: Sha256 = Field(description="Of the checkpoint file.")
    recorded: Percent | None = Field(description="Headline metric in the row of the teacher's run, percent.")
    measured: Percent = Field(description="Headline metric measured here, on the teacher's inputs, percent.")


class StudentRecord(Record):
    """The saved student, which was evaluated."""

    file: str = Field(pattern=rf"^{NAME}/{NAME}$", description="Relative to the folder of runs.")
    sha256: Sha256


class Cost(Record):
    """Computation, time and memory. In a cohort, the data stream and the teacher's forward are shared."""

    params: Count = Field(description="Parameters of the student at test time.")
    flops: Measure = Field(description="Floating-point operations of one student forward on one image (2 x MAdds).")
    image_size: tuple[Count, Count] = Field(description="Height and width that `flops` refers to, pixels.")
    step_seconds: Seconds = Field(description="A step of a run alone: data + teacher + student.")
    data_seconds: Seconds = Field(description="Waiting for data, mean over steps.")
    teacher_seconds: Seconds = Field(description="The teacher's forward, median over steps, mean over epochs.")
    student_seconds: Seconds = Field(description="Student, losses and optimizer, median over steps, mean over epochs.")
    prepare_seconds: Seconds = Field(description="The phases of the method before the training.")
    images_per_second: Measure = Field(description="Training throughput of a run alone: batch / step_seconds.")
    data_wait: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Share of the time in training steps, the whole cohort's, in which the device waited for data; "
        "None in rows from before it was kept.",
    )
    peak_memory: Count = Field(
        description="Peak resident memory of the process, bytes; of a CUDA device, what it took."
    )
    wall_seconds: Seconds = Field(description="Training and evaluation of the whole cohort.")
    cohort: int = Field(
        ge=1, le=10**6, description="How many students shared the data stream and the teacher's forward."
    )
    captured: bool = Field(default=False, exclude=True, repr=False, description="Retired: read in old rows, not kept.")


class Environment(Record):
    """Software and hardware of the run."""

    commit: str = Field(
        pattern=rf"^{NAME}\+?$", description="Git commit; ends in `+` when the tree held uncommitted changes."
    )
    python: str
    libraries: dict[str, str] = Field(description="Versions of libraries that results depend on.")
    device: str
    machine: str = Field(description="Hardware; throughput is compared within one machine only.")
    threads: Count
    deterministic: bool
    world_size: int = Field(default=1, ge=1, description="Processes, one for each GPU, that shared every batch.")
    compiled: bool | None = Field(
        default=None,
        description="Whether torch.compile compiled the networks; False where it failed, None where the recipe does "
        "not ask for it.",
    )


class Result(Record):
    """A row without its run."""

    schema_version: int = SCHEMA
    id: str = Field(description="Hash of the resolved spec.")
    code: str | None = Field(
        default=None,
        description="Hash of the source of the method and of what it imports from methods/, without comments and "
        "docstrings; None in rows from before it was kept.",
    )
    status: Status
    reason: str = Field(default="", description="Why the status is not done.")
    metrics: Metrics | None = None
    history: Annotated[Sequence[Epoch], WrapValidator(_validated_history), WrapSerializer(_listed_history)] = Field(
        default=(), description="Of a row that was read from a file, epochs are read when they are used."
    )
    teacher: TeacherRecord | None = None
    student: StudentRecord | None = None
    empty_classes: tuple[str, ...] = Field(
        default=(), description="Classes of the data set without a training box or pixel, which were not learned."
    )
    learned: dict[str, Value] = Field(
        default={}, description="Learned values that the method's paper reports, such as AD's loss weights, by name."
    )
    cost: Cost | None = None
    environment: Environment
    finished: str = Field(description="UTC, ISO 8601.")

    @property
    def steps(self) -> int:
        """Optimizer steps at the end of the last epoch; 0 without any."""
        if isinstance(self.history, History):
            return self.history.steps
        return self.history[-1].steps if self.history else 0

    @model_validator(mode="after")
    def _complete(self, info: ValidationInfo) -> Self:
        if isinstance(info.context, History):
            self.__dict__["history"] = info.context
        if self.status == "done" and not (self.metrics and self.cost and self.student and self.history):
            raise ValueError("a row that is done needs metrics, cost, student and history")
        if self.status != "done" and not self.reason:
            raise ValueError(f"a row that is {self.status} needs a reason")
        return self


class Row(Result):
    """The result of one run."""

    run: Run = Field(description="The resolved spec itself.")
