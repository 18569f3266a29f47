"""One student in training: its network, method, optimizer and random state, and its measurements so far."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from kdbench import methods
from kdbench.methods.base import Method, NetworkInfo, Setting

from .. import networks
from ..errors import DivergedError, SpecError
from ..networks.base import Network
from ..networks.with_head import NetworkWithHead
from ..records.code import code_of
from ..records.row import Epoch, Status
from ..spec.run import Run
from ..spec.schema import digest
from ..tasks.base import Task
from . import online_teachers, ranks
from .lr_schedule import learning_rate, total_steps
from .optimizer import Optimizers, build_optimizer, trained_parameters
from .ranks import GradientMean
from .rng import RandomState
from .running_mean import RunningMean
from .sync_batchnorm import synchronize
from .timing import StepTimer, Waited


@dataclass
class EpochStats:
    """Measurements of the current epoch so far.

    Attributes:
        steps: whose losses are summed.
        losses: sum of each loss term over these steps.
        data: seconds that each step waited for its batch.
        total: seconds of these steps, of the whole cohort.
        teacher: seconds of the frozen teacher's forward, at the steps that were timed.
        student: seconds of the student, its losses and its optimizer, at the steps that were timed.
    """

    steps: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    data: list[float] = field(default_factory=list)
    teacher: list[float] = field(default_factory=list)
    student: list[float] = field(default_factory=list)
    total: float = 0.0


class Student:
    """One run of a cohort; a run that is trained alone is a cohort of one.

    Args:
        run: the spec.
        task: prepared data.
        teacher: shapes of the teacher's outputs; None for a run without a teacher.
        folder: of its checkpoint and its weights.
        device: where it trains.

    Attributes:
        code: hash of the method's source.
        teacher_sha256: of the frozen teacher's file; None without one.
        network: the student network.
        online_teachers: the teachers that train with it, if any.
        method: the distillation method with its modules.
        views: further views of each batch that the method reads.
        averaged: the running mean of the network's weights, if the recipe asks for one.
        random_state: of everything that the student and its method draw.
        status: None while the run trains and once it has finished; else how it ended.
        reason: why it ended so.
        epoch: finished epochs.
        steps: finished optimizer steps.
        history: of the finished epochs.
        seconds: of a step by part ("data", "teacher", "student"), one value a finished epoch; "total" is that of the
            cohort's step.
        prepared: the method's phases before the training are over.
        prepare_seconds: of these phases.
        wall_seconds: of training, evaluation and saving, the rest of the cohort included.
        counted: the time up to which they are counted, on the clock of this process.
        epoch_stats: of the current epoch.
        compiled: whether its networks are compiled in this process; None until it trains here.
    """

    def __init__(self, run: Run, task: Task, teacher: NetworkInfo | None, folder: Path, device: torch.device) -> None:
        self.run, self.task, self.folder, self.device = run, task, folder, device
        self.code = code_of(run)
        self.teacher_sha256: str | None = None
        torch.manual_seed(run.init_seed)
        self.network: Network = networks.build(run.student, len(task.classes), run.recipe.init)
        steps = total_steps(run.recipe, task.steps_per_epoch)
        self.online_teachers = online_teachers.build(run, len(task.classes), steps)
        self.method: Method = methods.build(run.method, self._setting(teacher), **run.options)
        self.views = methods.views(run.method)
        task.check_views(self.views, run.method)
        if not self.method.student_bias:
            hold_bias_at_zero(self.network)
        for module in filter(None, (self.network, self.online_teachers)):
            module.to(device)
            if run.recipe.channels_last:
                module.to(memory_format=torch.channels_last)
        self.method.to(device)
        self.averaged = None if run.recipe.ema is None else RunningMean(self._with_head, run.recipe.ema)
        draws = [run.init_seed, "draws", *([ranks.rank()] if ranks.rank() else [])]  # each process has its own
        self.random_state = RandomState(int(digest(draws), 16) % 2**63, device)
        self.status: Status | None = None
        self.reason = ""
        self.epoch = 0
        self.steps = 0
        self.history: list[Epoch] = []
        self.seconds: dict[str, list[float]] = {"data": [], "teacher": [], "student": []}
        self.prepared = False
        self.prepare_seconds = 0.0
        self.wall_seconds = 0.0
        self.counted = 0.0
        self.epoch_stats = EpochStats()
        self.compiled: bool | None = None
        self._unread: list[tuple[list[str], Tensor]] = []  # names and values of each step's losses, on the device

    def _setting(self, teacher: NetworkInfo | None) -> Setting:
        if self.online_teachers is not None:
            teacher = self.online_teachers.first.info
        return Setting(
            self.run.task,
            len(self.task.classes),
            self.task.num_samples,
            self.network.info,
            teacher or self.network.info,
            self.task.train_targets,
            self.task.steps_per_epoch,
            self.run.recipe.epochs,
            self.run.recipe.images_at_once(self.run.data.train_images, ranks.world_size()),
            self._new_student,
        )

    def _new_student(self) -> Network:
        """A second student for methods that train two.

        Raises:
            SpecError: it would start from the same published weights, and stay equal.
        """
        run = self.run
        if run.recipe.init != "random":
            raise SpecError(
                f"{run.method}: a second student would start from the weights of init {run.recipe.init!r} too and stay "
                "equal; set init to random"
            )
        return networks.build(run.student, len(self.task.classes))

    def update_progress(self) -> None:
        """Tell the method how far the training is (`Method.epoch` and `step`)."""
        self.method.set_progress(self.steps, self.task.steps_per_epoch)

    @property
    def active(self) -> bool:
        """Whether the run has not ended early."""
        return self.status is None

    @property
    def uses_frozen_teacher(self) -> bool:
        """Whether the method reads the outputs of the cohort's frozen teacher."""
        return self.method.needs_teacher and self.method.teacher_mode == "frozen"

    @property
    def evaluated_network(self) -> Network:
        """The network that is evaluated and saved: the student, or the running mean of its weights; with its head."""
        return self._with_head if self.averaged is None else cast(Network, self.averaged.module)

    def update_mean(self) -> None:
        """Move the running mean of the weights, if there is one, towards those after a step."""
        if self.averaged is not None:
            self.averaged.update_parameters(self._with_head)

    @property
    def _with_head(self) -> Network:
        head = self.method.student_head()
        return self.network if head is None else NetworkWithHead(self.network, head)

    @cached_property
    def optimizer(self) -> Optimizers:
        """Of the student, its online teachers and its method; the method must be prepared, or resumed, before."""
        return build_optimizer(self.run.recipe, [self.network, *self._online_networks], self.method)

    @cached_property
    def gradient_mean(self) -> GradientMean:
        """Of the gradients of all processes that train the student together."""
        return GradientMean(trained_parameters(self.optimizer), [self.network, *self._online_networks, self.method])

    def synchronize_batchnorm(self) -> None:
        """Let BatchNorm count the images of all processes, if the recipe asks for it.

        Raises:
            SpecError: a layer cannot.
        """
        if self.run.recipe.sync_batchnorm and ranks.world_size() > 1:
            for module in (self.network, *self._online_networks, self.method):
                synchronize(module)

    @cached_property
    def clip_groups(self) -> list[list[nn.Parameter]]:
        """The trained parameters in groups whose gradients are clipped separately.

        The first is the student with the method's modules; one more for each teacher, for the modules on its side, and
        for what an optimizer of the method trains.
        """
        sides = [*enumerate(self._online_networks, 1), *enumerate(self.method.teacher_side_modules(), 1)]
        side_of = {id(parameter): side for side, module in sides for parameter in module.parameters()}
        groups: list[list[nn.Parameter]] = [[] for _ in range(1 + len(sides))]
        for group in self.optimizer.recipe.param_groups:
            for parameter in group["params"]:
                groups[side_of.get(id(parameter), 0)].append(parameter)
        groups += [group["params"] for optimizer in self.optimizer.method for group in optimizer.param_groups]
        return [group for group in groups if group]

    @property
    def _online_networks(self) -> list[nn.Module]:
        return [] if self.online_teachers is None else list(self.online_teachers.networks)

    def record_losses(self, losses: dict[str, Tensor]) -> None:
        """Count a step and keep its loss terms, without waiting for the device."""
        self._unread.append((list(losses), torch.stack([value.detach().float() for value in losses.values()])))
        self.steps += 1

    def record_seconds(self, timer: StepTimer) -> None:
        """Keep the seconds of a step's parts where the timer was exact."""
        if timer.exact:
            self.epoch_stats.student.append(timer.seconds["student"])
            if self.uses_frozen_teacher and "teacher" in timer.seconds:
                self.epoch_stats.teacher.append(timer.seconds["teacher"])

    def record_waits(self, waited: Waited) -> None:
        """Keep the seconds that the last steps have waited for data."""
        self.epoch_stats.data += waited.waits
        self.epoch_stats.total += waited.total

    def read_losses(self) -> dict[str, float]:
        """Mean of every loss term over the steps since the last call, and all processes; waits for the device.

        Raises:
            UnequalGradientsError: the processes cannot train together.
            DivergedError: a value is not finite; names the term and the step.
        """
        names = self._unread[0][0]
        self.gradient_mean.check()
        values = ranks.mean(torch.stack([values for _, values in self._unread])).cpu().double()
        first = self.steps - len(self._unread)
        self._unread.clear()
        if not values.isfinite().all():
            step, term = (~values.isfinite()).nonzero()[0].tolist()
            raise DivergedError(f"loss term {names[term]} is {values[step, term].item()} at step {first + step + 1}")
        for name, value in zip(names, values.sum(0).tolist(), strict=True):
            self.epoch_stats.losses[name] = self.epoch_stats.losses.get(name, 0.0) + value
        self.epoch_stats.steps += len(values)
        return dict(zip(names, values.mean(0).tolist(), strict=True))

    def finish_epoch(self, metrics: dict[str, float]) -> None:
        """Add the current epoch to the history; `read_losses` must have been called after its last step.

        The time waiting for data is a mean, because waits come in bursts; that of teacher and student is a median,
        which depends less on what else the machine does.
        """
        rate = learning_rate(self.run.recipe, self.steps - 1, self.task.steps_per_epoch)
        stats, self.epoch_stats = self.epoch_stats, EpochStats()
        losses = {name: value / stats.steps for name, value in stats.losses.items()}
        self.epoch += 1
        self.history.append(Epoch(epoch=self.epoch, steps=self.steps, lr=rate, losses=losses, metrics=metrics))
        self.seconds["data"].append(statistics.mean(stats.data))
        if stats.total:  # checkpoints of earlier versions have none, and no such list
            self.seconds.setdefault("total", []).append(stats.total / len(stats.data))
        if stats.student:
            self.seconds["student"].append(statistics.median(stats.student))
        if stats.teacher:
            self.seconds["teacher"].append(statistics.median(stats.teacher))

    @property
    def data_wait(self) -> float | None:
        """Share of the cohort's time in training steps in which the device waited for data; None where not measured."""
        totals = self.seconds.get("total")
        if not totals:
            return None
        return min(1.0, sum(self.seconds["data"][-len(totals) :]) / sum(totals))

    def check_finite(self) -> None:
        """Check all weights and buffers; after the last update there is no further loss that would show NaN.

        Raises:
            DivergedError: a value of the student, the method or an online teacher is not finite; names it.
        """
        parts = {"student": self.evaluated_network, "method": self.method, "teachers": self.online_teachers}
        for part, module in parts.items():
            for name, value in module.state_dict().items() if module is not None else ():
                if not value.isfinite().all():
                    raise DivergedError(f"{name} of the {part} is not finite after the last step")


def hold_bias_at_zero(network: Network) -> None:
    """Train a classifier without the bias of its last layer, which stays in the state dict as zeros."""
    bias = getattr(network.info.classifier, "bias", None)
    if isinstance(bias, nn.Parameter):
        nn.init.zeros_(bias).requires_grad_(False)
