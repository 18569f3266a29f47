"""What every method promises for the outputs of any network of its tasks: one check a promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import IGNORE_INDEX, Method, MethodError, Outputs, StudentHead

from .on_cuda import CudaStep, cuda_step, listed
from .samples import TASKS, WIDTHS, Sample, make_sample

EQUAL_WIDTHS = (6, 6)


@dataclass(frozen=True)
class Case:
    """A method and a kind of network.

    Attributes:
        name: of the method.
        kind: in TASKS.
        options: of the method; all others have their defaults.
    """

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def widths(self) -> tuple[int, int]:
        """Channels of student and teacher: the teacher is wider, or as wide if the method refuses that.

        Raises:
            MethodError: the method refuses both.
        """
        try:
            methods.build(self.name, make_sample(self.kind).setting, **self.options)
        except MethodError as error:
            try:
                methods.build(self.name, make_sample(self.kind, EQUAL_WIDTHS).setting, **self.options)
            except MethodError:
                raise error from None
            return EQUAL_WIDTHS
        return WIDTHS

    def sample(self) -> Sample:
        """A new sample with the views that the method asks for; always the same values."""
        sample, asked = make_sample(self.kind, self.widths), methods.views(self.name)
        for part in (sample.batch, sample.student, sample.teacher):
            part.views = {name: view for name, view in part.views.items() if name in asked}  # type: ignore[assignment]
        return sample

    def build(self, seed: int = 0, **options: Any) -> Method:
        """The method with initial weights of a seed."""
        torch.manual_seed(seed)
        return methods.build(self.name, self.sample().setting, **{**self.options, **options})


def losses(method: Method, sample: Sample) -> dict[str, Tensor]:
    """The loss terms of a sample, with the random draws of a fixed seed."""
    torch.manual_seed(1)
    return method(sample.batch, sample.student, sample.teacher, initial=method.initial_epochs > 0)


def returns_loss_terms(case: Case) -> Iterator[str]:
    """The losses are float32 scalars by name, finite on random outputs."""
    method = case.build()
    terms: Any = losses(method, case.sample())
    if not isinstance(terms, dict):
        yield f"`forward` returns {_kind(terms)}; return a dict of losses by name, such as {{self.name: loss}}"
        return
    if method.needs_teacher and not terms:
        yield "needs a teacher and returns no loss"
    for key, term in terms.items():
        if not isinstance(term, Tensor):
            yield f"loss {key!r} is {_kind(term)}; it must be a tensor, or it has no gradient"
        elif term.shape != ():
            yield f"loss {key!r} must be a scalar, and has shape {tuple(term.shape)}; take its mean or sum"
        elif term.dtype != torch.float32:
            yield f"loss {key!r} must be float32, and is {_dtype(term)}"
        elif not term.isfinite():
            yield f"loss {key!r} is {term.item()} on random outputs"


def gradients_reach_what_is_trained(case: Case) -> Iterator[str]:
    """Gradients reach the student, an online teacher and the method's own parameters, and no frozen teacher."""
    method, sample = case.build(), case.sample()
    terms = losses(method, sample)
    if not terms:
        return
    total = torch.stack(list(terms.values())).sum()
    if not total.requires_grad:
        yield "the losses have no gradient for the student's outputs; compute them from these, without `detach`"
        return
    total.backward()
    yield from _reached("student's outputs", sample.student)
    if method.teacher_mode == "online":
        yield from _reached("online teacher's outputs", sample.teacher)
    elif any(tensor.grad is not None for tensor in tensors(sample.teacher)):
        yield "the losses have gradients for the outputs of a frozen teacher; detach them"
    for key, parameter in method.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            yield f"parameter {key} gets no gradient; use it in a loss, or set requires_grad=False"
        elif not parameter.requires_grad and parameter.grad is not None:
            yield f"parameter {key} gets a gradient that it does not require"


