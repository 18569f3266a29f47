"""How long each job of a plan takes: from finished rows, else a calibration, else a roofline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..engines.base import PlannedJob
from ..records.calibration import Calibrated
from ..records.row import Row
from ..spec.recipe import Recipe
from ..spec.request import RunRequest
from ..spec.run import Run
from ..spec.schema import digest
from .cost import networks_of, seconds, steps_of
from .device_facts import CPU, KNOWN, UNKNOWN_GPU, Device, device_named, recognized
from .memory import Memory
from .roofline import step_seconds, with_loading
from .tracing import UntracedError

Source = Literal["rows", "calibration", "roofline"]

WITHIN: Mapping[Source, float] = {"rows": 1.2, "calibration": 1.4, "roofline": 3.0}
"""A job takes between the estimate divided by this and times this, nearly always."""

UNTIMED = {"name", "source", "epochs", "milestones", "max_steps", "epoch_steps", "eval_every", "init"}
UNTIMED |= {"lr", "min_lr", "weight_decay", "warmup_steps", "warmup_epochs", "label_smoothing"}
"""Fields of a recipe that the time of a step does not depend on, or hardly."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of a job, and what they are from."""

    seconds: float
    source: Source


@dataclass(frozen=True)
class Target:
    """The device that times are for.

    Attributes:
        device: its facts.
        machine: as rows have it; empty where that is not known.
        assumed: whether the device is not in the table, so another's facts are used.
    """

    device: Device
    machine: str = ""
    assumed: bool = False

    @property
    def name(self) -> str:
        """In words."""
        stand_in = f"an unknown GPU, with figures of the {self.device.name} (--on names another)"
        return stand_in if self.assumed and not self.machine else self.machine or f"the {self.device.name}"

    def machine_of(self, machines: Iterable[str]) -> str:
        """The machine whose measurements count: this one, or the first with such devices where none is here."""
        return self.machine or next((each for each in machines if self.device.is_on(each)), "")


def target_of(request: RunRequest, device: str, machine: str) -> Target:
    """The device that a request's times are for.

    Args:
        request: its `on`, and options of a batch system that may name a GPU.
        device: that jobs are given.
        machine: of this device; empty where jobs run elsewhere.

    Raises:
        SpecError: `on` is no known device.
    """
    if request.on:
        return Target(device_named(request.on))
    if device == "cpu":
        return Target(CPU, machine)
    known = recognized(machine or " ".join(request.slurm.values()))
    return Target(known or KNOWN[UNKNOWN_GPU], machine, assumed=known is None)


class Estimator:
    """Estimates jobs.

    Args:
        target: the device.
        rows: finished.
        calibration: by `key_of`.
        memory: says the shapes of micro-batches.
        workers: loader processes of a job.
        roofline: whether jobs that nothing was measured for are estimated too, which traces their networks.
    """

    def __init__(
        self,
        target: Target,
        rows: Sequence[Row],
        calibration: Mapping[str, Calibrated],
        memory: Memory,
        workers: int,
        roofline: bool,
    ) -> None:
        self.target, self.rows, self.calibration, self.memory = target, rows, calibration, memory
        self.workers, self.roofline = workers, roofline
        self.row_machine = target.machine_of(row.environment.machine for row in rows)
        self.calibration_machine = target.machine_of(each.machine for each in calibration.values())

    def estimate(self, job: PlannedJob) -> Estimate | None:
        """A job's time, without phases before the training; None where it is not known."""
        from_rows = seconds(job.runs, self.rows, self.row_machine)
        if from_rows is not None:
            return Estimate(from_rows, "rows")
        measured = self.calibration.get(self.key(job))
        if measured is not None:
            step = measured.step_seconds
            return self._whole(job, self._loaded(step, job) if measured.synthetic else step, "calibration")
        if not self.roofline:
            return None
        try:
            step = step_seconds(job.runs, self.memory, self.target.device, job.threads)
        except UntracedError:
            return None
        return self._whole(job, self._loaded(step, job), "roofline")

    def key(self, job: PlannedJob) -> str:
        """A job's key in the calibration of the target's machine."""
        threads = job.threads if self.target.device.name == "cpu" else 1
        return key_of(job.runs, self.calibration_machine, threads)

    def _loaded(self, step: float, job: PlannedJob) -> float:
        return with_loading(step, job.runs[0], self.workers)

    def _whole(self, job: PlannedJob, step: float, source: Source) -> Estimate:
        """All steps, and the forwards of evaluation."""
        run = job.runs[0]
        recipe, steps = run.recipe, max(steps_of(each) for each in job.runs)
        epoch = recipe.epoch_steps or max(1, run.data.train_images // recipe.batch_size)
        evaluated = run.data.val_images / recipe.batch_size / recipe.eval_every / epoch
        return Estimate(step * steps * (1 + evaluated / 3), source)


def key_of(runs: Sequence[Run], machine: str, threads: int) -> str:
    """What the time of a cohort's step depends on, as 16 hex digits: not on seeds, epochs and rates."""
    data = runs[0].data.model_dump(mode="json", exclude={"fingerprint"})
    each = [[networks_of(run), run.method, run.options] for run in runs]
    return digest([machine, threads, runs[0].task, data, _recipe(runs[0].recipe), each])


def _recipe(recipe: Recipe) -> dict[str, object]:
    return recipe.model_dump(mode="json", exclude=UNTIMED)
