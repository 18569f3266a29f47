"""Base of MAG and MAS: the self-analyzing modules, the training of the teacher's modules, and the code losses."""

from __future__ import annotations

import inspect
import itertools
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting, Teacher
from .functional import kl_divergence, logits_pair, pooled_pair

MOMENTUM, WEIGHT_DECAY, GAMMA = 0.9, 5e-4, 0.1
"""SGD of `prepare`; the learning rate is multiplied by GAMMA at half and at three quarters of the steps."""


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear(inputs, hidden) - ReLU - Linear(hidden, outputs)."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def code_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """temperature^2 * KL(softmax(teacher / temperature) || softmax(student / temperature)), mean over rows of [N, D].

    In the released form, with probabilities as targets; at temperature 8 the form with log-probabilities differs by
    3e-5 of the value in float32.
    """
    log_p = F.log_softmax(student / temperature, dim=1)
    q = F.softmax(teacher.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p, q, reduction="batchmean")


class SelfAnalysis(nn.Module):
    """Encoders of a pooled feature [N, D] into an abstract and a detailed code; with `num_classes` also their decoders.

    Source: wrapper.py of shaoeric/multi-granularity-distillation. The student's decoders would not be used, so
    its `num_classes` is None.
    """

    def __init__(self, dim: int, abstract_dim: int, detailed_dim: int, num_classes: int | None = None) -> None:
        super().__init__()
        self.abstract_encoder = perceptron(dim, dim, abstract_dim)
        self.detailed_encoder = perceptron(dim, dim, detailed_dim)
        if num_classes is not None:
            self.abstract_decoder = perceptron(abstract_dim, dim, num_classes)
            self.detailed_decoder = perceptron(detailed_dim, dim, num_classes)

    def codes(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[N, D] -> the abstract code [N, abstract_dim] and the detailed one [N, detailed_dim]."""
        return self.abstract_encoder(pooled), self.detailed_encoder(pooled)

    def decode(self, abstract: Tensor, detailed: Tensor) -> tuple[Tensor, Tensor]:
        """Two codes -> two times [N, K] logits."""
        return self.abstract_decoder(abstract), self.detailed_decoder(detailed)

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()


