"""MAG beyond the golden values, and what it shares with MAS."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench import methods
from kdbench.methods._granularity import Granularity
from kdbench.methods.base import Batch, Method, MethodError, Outputs, Setting

Make = Callable[..., Any]
CODES = {"abstract_dim": 6, "detailed_dim": 10}


@pytest.fixture
def data(sample: Make) -> Any:
    return sample("classification")


class Classifier(nn.Module):
    """A teacher of one linear layer that keeps what it was shown."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.pool = nn.Linear(12, setting.teacher.pooled_dim or 0)
        self.head = nn.Linear(setting.teacher.pooled_dim or 0, setting.num_classes)
        self.shown: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Outputs:
        self.shown.append(inputs)
        pooled = self.pool(inputs.flatten(1)).relu()
        return Outputs(self.head(pooled), (), pooled=pooled)


def classifier(setting: Setting) -> Classifier:
    torch.manual_seed(2)
    return Classifier(setting).requires_grad_(False)


def batches(classes: int, images: int = 10) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(4)
    while True:
        inputs = torch.randn(images, 3, 2, 2, generator=generator)
        yield Batch(inputs, torch.arange(images) % classes, torch.arange(images))


def prepared(name: str, setting: Setting, build_seed: int = 0, **options: Any) -> Granularity:
    torch.manual_seed(build_seed)
    method = methods.build(name, setting, **{**CODES, "module_epochs": 2, **options})
    torch.manual_seed(1)
    method.prepare(classifier(setting), batches(setting.num_classes))
    assert isinstance(method, Granularity)
    return method


def shared(method: Method) -> dict[str, Tensor]:
    return {key: value for key, value in method.state_dict().items() if key.startswith(type(method).prepared_prefixes)}


def test_weights_of_the_scripts_around_kd_and_around_a_feature_method(data: Any) -> None:
    around = {name: methods.build(name, data.setting) for name in ("mag+kd", "mag+sp", "mas+kd", "mas+sp")}
    assert [(method.task_weight, method.soft_weight) for method in around.values()] == [(0.2, 0.8), (1.0, 1.0)] * 2
    given = methods.build("mag+kd", data.setting, ce_weight=0.3, soft_weight=2.0)
    assert (given.task_weight, given.soft_weight) == (0.3, 2.0)


def test_a_feature_base_adds_its_own_weighted_term_and_kd_adds_none(data: Any) -> None:
    base = methods.build("sp", data.setting, weight=7.0)(data.batch, data.student, data.teacher)
    terms = methods.build("mag+sp", data.setting, weight=7.0)(data.batch, data.student, data.teacher)
    assert terms["sp"] == base["sp"]
    around_kd = methods.build("mag+kd", data.setting)(data.batch, data.student, data.teacher)
    assert set(around_kd) == {"soft_target", "abstract_code", "detailed_code"} == set(terms) - {"sp"}


@pytest.mark.parametrize("option", ["weight", "task_weight", "temperature"])
def test_options_of_kd_that_would_have_no_effect_are_refused(option: str, data: Any) -> None:
    with pytest.raises(MethodError, match=f"mag.kd: {option} of kd has no effect .* use soft_weight, ce_weight"):
        methods.build("mag+kd", data.setting, **{option: 0.5})


def test_the_students_codes_follow_the_student_and_never_the_teacher(data: Any) -> None:
    method = methods.build("mag+kd", data.setting)
    terms = method(data.batch, data.student, data.teacher)
    (terms["abstract_code"] + terms["detailed_code"]).backward()
    assert data.student.pooled.grad.any()
    assert data.student.logits.grad is None
    assert data.teacher.pooled.grad is None
    assert all(parameter.grad is not None for parameter in method.student_modules.parameters())
    assert all(parameter.grad is None for parameter in method.teacher_modules.parameters())


def test_the_student_has_no_decoders(data: Any) -> None:
    method = methods.build("mag+kd", data.setting)
    assert {name for name, _ in method.student_modules.named_children()} == {"abstract_encoder", "detailed_encoder"}
    assert len(list(method.teacher_modules.children())) == 4


def test_extra_parameters_are_as_many_as_published(data: Any) -> None:
    for dim, expected in ((64, 62_728), (128, 141_320), (256, 347_656)):
        info = replace(data.setting.teacher, pooled_dim=dim)
        method = methods.build("mag+kd", replace(data.setting, teacher=info, num_classes=100))
        assert sum(parameter.numel() for parameter in method.teacher_modules.parameters()) == expected


@pytest.mark.parametrize("name", ["mag+sp", "mas+kd", "mas+crd"])
def test_prepare_is_shared_by_mag_and_mas_and_by_every_base(name: str, data: Any) -> None:
    one, other = prepared("mag+kd", data.setting), prepared(name, data.setting, build_seed=9)
    assert one.preparation_key == other.preparation_key
    assert shared(one).keys() == shared(other).keys() != set()
    assert all(torch.equal(value, shared(other)[key]) for key, value in shared(one).items())


