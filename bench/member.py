"""One student in training: its network, method, optimiser, random state and what it has measured so far."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import methods
from methods.base import Batch, Method, MethodError, NetworkInfo, Outputs, Setting

from . import checkpoints, networks
from .networks.base import Network
from .randomness import RandomState
from .rows import Epoch, Status
from .schedules import learning_rate
from .specs import Recipe, Run, digest
from .tasks.base import Task, autocast

CHECKPOINT = "checkpoint.pt"
STUDENT = "student.pt"


class DivergedError(ArithmeticError):
    """A loss term became non-finite."""


class Member:
    """One run inside a cohort. A solo run is a cohort of one.

    Args:
        run: the spec.
        task: prepared data.
        teacher: shapes of the teacher's outputs; None for a run without a teacher.
        folder: where checkpoint and student are kept.
        device: where it trains.
    """

    def __init__(self, run: Run, task: Task, teacher: NetworkInfo | None, folder: Path, device: torch.device) -> None:
        self.run, self.task, self.folder, self.device = run, task, folder, device
        torch.manual_seed(run.init_seed)
        self.student: Network = networks.build(run.student, task.num_classes, run.recipe.init)
        info = self.student.info
        setting = Setting(run.task, task.num_classes, task.num_samples, info, teacher or info)
        self.method: Method = methods.build(run.method, setting, **run.options)
        if self.method.teacher_mode != "frozen":
            raise MethodError(f"{run.method} trains its teacher, and kdbench runs methods with a frozen teacher only")
        self.student.to(device)
        if run.recipe.channels_last:
            self.student.to(memory_format=torch.channels_last)
        self.method.to(device)
        self.trained: list[nn.Parameter] = []
        self.optimiser: torch.optim.Optimizer | None = None
        self.random = RandomState(int(digest([run.init_seed, "draws"]), 16) % 2**63, device)
        self.status: Status | None = None
        self.reason = ""
        self.epoch = 0  # the next one to train
        self.steps = 0
        self.history: list[Epoch] = []
        self.seconds: dict[str, list[float]] = {"data": [], "teacher": [], "student": []}  # a step's, one an epoch
        self.prepare_seconds = 0.0
        self.wall_seconds = 0.0
        self._terms: list[tuple[list[str], Tensor]] = []
        self._sums: dict[str, float] = {}
        self._steps_in_epoch = 0
        self.step_seconds: list[float] = []
        self.answer_seconds: list[float] = []

    @property
    def active(self) -> bool:
        return self.status is None

    def prepare(self, teacher: Network | None) -> None:
        """The method's earlier phase; a resumed run has it behind it."""
        begin = time.perf_counter()
        if teacher is not None and self.epoch == 0:
            with self.random.current():
                self.method.prepare(teacher, self.task.endless(self.device, "prepare"))  # type: ignore[arg-type]
            self.prepare_seconds = time.perf_counter() - begin

    def step(self, batch: Batch, own: Outputs | None, teacher: Network | None, clock: Clock) -> None:
        """Forward, losses, backward, update. `own` is the teacher's outputs for the batch."""
        answered = 0.0
        begin = clock.now()
        self.student.train()
        self.method.train()
        optimiser = self._optimiser()
        rate = learning_rate(self.run.recipe, self.steps, self.task.steps_per_epoch)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with self.random.current():
            with autocast(self.run.recipe, self.device):
                outputs = self.task.outputs(self.student, batch)
                if own is not None and teacher is not None:
                    asked = clock.now()
                    with torch.no_grad():
                        own = teacher.answer(own, outputs, batch)
                    answered = clock.now() - asked
            terms = {name: self.method.task_weight * value for name, value in outputs.losses.items()}
            if own is not None:
                terms = joined(terms, self.method(batch, outputs, own))
            optimiser.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
        if self.run.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.trained, self.run.recipe.clip_norm)
        optimiser.step()
        self._terms.append((list(terms), torch.stack([value.detach().float() for value in terms.values()])))
        self.steps += 1
        if clock.exact:
            self.step_seconds.append(clock.now() - begin - answered)
            self.answer_seconds.append(answered)

    def read_losses(self) -> dict[str, float]:
        """Mean of every loss term since the last reading.

        Raises:
            DivergedError: one of them is not finite; names the term and the step.
        """
        names = self._terms[0][0]
        values = torch.stack([values for _, values in self._terms]).cpu().double()
        first = self.steps - len(self._terms)
        self._terms.clear()
        if not values.isfinite().all():
            step, term = (~values.isfinite()).nonzero()[0].tolist()
            raise DivergedError(f"loss term {names[term]} is {values[step, term].item()} at step {first + step + 1}")
        for name, value in zip(names, values.sum(0).tolist(), strict=True):
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps_in_epoch += len(values)
        return dict(zip(names, values.mean(0).tolist(), strict=True))

    def end_epoch(self, metrics: dict[str, float], data_seconds: list[float], teacher_seconds: list[float]) -> None:
        """Close the books on an epoch; the losses have been read.

        Waiting for data comes in bursts, so its mean counts; of the rest the median, which a busy machine moves less.
        """
        rate = learning_rate(self.run.recipe, self.steps - 1, self.task.steps_per_epoch)
        losses = {name: value / self._steps_in_epoch for name, value in self._sums.items()}
        self.epoch += 1
        self.history.append(Epoch(epoch=self.epoch, steps=self.steps, lr=rate, losses=losses, metrics=metrics))
        self.seconds["data"].append(statistics.mean(data_seconds))
        if self.step_seconds:
            self.seconds["student"].append(statistics.median(self.step_seconds))
        if teacher_seconds:
            own = statistics.median(teacher_seconds) + statistics.median(self.answer_seconds)
            self.seconds["teacher"].append(own)
        self._sums, self._steps_in_epoch = {}, 0
        self.step_seconds, self.answer_seconds = [], []

    def save(self) -> None:
        """Keep everything a later process needs to go on exactly here."""
        checkpoints.write(
            self.folder / CHECKPOINT,
            {
                "run": self.run.id,
                "student": self.student.state_dict(),
                "method": self.method.state_dict(),
                "optimiser": self._optimiser().state_dict(),
                "random": self.random.state_dict(),
                "epoch": self.epoch,
                "steps": self.steps,
                "history": [epoch.model_dump(mode="json") for epoch in self.history],
                "seconds": self.seconds,
                "prepare_seconds": self.prepare_seconds,
                "wall_seconds": self.wall_seconds,
            },
        )

    def resume(self) -> bool:
        """Go on from the last checkpoint, if there is one."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return False
        kept: dict[str, Any] = checkpoints.read(path)
        checkpoints.load_strictly(self.student, kept["student"], path)
        checkpoints.load_strictly(self.method, kept["method"], path)
        self._optimiser().load_state_dict(kept["optimiser"])
        self.random.load_state_dict(kept["random"])
        self.epoch, self.steps = kept["epoch"], kept["steps"]
        self.history = [Epoch(**epoch) for epoch in kept["history"]]
        self.seconds = kept["seconds"]
        self.prepare_seconds, self.wall_seconds = kept["prepare_seconds"], kept["wall_seconds"]
        return True

    def save_student(self, classes: tuple[str, ...]) -> str:
        """Write the student alone, without heads and adapters of the method; returns the file's sha256."""
        content = {"network": self.run.student, "classes": list(classes), "run": self.run.id}
        state = {name: value.cpu().contiguous() for name, value in self.student.state_dict().items()}
        return checkpoints.write(self.folder / STUDENT, content | {"state": state})

    def drop_checkpoint(self) -> None:
        (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def _optimiser(self) -> torch.optim.Optimizer:
        """Made when first needed: what a method trains is settled only after `prepare`."""
        if self.optimiser is None:
            recipe = self.run.recipe
            parameters = [*self.student.parameters(), *self.method.parameters()]
            self.trained = [parameter for parameter in parameters if parameter.requires_grad]
            self.optimiser = make_optimiser(recipe, self.trained)
        return self.optimiser


class Clock:
    """Seconds of work done, not of work handed to a device: on CUDA, only `exact` readings wait for the device."""

    def __init__(self, device: torch.device, exact: bool) -> None:
        self.device, self.exact = device, exact or device.type == "cpu"

    def now(self) -> float:
        if self.exact and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def joined(task: dict[str, Tensor], method: dict[str, Tensor]) -> dict[str, Tensor]:
    """All terms of a run's loss.

    Raises:
        MethodError: a method's term bears the name of one of the network's own, which it would replace.
    """
    if both := task.keys() & method.keys():
        raise MethodError(f"{', '.join(sorted(both))} is a loss of the network and of the method; rename the method's")
    return task | method


def make_optimiser(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """What a recipe trains with; weight decay acts on every parameter, as in the detection papers' code."""
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(parameters, recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
    )