def ignored_pixels_are_harmless(case: Case) -> Iterator[str]:
    """In segmentation, losses and gradients are finite where all pixels of a batch are ignored."""
    if case.kind != "segmentation":
        return
    method, sample = case.build(), case.sample()
    sample.batch.targets[:] = IGNORE_INDEX
    terms = losses(method, sample)
    for key, term in terms.items():
        if not term.isfinite():
            yield f"loss {key!r} is {term.item()} if all pixels are ignored (label {IGNORE_INDEX})"
    total = torch.stack(list(terms.values())).sum() if terms else None
    if total is not None and total.requires_grad:
        total.backward()
    if not all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in tensors(sample.student)):
        yield f"gradients are not finite if all pixels are ignored (label {IGNORE_INDEX})"


def mixed_images_are_read(case: Case) -> Iterator[str]:
    """A classifier's targets may be shares of classes, but for a method that says it needs one class per image."""
    if case.kind != "classification" or methods.one_class_per_image(case.name):
        return
    method, sample = case.build(), case.sample()
    shares = F.one_hot(sample.batch.targets, sample.setting.num_classes).float()
    for batch in (sample.batch, *sample.batch.views.values()):
        batch.targets = 0.7 * shares + 0.3 * shares.flip(0)
    try:
        losses(method, sample)
    except Exception as error:  # noqa: BLE001 - a method written for classes fails in any way
        yield f"fails on shares of classes [N, K], the targets of mixed images: {error}; set one_class_per_image = True"


def outputs_stay_as_they_are(case: Case) -> Iterator[str]:
    """No output of either network is changed in place: other methods of a cohort read them too."""
    sample, untouched = case.sample(), case.sample()
    losses(case.build(), sample)
    for side in ("student", "teacher"):
        pairs = zip(tensors(getattr(sample, side)), tensors(getattr(untouched, side)), strict=True)
        if not all(torch.equal(after, before) for after, before in pairs):
            yield f"changes the outputs of the {side} in place; copy what is changed"


def one_seed_gives_one_result(case: Case) -> Iterator[str]:
    """Random draws follow torch's seed."""
    sample = case.sample()
    if losses(case.build(), sample) != losses(case.build(), sample):
        yield "two runs with the same seed have different losses; draw random numbers from torch, not NumPy or random"