def test_prepare_depends_on_what_its_name_says_and_on_nothing_else(data: Any) -> None:
    plain = prepared("mag+kd", data.setting)
    reaching = {
        "abstract_dim": 7,
        "detailed_dim": 11,
        "abstract_temperature": 3.0,
        "detailed_temperature": 9.0,
        "module_epochs": 3,
        "module_lr": 0.02,
    }
    for option, value in reaching.items():
        changed = prepared("mag+kd", data.setting, **{option: value})
        assert changed.preparation_key != plain.preparation_key
        assert any(not torch.equal(v, shared(changed)[key]) for key, v in shared(plain).items() if v.dim() == 2)
    for option in ("ce_weight", "soft_weight", "soft_temperature"):
        changed = prepared("mag+kd", data.setting, **{option: 3.0})
        assert changed.preparation_key == plain.preparation_key
        assert all(torch.equal(value, shared(changed)[key]) for key, value in shared(plain).items())


def test_prepare_teaches_the_decoders_and_leaves_the_teacher_and_the_gradients_alone(data: Any) -> None:
    method = methods.build("mag+kd", data.setting, **CODES, module_epochs=40)
    teacher, batch = classifier(data.setting), next(batches(data.setting.num_classes))
    teacher.head.weight *= 10  # a teacher that is sure, and right
    batch = replace(batch, targets=teacher(batch.inputs).logits.argmax(dim=1))
    kept = {key: value.clone() for key, value in teacher.state_dict().items()}
    before = method.module_losses(batch, teacher(batch.inputs))
    method.prepare(teacher, itertools.repeat(batch))
    after = method.module_losses(batch, teacher(batch.inputs))
    assert all(after[branch] < 0.5 * before[branch] for branch in ("abstract", "detailed"))
    assert all(torch.equal(value, kept[key]) for key, value in teacher.state_dict().items())
    assert all(
        parameter.grad is None and not parameter.requires_grad for parameter in method.teacher_modules.parameters()
    )


@pytest.mark.parametrize(("steps_per_epoch", "samples", "steps"), [(7, 1, 28), (None, 20, 8), (None, 21, 12)])
def test_prepare_lasts_its_epochs_and_lowers_the_rate_at_half_and_three_quarters(
    steps_per_epoch: int | None, samples: int, steps: int, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    milestones: list[list[int]] = []
    schedule = torch.optim.lr_scheduler.MultiStepLR

    def recorded(optimizer: Any, at: list[int], gamma: float) -> Any:
        milestones.append(at)
        return schedule(optimizer, at, gamma)

    monkeypatch.setattr(torch.optim.lr_scheduler, "MultiStepLR", recorded)
    setting = replace(data.setting, steps_per_epoch=steps_per_epoch, num_samples=samples)
    method = methods.build("mag+kd", setting, **CODES, module_epochs=4)
    teacher = classifier(setting)
    method.prepare(teacher, batches(setting.num_classes))
    expected = [batch.inputs for batch in itertools.islice(batches(setting.num_classes), steps)]
    assert milestones == [[steps // 2, steps * 3 // 4]]
    assert len(teacher.shown) == steps
    assert all(torch.equal(seen, inputs) for seen, inputs in zip(teacher.shown, expected, strict=True))


def test_prepare_shows_the_teacher_its_own_inputs(data: Any) -> None:
    batch = next(batches(data.setting.num_classes))
    batch = replace(batch, full_inputs=batch.inputs + 1)
    teacher = classifier(data.setting)
    methods.build("mag+kd", data.setting, **CODES, module_epochs=1).prepare(teacher, itertools.repeat(batch))
    assert torch.equal(teacher.shown[0], batch.inputs + 1)


@pytest.mark.parametrize("option", ["soft_temperature", "abstract_temperature", "detailed_temperature"])
def test_a_temperature_of_nought_is_refused(option: str, data: Any) -> None:
    with pytest.raises(MethodError, match=f"{option} is 0.0; it must be positive"):
        methods.build("mag+kd", data.setting, **{option: 0.0})


@pytest.mark.parametrize("option", ["module_epochs", "abstract_dim", "detailed_dim"])
def test_a_size_of_nought_is_refused(option: str, data: Any) -> None:
    with pytest.raises(MethodError, match=f"{option} is 0; "):
        methods.build("mag+kd", data.setting, **{option: 0})


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_network_without_a_pooled_feature_is_refused(side: str, data: Any) -> None:
    info = replace(getattr(data.setting, side), pooled_dim=None)
    with pytest.raises(MethodError, match="mag.kd: a network has no pooled feature"):
        methods.build("mag+kd", replace(data.setting, **{side: info}))