class Granularity(Method):
    """MAG and MAS without their soft target; `methods/mag.py` describes losses and options."""

    tasks = frozenset({"classification"})
    min_classes = 2
    wraps = ("kd", "fitnet", "at", "sp", "vid", "rkd", "crd", "afd")
    prepared_prefixes = ("teacher_modules.",)

    def __init__(
        self,
        setting: Setting,
        base: Method,
        ce_weight: float | None = None,
        soft_weight: float | None = None,
        soft_temperature: float = 4.0,
        abstract_temperature: float = 2.0,
        detailed_temperature: float = 8.0,
        abstract_dim: int = 64,
        detailed_dim: int = 256,
        module_epochs: int = 60,
        module_lr: float = 0.01,
    ) -> None:
        super().__init__(setting)
        self.name = f"{type(self).name}+{base.name}"  # type: ignore[misc]
        self.base = base
        self.around_kd = base.name == "kd"
        if self.around_kd:
            self._refuse_unused_options()
        self.task_weight = (0.2 if self.around_kd else base.task_weight) if ce_weight is None else ce_weight
        self.soft_weight = (0.8 if self.around_kd else 1.0) if soft_weight is None else soft_weight
        self.soft_temperature = soft_temperature
        self.abstract_temperature, self.detailed_temperature = abstract_temperature, detailed_temperature
        self.module_epochs, self.module_lr = module_epochs, module_lr
        for option in ("soft_temperature", "abstract_temperature", "detailed_temperature", "module_epochs"):
            if getattr(self, option) <= 0:
                raise MethodError(f"{self.name}: {option} is {getattr(self, option)}; it must be positive")
        for option, size in (("abstract_dim", abstract_dim), ("detailed_dim", detailed_dim)):
            if size < 2:
                raise MethodError(f"{self.name}: {option} is {size}; a softmax over the code needs at least 2 units")
        dims = setting.student.pooled_dim, setting.teacher.pooled_dim
        if dims[0] is None or dims[1] is None:
            raise MethodError(f"{self.name}: a network has no pooled feature; choose classifiers that pool")
        self.code_dims = (abstract_dim, detailed_dim)
        self.student_modules = SelfAnalysis(dims[0], *self.code_dims)
        self.teacher_modules = SelfAnalysis(dims[1], *self.code_dims, setting.num_classes)
        self.teacher_modules.requires_grad_(False)

    @property
    def preparation_key(self) -> str:
        temperatures = f"{self.abstract_temperature} {self.detailed_temperature}"
        return (
            f"granularity codes {self.code_dims[0]} {self.code_dims[1]} temperatures {temperatures} "
            f"epochs {self.module_epochs} lr {self.module_lr}"
        )

    def _refuse_unused_options(self) -> None:
        for option, parameter in inspect.signature(type(self.base)).parameters.items():
            if parameter.default is not parameter.empty and getattr(self.base, option) != parameter.default:
                raise MethodError(
                    f"{self.name}: {option} of kd has no effect here, where the soft target replaces kd; use "
                    "soft_weight, ce_weight and soft_temperature"
                )

    @abstractmethod
    def soft_target(self, logits: Tensor, abstract: Tensor, detailed: Tensor) -> Tensor:
        """The target of the student's logits, [N, K], from the teacher's logits and codes."""

    def prepare(self, teacher: Teacher, batches: Iterable[Batch]) -> None:
        """Train the teacher's modules on its pooled features and keep the last state.

        SGD of momentum 0.9 and weight decay 5e-4, module_lr times 0.1 at half and at three quarters of module_epochs
        epochs (30 and 45 of 60). The released code has two passes per epoch, one for each code; these share no
        parameters, so one pass with the summed loss differs only in batch order.
        """
        self.teacher_modules.reset_parameters()
        self.teacher_modules.requires_grad_(True)
        steps, source = self._module_steps(iter(batches))
        optimizer = torch.optim.SGD(
            self.teacher_modules.parameters(), self.module_lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps // 2, steps * 3 // 4], GAMMA)
        for batch in itertools.islice(source, steps):
            with torch.no_grad():
                outputs = teacher(batch.teacher_inputs).float()
            optimizer.zero_grad()
            torch.stack(list(self.module_losses(batch, outputs).values())).sum().backward()
            optimizer.step()
            schedule.step()
        optimizer.zero_grad()
        self.teacher_modules.requires_grad_(False)
        super().prepare(teacher, batches)

    def _module_steps(self, batches: Iterator[Batch]) -> tuple[int, Iterator[Batch]]:
        """Steps of `prepare` and all `batches`; if steps_per_epoch is unknown, the first batch gives the batch size."""
        steps = self.setting.steps_per_epoch
        if steps is None:
            first = next(batches)
            steps, batches = math.ceil(self.setting.num_samples / len(first.targets)), itertools.chain([first], batches)
        return self.module_epochs * steps, batches

    def module_losses(self, batch: Batch, teacher: Outputs) -> dict[str, Tensor]:
        """For each decoder, the KL to the teacher's logits plus the cross-entropy."""
        assert isinstance(teacher.logits, Tensor) and teacher.pooled is not None
        decoded = self.teacher_modules.decode(*self.teacher_modules.codes(teacher.pooled.detach()))
        temperatures = (self.abstract_temperature, self.detailed_temperature)
        losses = [
            kl_divergence(logits, teacher.logits, temperature) + F.cross_entropy(logits, batch.targets)
            for logits, temperature in zip(decoded, temperatures, strict=True)
        ]
        return dict(zip(("abstract", "detailed"), losses, strict=True))

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """`soft_target`, `abstract_code`, `detailed_code`, and the base's terms (none around kd)."""
        logits, teacher_logits = logits_pair(self.name, student, teacher)
        pooled, teacher_pooled = pooled_pair(self.name, student, teacher)
        codes = self.student_modules.codes(pooled)
        with torch.no_grad():
            teacher_codes = self.teacher_modules.codes(teacher_pooled)
            soft = self.soft_target(teacher_logits, *teacher_codes)
        terms = {
            "soft_target": self.soft_weight * kl_divergence(logits, soft, self.soft_temperature),
            "abstract_code": code_divergence(codes[0], teacher_codes[0], self.abstract_temperature),
            "detailed_code": code_divergence(codes[1], teacher_codes[1], self.detailed_temperature),
        }
        return terms if self.around_kd else terms | self.base(batch, student, teacher)