def half_precision_is_raised(case: Case) -> Iterator[str]:
    """Under mixed precision the losses are those of the same outputs in float32."""
    sample = case.sample()
    student, teacher = (cast(each, torch.bfloat16) for each in (sample.student, sample.teacher))
    half = replace(sample, student=student, teacher=teacher)
    full = replace(sample, student=cast(student, torch.float32), teacher=cast(teacher, torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = losses(case.build(), half)
    if wrong := [key for key, term in terms.items() if term.dtype != torch.float32]:
        yield f"losses {wrong} must be float32 under mixed precision (autocast)"
    elif terms != losses(case.build(), full):
        yield "losses under mixed precision (autocast) differ from those in float32; leave autocast off in the method"


def steps_follow_each_other(case: Case) -> Iterator[str]:
    """A second step works after the first one's backward pass."""
    method = case.build()
    for _ in range(2):
        terms = losses(method, case.sample())
        total = torch.stack(list(terms.values())).sum() if terms else None
        if total is None or not total.requires_grad:
            return
        try:
            total.backward()
        except RuntimeError as error:
            yield f"the second step fails ({error}); detach what is kept from step to step"
            return


def state_is_saved(case: Case) -> Iterator[str]:
    """A state dict holds everything that the losses depend on, so that a killed run can be resumed."""
    sample, method, restored = case.sample(), case.build(seed=0), case.build(seed=5)
    losses(method, sample)
    restored.load_state_dict(method.state_dict(), strict=True)
    if losses(restored, sample) != losses(method, sample):
        yield "losses differ after `load_state_dict`; keep what they depend on in parameters or buffers"
    if (head := method.student_head()) is not None:
        yield from _unsaved(head, case, sample.student)


def defaults_are_the_options(case: Case) -> Iterator[str]:
    """Options that are written out give what their defaults give."""
    sample, explicit = case.sample(), methods.resolve(case.name, dict(case.options))
    if losses(case.build(**explicit), sample) != losses(case.build(), sample):
        yield f"losses with the options {explicit} differ from those with the same values as defaults"


def works_on_cuda(case: Case) -> Iterator[str]:
    """On a GPU, no operation gets tensors of the CPU beside those of the device."""
    yield from listed(step_on_cuda(case).fails)


def step_on_cuda(case: Case) -> CudaStep:
    """What a step of the method does on a GPU."""
    return cuda_step(case.build, case.sample(), losses)


CHECKS: tuple[Callable[[Case], Iterator[str]], ...] = (
    gradients_reach_what_is_trained,
    ignored_pixels_are_harmless,
    mixed_images_are_read,
    outputs_stay_as_they_are,
    one_seed_gives_one_result,
    half_precision_is_raised,
    steps_follow_each_other,
    state_is_saved,
    defaults_are_the_options,
    works_on_cuda,
)
"""The checks of a method whose losses are what `returns_loss_terms` wants."""


def kinds(name: str) -> list[str]:
    """The kinds of network that every term of a method supports."""
    tasks = frozenset.intersection(*(methods.method_class(term).tasks for term in name.split("+")))
    return [kind for kind, task in TASKS.items() if task in tasks]


def tensors(outputs: Outputs) -> list[Tensor]:
    """Every tensor of the outputs but the proposals, which are boxes and no predictions."""
    extra = [value for key, value in outputs.extra.items() if key != "proposals"]
    pooled = () if outputs.pooled is None else outputs.pooled
    values = [outputs.logits, outputs.features, pooled, outputs.boxes, *extra]
    here = [tensor for value in values for tensor in (value if isinstance(value, tuple) else (value,))]
    return here + [tensor for view in outputs.views.values() for tensor in tensors(view)]


def cast(outputs: Outputs, dtype: torch.dtype) -> Outputs:
    """The outputs in another type, without gradients."""

    def to(value: Any) -> Any:
        return tuple(map(to, value)) if isinstance(value, tuple) else value.detach().to(dtype)

    return replace(
        outputs,
        logits=to(outputs.logits),
        features=to(outputs.features),
        pooled=None if outputs.pooled is None else to(outputs.pooled),
        boxes=to(outputs.boxes),
        extra={key: to(value) for key, value in outputs.extra.items()},
        views={name: cast(view, dtype) for name, view in outputs.views.items()},
    )


def _unsaved(head: Any, case: Case, student: Outputs) -> Iterator[str]:
    """Why the head of a student could not be read from the student's file."""
    if missing := [name for name in ("method", "arguments", "classifier") if not hasattr(head, name)]:
        yield f"its head {type(head).__name__} has no {', '.join(f'`{name}`' for name in missing)}; see StudentHead"
        return
    if head.method not in case.name.split("+") or methods.method_class(head.method).head_class is not type(head):
        yield (
            f"its head is found by the method {head.method!r}, whose `head_class` is another; write the name of the "
            f"method there, and head_class = {type(head).__name__} in the method"
        )
        return
    try:
        again = type(head)(**head.arguments)
        again.load_state_dict(head.state_dict())
    except (TypeError, RuntimeError) as error:
        yield f"its head cannot be made again from `arguments` {head.arguments}: {error}"
        return
    if not torch.equal(*(_logits(each, student) for each in (head, again))):
        yield "its head, made again from `arguments` and its state, has other logits; keep what they depend on in both"


def _logits(head: StudentHead, student: Outputs) -> Tensor:
    logits = head.eval()(cast(student, torch.float32)).logits
    assert isinstance(logits, Tensor)
    return logits


def _reached(whose: str, outputs: Outputs) -> Iterator[str]:
    gradients = [tensor.grad for tensor in tensors(outputs) if tensor.grad is not None]
    if not any(gradient.any() for gradient in gradients):
        yield f"the losses have no gradient for the {whose}"
    if not all(gradient.isfinite().all() for gradient in gradients):
        yield f"a gradient of the {whose} is not finite"


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
