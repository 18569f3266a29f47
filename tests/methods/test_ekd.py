"""EKD: who learns from what, its modules and its ablations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import methods
from methods._guided import GuidedModules
from methods.base import MethodError, NetworkInfo, Outputs
from methods.ekd import unit_distance
from methods.functional import kl_divergence

Make = Callable[..., Any]
TEACHERS = {"teacher_task", "teacher_guided"}
STUDENTS = {"soft_target", "guided_soft", "guided_task", "guided_feature"}


@pytest.fixture
def data(sample: Make) -> Any:
    return sample("classification")


def seeded(data: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return methods.build("ekd", data.setting, **options)


def terms(data: Any, **options: Any) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = seeded(data, **options)(data.batch, data.student, data.teacher)
    return losses


def leaves(outputs: Outputs, modules: Any) -> list[Tensor]:
    return [outputs.logits, *outputs.features, outputs.pooled, *modules.parameters()]  # type: ignore[list-item]


@pytest.mark.parametrize("name", sorted(TEACHERS | STUDENTS))
def test_each_side_learns_from_its_own_losses_alone(name: str, data: Any) -> None:
    method = seeded(data)
    term = method(data.batch, data.student, data.teacher)[name]
    sides = [leaves(data.teacher, method.teacher_modules), leaves(data.student, method.student_modules)]
    own, other = sides if name in TEACHERS else reversed(sides)
    assert any(
        gradient is not None for gradient in torch.autograd.grad(term, own, retain_graph=True, allow_unused=True)
    )
    for gradient in torch.autograd.grad(term, other, allow_unused=True):
        assert gradient is None


def test_every_stage_and_module_learns(data: Any) -> None:
    method = seeded(data)
    torch.stack(list(method(data.batch, data.student, data.teacher).values())).sum().backward()
    for outputs in (data.student, data.teacher):
        # The stem and the last stage reach the losses inside a network only.
        assert [feature.grad is not None for feature in outputs.features] == [False, True, True, False]
    assert data.student.pooled.grad.any()
    assert data.teacher.pooled.grad is None
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_the_losses_are_those_of_the_formula(data: Any) -> None:
    method = seeded(data, alpha=0.3, beta=2.0, temperature=3.0)
    found = method(data.batch, data.student, data.teacher)
    assert found.keys() == TEACHERS | STUDENTS
    (features, logits), (others, soft) = method.student_modules(data.student), method.teacher_modules(data.teacher)
    labels = data.batch.targets
    expected = {
        "teacher_task": F.cross_entropy(data.teacher.logits, labels),
        "teacher_guided": F.cross_entropy(soft[0], labels) + F.cross_entropy(soft[1], labels),
        "soft_target": 0.3 * kl_divergence(data.student.logits, data.teacher.logits, 3.0),
        "guided_soft": 0.3 * (kl_divergence(logits[0], soft[0], 3.0) + kl_divergence(logits[1], soft[1], 3.0)),
        "guided_task": 0.7 * (F.cross_entropy(logits[0], labels) + F.cross_entropy(logits[1], labels)),
        "guided_feature": 2.0
        * sum(2 - 2 * F.cosine_similarity(s, t).mean() for s, t in zip(features, others, strict=True)),
    }
    values = {key: value.item() for key, value in expected.items()}
    assert {key: term.item() for key, term in found.items()} == pytest.approx(values, rel=1e-4)
    assert method.task_weight == pytest.approx(0.7)


def test_feature_distance_does_not_see_scale_and_lies_between_0_and_4() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    assert unit_distance(3 * student, teacher) == pytest.approx(unit_distance(student, teacher).item(), rel=1e-5)
    assert unit_distance(student, 2 * student).item() == pytest.approx(0, abs=1e-6)
    assert unit_distance(student, -student).item() == pytest.approx(4)


def test_the_teacher_is_online_unless_it_is_pretrained(data: Any) -> None:
    for pretrained, mode in ((False, "online"), (True, "frozen")):
        options = methods.resolve("ekd", {"pretrained": pretrained})
        assert methods.teacher_mode("ekd", options) == mode == seeded(data, pretrained=pretrained).teacher_mode


def test_under_a_pretrained_teacher_its_modules_still_learn(data: Any) -> None:
    method = seeded(data, pretrained=True)
    losses = method(data.batch, data.student, data.teacher)
    assert losses.keys() == (TEACHERS | STUDENTS) - {"teacher_task"}
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in method.teacher_modules.parameters())
    assert all(feature.grad is None for feature in (*data.teacher.features, data.teacher.logits, data.teacher.pooled))


def test_without_guided_modules_it_is_one_way_online_distillation(data: Any) -> None:
    method = seeded(data, guided=False)
    assert list(method.parameters()) == []
    full = terms(data)
    assert terms(data, guided=False) == {name: full[name] for name in ("soft_target", "teacher_task")}
    assert terms(data, guided=False, pretrained=True) == {"soft_target": full["soft_target"]}


def test_ablations_of_the_guided_losses(data: Any) -> None:
    full = terms(data)
    assert terms(data, guided_task=False) == {name: term for name, term in full.items() if name != "guided_task"}
    assert terms(data, beta=0.0) == full | {"guided_feature": torch.tensor(0.0)}


def test_guided_modules_shrink_each_stage_to_the_size_of_the_last_by_the_next_stages_widths() -> None:
    info = NetworkInfo((4, 8, 16, 32, 64), (1, 1, 2, 4, 4), pooled_dim=64)
    modules = GuidedModules(info, dim=24, num_classes=5)
    seen = [[(b[0].in_channels, b[6].out_channels) for b in module.shrink] for module in modules.stages]  # type: ignore[union-attr]
    assert seen == [[(8, 16), (16, 32)], [(16, 32)], []]
    sizes = (8, 8, 4, 2, 2)
    features = tuple(torch.randn(2, c, size, size) for c, size in zip(info.channels, sizes, strict=True))
    maps = [module.shrink(feature).shape[2:] for module, feature in zip(modules.stages, features[1:], strict=False)]  # type: ignore[operator]
    assert maps == [(2, 2)] * 3
    guided, logits = modules(Outputs(torch.zeros(2, 5), features, pooled=torch.randn(2, 64)))
    assert [tuple(feature.shape) for feature in guided] == [(2, 24)] * 4
    assert [tuple(z.shape) for z in logits] == [(2, 5)] * 3


def test_a_stage_that_shrinks_twice_keeps_the_last_width() -> None:
    modules = GuidedModules(NetworkInfo((4, 8, 16), (1, 1, 4), pooled_dim=16), dim=16, num_classes=5)
    assert [(b[0].in_channels, b[6].out_channels) for b in modules.stages[0].shrink] == [(8, 16), (16, 16)]  # type: ignore[union-attr]


def test_the_pooled_feature_gets_a_layer_only_where_its_length_differs(sample: Make) -> None:
    def trunk(data: Any) -> list[Any]:
        return [module.trunk for module in (seeded(data).student_modules, seeded(data).teacher_modules)]

    wide, same = trunk(sample("classification")), trunk(sample("classification", widths=(6, 6)))
    assert isinstance(wide[0], torch.nn.Linear) and (wide[0].in_features, wide[0].out_features) == (16, 24)
    assert all(isinstance(module, torch.nn.Identity) for module in (wide[1], *same))


def test_it_is_marked_as_a_reading_and_cannot_be_summed(data: Any) -> None:
    method = seeded(data)
    assert method.label == "EKD (our reading)" and "our reading" in method.citation
    with pytest.raises(MethodError, match="ekd cannot be part of a sum"):
        methods.build("ekd+mimic", data.setting)


@pytest.mark.parametrize(("option", "value"), [("alpha", 1.5), ("alpha", -0.1), ("beta", -1.0), ("temperature", 0.0)])
def test_senseless_options_are_refused(option: str, value: float, data: Any) -> None:
    with pytest.raises(MethodError, match=f"ekd: {option} is {value}; it"):
        seeded(data, **{option: value})


def test_networks_that_modules_cannot_be_built_for_are_refused(data: Any) -> None:
    student = data.setting.student
    cases = {
        "the student shows 2 stages and the teacher 3": replace(student, channels=(4, 4, 8), strides=(1, 1, 2)),
        "the student names no pooled_dim": replace(student, pooled_dim=None),
        "or not the stride of every feature": replace(student, strides=()),
    }
    for message, info in cases.items():
        setting = replace(data.setting, student=info)
        with pytest.raises(MethodError, match=message):
            methods.build("ekd", setting)
        assert methods.build("ekd", setting, guided=False).teacher_mode == "online"
