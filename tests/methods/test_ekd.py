"""EKD: who learns from what, its modules and its ablations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import methods
from kdbench.methods._guided import GuidedModules
from kdbench.methods.base import MethodError, NetworkInfo, Outputs
from kdbench.methods.ekd import unit_distance
from kdbench.methods.functional import kl_divergence

Make = Callable[..., Any]
TEACHERS = {"teacher_task", "teacher_guided"}
STUDENTS = {"soft_target", "guided_soft", "guided_task", "guided_feature"}


@pytest.fixture
def data(sample: Make) -> Any:
    return sample("classification")


def seeded(data: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return methods.build("ekd", data.setting, **options)


def beside(data: Any, count: int) -> tuple[Outputs, ...]:
    """What further teachers show: random, each with gradients of its own."""
    generator = torch.Generator().manual_seed(11)

    def other(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).requires_grad_()

    return tuple(data.teacher._map(other) for _ in range(count))


def terms(data: Any, **options: Any) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = seeded(data, **options)(data.batch, data.student, data.teacher)
    return losses


def leaves(outputs: Outputs, modules: Any) -> list[Tensor]:
    return [outputs.logits, *outputs.features, outputs.pooled, *modules.parameters()]  # type: ignore[list-item]


@pytest.mark.parametrize("name", sorted(TEACHERS | STUDENTS))
def test_each_side_learns_from_its_own_losses_alone(name: str, data: Any) -> None:
    method = seeded(data)
    term = method(data.batch, data.student, data.teacher)[name]
    sides = [leaves(data.teacher, method.teacher_modules[0]), leaves(data.student, method.student_modules)]
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
    (features, logits), (others, soft) = method.student_modules(data.student), method.teacher_modules[0](data.teacher)
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


def test_of_several_teachers_each_has_its_own_losses_and_the_student_the_mean_over_them(data: Any) -> None:
    method = seeded(data, teachers=3, alpha=0.3, beta=2.0)
    every = (data.teacher, *beside(data, 2))
    found = method(data.batch, data.student, replace(data.teacher, others=every[1:]))
    assert found.keys() == TEACHERS | STUDENTS
    labels, (features, logits) = data.batch.targets, method.student_modules(data.student)
    shown = [modules(teacher) for modules, teacher in zip(method.teacher_modules, every, strict=True)]
    expected = {
        "teacher_task": sum(F.cross_entropy(teacher.logits, labels) for teacher in every),
        "teacher_guided": sum(F.cross_entropy(z, labels) for _, soft in shown for z in soft),
        "soft_target": 0.3 * sum(kl_divergence(data.student.logits, t.logits, 4.0) for t in every) / 3,
        "guided_soft": 0.3 * sum(kl_divergence(logits[i], soft[i], 4.0) for _, soft in shown for i in (0, 1)) / 3,
        "guided_task": 0.7 * (F.cross_entropy(logits[0], labels) + F.cross_entropy(logits[1], labels)),
        "guided_feature": 2.0
        * sum(2 - 2 * F.cosine_similarity(features[i], g[i]).mean() for g, _ in shown for i in (0, 1, 2))
        / 3,
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_several_teachers_and_their_modules_learn_from_their_own_labels_alone(data: Any) -> None:
    method = seeded(data, teachers=2)
    every = (data.teacher, *beside(data, 1))
    found = method(data.batch, data.student, replace(data.teacher, others=every[1:]))
    sides = [leaves(teacher, modules) for teacher, modules in zip(every, method.teacher_modules, strict=True)]
    for name in STUDENTS:
        gradients = torch.autograd.grad(found[name], sides[0] + sides[1], retain_graph=True, allow_unused=True)
        assert set(gradients) == {None}, name
    own = torch.autograd.grad(sum(found[name] for name in TEACHERS), sides[0] + sides[1], allow_unused=True)
    alone = [
        torch.autograd.grad(
            F.cross_entropy(teacher.logits, data.batch.targets)
            + sum(F.cross_entropy(z, data.batch.targets) for z in modules(teacher)[1]),
            side,
            allow_unused=True,
        )
        for teacher, modules, side in zip(every, method.teacher_modules, sides, strict=True)
    ]
    for gradient, expected in zip(own, (*alone[0], *alone[1]), strict=True):
        assert (gradient is None) == (expected is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, expected)


def test_the_mean_over_teachers_pulls_as_their_mean_probabilities_and_mean_unit_features_do() -> None:
    torch.manual_seed(0)
    student = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    teachers = [torch.randn(4, 5, dtype=torch.float64) for _ in range(3)]

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, student)[0]

    each = torch.stack([kl_divergence(student, teacher, 4.0) for teacher in teachers]).mean()
    probabilities = torch.stack([F.softmax(teacher / 4, dim=1) for teacher in teachers]).mean(dim=0)
    torch.testing.assert_close(gradient(each), gradient(kl_divergence(student, 4 * probabilities.log(), 4.0)))
    each = torch.stack([unit_distance(student, teacher) for teacher in teachers]).mean()
    mean = torch.stack([F.normalize(teacher, dim=1) for teacher in teachers]).mean(dim=0)
    torch.testing.assert_close(
        gradient(each), gradient((F.normalize(student, dim=1) - mean).square().sum(dim=1).mean())
    )


def test_the_outputs_of_every_teacher_are_wanted(data: Any) -> None:
    for teachers, others in ((2, 0), (1, 1), (3, 1)):
        teacher = replace(data.teacher, others=beside(data, others))
        with pytest.raises(MethodError, match=f"ekd: teachers is {teachers} and there are outputs of {1 + others}"):
            seeded(data, teachers=teachers)(data.batch, data.student, teacher)


def test_before_the_first_snapshot_the_student_learns_from_the_labels_alone(data: Any) -> None:
    method = seeded(data, guided=False, snapshots=2, alpha=0.3)
    found = method(data.batch, data.student, data.teacher)
    assert list(found) == ["soft_target", "early_task", "teacher_task"]
    task = F.cross_entropy(data.student.logits, data.batch.targets)
    assert found["soft_target"].item() == 0
    total = method.task_weight * task + found["soft_target"] + found["early_task"]
    assert total.item() == pytest.approx(task.item())
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, data.student.logits, retain_graph=True)[0] for loss in (total, task))
    )


def test_after_it_the_student_follows_the_snapshot_and_the_teacher_goes_on_from_its_labels(data: Any) -> None:
    (copy,) = beside(data, 1)
    method = seeded(data, guided=False, snapshots=2, alpha=0.3)
    found = method(data.batch, data.student, replace(data.teacher, others=(copy,)))
    assert found["soft_target"].item() == pytest.approx(
        0.3 * kl_divergence(data.student.logits, copy.logits, 4.0).item()
    )
    assert found["early_task"].item() == 0
    assert found["teacher_task"].item() == F.cross_entropy(data.teacher.logits, data.batch.targets).item()
    torch.stack(list(found.values())).sum().backward()
    assert data.student.logits.grad.any() and data.teacher.logits.grad.any()
    assert copy.logits.grad is None


def test_half_precision_of_further_teachers_is_raised_too(data: Any) -> None:
    def half(outputs: Outputs) -> Outputs:
        return outputs._map(lambda tensor: tensor.detach().bfloat16())

    others = tuple(half(one) for one in beside(data, 1))
    method = seeded(data, teachers=2)
    low = method(data.batch, half(data.student), replace(half(data.teacher), others=others))
    full = tuple(one.float() for one in others)
    high = method(data.batch, half(data.student).float(), replace(half(data.teacher).float(), others=full))
    assert low == high and all(term.dtype == torch.float32 for term in low.values())


def test_how_many_teachers_and_snapshots_its_options_want() -> None:
    cls = methods.method_class("ekd")

    def wanted(options: dict[str, Any]) -> tuple[int, int]:
        return cls.online_teachers(options), cls.teacher_snapshots(options)

    assert wanted(methods.resolve("ekd", {})) == (1, 0)
    assert wanted(methods.resolve("ekd", {"teachers": 3, "snapshots": 2})) == (3, 2)
    assert wanted({"pretrained": False}) == (1, 0)  # as rows from before the options say
    other = methods.method_class("dml")
    assert (other.online_teachers({}), other.teacher_snapshots({})) == (1, 0)


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
        return [module.trunk for module in (seeded(data).student_modules, seeded(data).teacher_modules[0])]

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teachers": 0}, "teachers is 0; it must be 1, 2 or 3"),
        ({"teachers": 4}, "teachers is 4; it must be 1, 2 or 3"),
        ({"snapshots": -1}, "snapshots is -1; it must not be negative"),
        ({"teachers": 2, "pretrained": True}, "teachers is 2 and pretrained is true.*; set pretrained to false"),
        ({"snapshots": 4, "pretrained": True}, "snapshots is 4 and pretrained is true.*; set pretrained to false"),
        ({"snapshots": 4}, "snapshots is 4 and guided is true.*; set guided to false or snapshots to 0"),
        ({"teachers": 2, "snapshots": 4}, "teachers is 2 and snapshots is 4; set teachers to 1 or snapshots to 0"),
    ],
)
def test_forms_that_contradict_each_other_are_refused(options: dict[str, Any], message: str, data: Any) -> None:
    with pytest.raises(MethodError, match=f"^ekd: {message}$"):
        seeded(data, **options)


def test_networks_that_modules_cannot_be_built_for_are_refused(data: Any) -> None:
    student = data.setting.student
    cases = {
        "the student has 2 stages and the teacher 3": replace(student, channels=(4, 4, 8), strides=(1, 1, 2)),
        "the student has no pooled_dim": replace(student, pooled_dim=None),
        "or not all strides": replace(student, strides=()),
    }
    for message, info in cases.items():
        setting = replace(data.setting, student=info)
        with pytest.raises(MethodError, match=message):
            methods.build("ekd", setting)
        assert methods.build("ekd", setting, guided=False).teacher_mode == "online"
