"""One student in training: its network, method, optimizer, random state and what it has measured so far."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kdbench import methods
from kdbench.methods.base import Batch, Method, MethodError, NetworkInfo, Outputs, Setting

from .. import networks
from ..networks.base import Network
from ..records import checkpoint as checkpoints
from ..records.row import Epoch, Status
from ..spec.recipe import Recipe
from ..spec.run import Run
from ..spec.schema import digest
from ..tasks.base import Task, autocast
from . import online_teachers as online
from .lr_schedule import learning_rate, total_steps
from .optimizer import build_optimizer, set_learning_rate
from .rng import RandomState

CHECKPOINT = "checkpoint.pt"
STUDENT = "student.pt"
TEACHER = "teacher.pt"

Prepared = dict[int, tuple[dict[str, Tensor], float]]
"""By the phase's seed: what a method's earlier phase left, and the seconds it took."""


class DivergedError(ArithmeticError):
    """A loss term, or a value that the last step left, is not finite."""


@dataclass
class Tally:
    """What an epoch has measured so far: sums of its loss terms, and seconds that steps took in each part."""

    steps: int = 0  # whose losses are summed
    losses: dict[str, float] = field(default_factory=dict)
    data: list[float] = field(default_factory=list)
    teacher: list[float] = field(default_factory=list)
    student: list[float] = field(default_factory=list)


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
        self.student: Network = networks.build(run.student, len(task.classes), run.recipe.init)
        self.teachers = online.build(run, len(task.classes), total_steps(run.recipe, task.steps_per_epoch))
        info = self.student.info
        self.method: Method = methods.build(run.method, self._setting(info, teacher or info), **run.options)
        for module in filter(None, (self.student, self.teachers)):
            module.to(device)
            if run.recipe.channels_last:
                module.to(memory_format=torch.channels_last)
        self.method.to(device)
        self.averaged = _averaged(self.student, run.recipe)
        self.trained: list[list[nn.Parameter]] = []  # whose gradients are clipped together
        self.optimizer: torch.optim.Optimizer | None = None
        self.random = RandomState(int(digest([run.init_seed, "draws"]), 16) % 2**63, device)
        self.status: Status | None = None
        self.reason = ""
        self.epoch = 0  # the one to train, or to go on with
        self.steps = 0
        self.history: list[Epoch] = []
        self.seconds: dict[str, list[float]] = {"data": [], "teacher": [], "student": []}  # a step's, one an epoch
        self.prepared = False
        self.prepare_seconds = 0.0
        self.wall_seconds = 0.0
        self._terms: list[tuple[list[str], Tensor]] = []
        self._answered = 0.0
        self.tally = Tally()

    def _setting(self, student: NetworkInfo, teacher: NetworkInfo) -> Setting:
        return Setting(
            self.run.task,
            len(self.task.classes),
            self.task.num_samples,
            student,
            self.teachers.first.info if self.teachers is not None else teacher,
            self.task.train_targets,
            self.task.steps_per_epoch,
        )

    @property
    def active(self) -> bool:
        return self.status is None

    @property
    def wants_frozen(self) -> bool:
        """Whether the method reads a teacher that the cohort shares."""
        return self.method.needs_teacher and self.method.teacher_mode == "frozen"

    @property
    def evaluated(self) -> Network:
        """The network that is evaluated and saved: the student, or the running mean of its weights."""
        return self.student if self.averaged is None else cast(Network, self.averaged.module)

    def prepare(self, teacher: Network | None, shared: Prepared) -> None:
        """The method's earlier phases; a resumed run has them behind it.

        `shared` holds what members of the cohort prepared already, with the seconds it took; each phase has a random
        state of its own, seeded by `preparation_key` and the student's network, so it does not matter who was first.
        """
        if teacher is None or self.prepared:
            return
        for part in (m for m in self.method.modules() if isinstance(m, Method)):
            if type(part).prepare is Method.prepare:
                continue
            seed = int(digest([self.run.init_seed, "prepare", part.preparation_key]), 16) % 2**63
            if seed not in shared:
                begin = time.perf_counter()
                with RandomState(seed, self.device).current():
                    part.prepare(teacher, self._teacher_view())  # type: ignore[arg-type]
                state = {n: v.clone() for n, v in part.state_dict().items() if n.startswith(part.prepared_prefixes)}
                shared[seed] = state, time.perf_counter() - begin
            state, seconds = shared[seed]
            part.load_state_dict(part.state_dict() | state)
            self.prepare_seconds += seconds
        if self.method.initial_epochs:
            begin = time.perf_counter()
            self._begin(teacher)
            self.prepare_seconds += time.perf_counter() - begin
        self.prepared = True
        if self.prepare_seconds:
            self.save()

    def _teacher_view(self) -> Iterator[Batch]:
        for batch in self.task.endless(self.device, "prepare"):
            yield replace(batch, inputs=batch.teacher_inputs, full_inputs=None)

    def _begin(self, teacher: Network) -> None:
        """The method's first epochs on the student, at the recipe's rate and without the task's loss."""
        recipe = self.run.recipe
        optimizer = build_optimizer(recipe, [self.student], self.method)
        self.student.train()
        self.method.train()
        steps = min(self.method.initial_epochs * self.task.steps_per_epoch, recipe.max_steps or 2**62)
        for step, batch in zip(range(steps), self.task.endless(self.device, "initial"), strict=False):
            with self.random.current(), autocast(recipe, self.device):
                with torch.no_grad():
                    own = teacher(batch.teacher_inputs)
                outputs = self.task.outputs(self.student, batch)
                terms = self.method(batch, outputs, own, initial=True)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            optimizer.step()
            for name, value in terms.items():
                if (step + 1) % self.task.steps_per_epoch == 0 and not value.isfinite():
                    raise DivergedError(f"loss term {name} is {value.item()} in the method's initial phase")

    def step(self, batch: Batch, own: Outputs | None, teacher: Network | None, clock: Clock) -> None:
        """Forward, losses, backward, update. `own` is what a frozen teacher shows for the batch."""
        begin = clock.now()
        self._answered = 0.0
        optimizer = self._optimizer()
        set_learning_rate(optimizer, learning_rate(self.run.recipe, self.steps, self.task.steps_per_epoch))
        with self.random.current():
            names, values = self._forward_backward(batch, own, teacher, clock)
        if self.run.recipe.clip_norm:
            for together in self.trained:
                nn.utils.clip_grad_norm_(together, self.run.recipe.clip_norm)
        optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.student)
        self._terms.append((names, values))
        self.steps += 1
        self.tally.data.append(clock.data)
        if clock.exact:
            self.tally.student.append(clock.now() - begin - self._answered)
            if clock.teacher is not None and self.wants_frozen:
                self.tally.teacher.append(clock.teacher + self._answered)

    def _forward_backward(
        self, batch: Batch, own: Outputs | None, teacher: Network | None, clock: Clock
    ) -> tuple[list[str], Tensor]:
        """Names and values of the loss terms, float32 [terms]; leaves their gradients."""
        self.student.train()
        self.method.train()
        with autocast(self.run.recipe, self.device):
            outputs = self.task.outputs(self.student, batch)
            if self.teachers is not None:
                own = self.teachers(batch.teacher_inputs, self.steps)
            elif own is not None and teacher is not None:
                asked = clock.now()
                with torch.no_grad():
                    own = teacher.answer(own, outputs, batch)
                self._answered = clock.now() - asked
        terms = {name: self.method.task_weight * value for name, value in outputs.losses.items()}
        if own is not None:
            terms = joined(terms, self.method(batch, outputs, own))
        self._optimizer().zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        return list(terms), torch.stack([value.detach().float() for value in terms.values()])

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
            self.tally.losses[name] = self.tally.losses.get(name, 0.0) + value
        self.tally.steps += len(values)
        return dict(zip(names, values.mean(0).tolist(), strict=True))

    def end_epoch(self, metrics: dict[str, float]) -> None:
        """Close the books on an epoch; the losses have been read.

        Waiting for data comes in bursts, so its mean counts; of the rest the median, which a busy machine moves less.
        """
        rate = learning_rate(self.run.recipe, self.steps - 1, self.task.steps_per_epoch)
        tally, self.tally = self.tally, Tally()
        losses = {name: value / tally.steps for name, value in tally.losses.items()}
        self.epoch += 1
        self.history.append(Epoch(epoch=self.epoch, steps=self.steps, lr=rate, losses=losses, metrics=metrics))
        self.seconds["data"].append(statistics.mean(tally.data))
        if tally.student:
            self.seconds["student"].append(statistics.median(tally.student))
        if tally.teacher:
            self.seconds["teacher"].append(statistics.median(tally.teacher))

    def save(self) -> None:
        """Keep everything a later process needs to go on exactly here; the losses have been read."""
        checkpoints.write(
            self.folder / CHECKPOINT,
            {
                "run": self.run.id,
                "student": self.student.state_dict(),
                "teachers": self.teachers.state_dict() if self.teachers is not None else {},
                "averaged": self.averaged.state_dict() if self.averaged is not None else {},
                "method": self.method.state_dict(),
                "optimizer": self._optimizer().state_dict(),
                "random": self.random.state_dict(),
                "whole_epochs": self.epoch,  # `epoch` in files from before a run was saved within one
                "steps": self.steps,
                "prepared": self.prepared,
                "history": [epoch.model_dump(mode="json") for epoch in self.history],
                "seconds": self.seconds,
                "tally": asdict(self.tally),
                "prepare_seconds": self.prepare_seconds,
                "wall_seconds": self.wall_seconds,
            },
        )

    def resume(self) -> bool:
        """Go on from the last checkpoint, if there is one that this version wrote."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return False
        kept: dict[str, Any] = checkpoints.read(path)
        if "teachers" not in kept and self.teachers is not None:
            return False  # written when a run had one teacher beside it; it begins anew
        checkpoints.load_strictly(self.student, kept["student"], path)
        checkpoints.load_strictly(self.method, kept["method"], path)
        if self.teachers is not None:
            checkpoints.load_strictly(self.teachers, kept["teachers"], path)
        if self.averaged is not None:
            checkpoints.load_strictly(self.averaged, kept["averaged"], path)
        self._optimizer().load_state_dict(kept["optimizer"])
        self.random.load_state_dict(kept["random"])
        self.epoch, self.steps = kept["whole_epochs"] if "whole_epochs" in kept else kept["epoch"], kept["steps"]
        self.history = [Epoch(**epoch) for epoch in kept["history"]]
        self.seconds = kept["seconds"]
        self.tally, self.prepared = Tally(**kept.get("tally", {})), kept.get("prepared", True)
        self.prepare_seconds, self.wall_seconds = kept["prepare_seconds"], kept["wall_seconds"]
        return True

    def check_finite(self) -> None:
        """Refuse what the last update broke, which no loss has seen.

        Raises:
            DivergedError: a value of the student, the method or a teacher beside them is not finite; names it.
        """
        parts = {"student": self.evaluated, "method": self.method, "teachers": self.teachers}
        for part, module in parts.items():
            for name, value in module.state_dict().items() if module is not None else ():
                if not value.isfinite().all():
                    raise DivergedError(f"{name} of the {part} is not finite after the last step")

    def save_student(self) -> str:
        """Write the student alone, without heads and adapters of the method; returns the file's sha256."""
        return self._save(STUDENT, self.run.student, self.evaluated)

    def save_teacher(self) -> str:
        """Likewise the teacher that was trained beside it, the first where there are several."""
        assert self.teachers is not None
        assert self.run.online_teacher is not None
        return self._save(TEACHER, self.run.online_teacher, self.teachers.first)

    def _save(self, file: str, name: str, network: Network) -> str:
        content = {"network": name, "classes": list(self.task.classes), "run": self.run.id}
        state = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
        return checkpoints.write(self.folder / file, content | {"state": state})

    def drop_checkpoint(self) -> None:
        (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def _optimizer(self) -> torch.optim.Optimizer:
        """Made when first needed: what a method trains is settled only after `prepare`."""
        if self.optimizer is None:
            taught = list(self.teachers.networks) if self.teachers is not None else []
            self.optimizer = build_optimizer(self.run.recipe, [self.student, *taught], self.method)
            # Student and teachers are clipped apart, each with its modules: none is to feel another's gradients.
            sides = [*enumerate(taught, 1), *enumerate(self.method.teacher_side_modules(), 1)]
            owner = {id(parameter): k for k, module in sides for parameter in module.parameters()}
            parts: list[list[nn.Parameter]] = [[] for _ in range(1 + len(sides))]
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    parts[owner.get(id(parameter), 0)].append(parameter)
            self.trained = [part for part in parts if part]
        return self.optimizer


class Clock:
    """Seconds of work done, not of work handed to a device: on CUDA, only `exact` readings wait for the device.

    Attributes:
        data: what the step's batch was waited for.
        teacher: what the cohort's teacher took; None where it was not timed.
    """

    def __init__(self, device: torch.device, exact: bool, data: float = 0.0) -> None:
        self.device, self.exact, self.data = device, exact or device.type == "cpu", data
        self.teacher: float | None = None

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


def _averaged(student: Network, recipe: Recipe) -> AveragedModel | None:
    """The running mean of weights and buffers that the recipe asks for."""
    if recipe.ema is None:
        return None
    return AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
