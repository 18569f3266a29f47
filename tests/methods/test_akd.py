"""Avatars and uncertainty, around a base that records what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.akd import AKD, FIGURE_EPS
from kdbench.methods.base import Batch, FeatureMethod, MethodError, Outputs, Teacher

BASES = ("cwd", "maskd", "masked_generative")
Make = Callable[..., Any]


class Probe(FeatureMethod):
    """A base that remembers its arguments; its loss is the target's mean square."""

    name = "probe"
    citation = "none"
    tasks = frozenset({"detection"})

    def __init__(self, setting: Any, weight: float = 1.0) -> None:
        super().__init__(setting, weight, align=None)
        self.seen: list[tuple[Tensor, Tensor, int]] = []
        self.prepared: list[object] = []

    def prepare(self, teacher: Teacher, batches: Iterable[Batch]) -> None:
        self.prepared += [teacher, batches]

    def compare(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
        self.seen.append((student, teacher, level))
        return teacher.square().mean()


def probed(data: Any, **options: Any) -> tuple[Probe, Tensor]:
    """The base after one seeded forward, and the loss."""
    probe = Probe(data.setting, weight=options.pop("weight", 1.0))
    method = AKD(data.setting, probe, **options)
    torch.manual_seed(0)
    return probe, method(data.batch, data.student, data.teacher)["akd+probe"]


def run(method: Any, data: Any) -> Tensor:
    torch.manual_seed(1)
    (term,) = method(data.batch, data.student, data.teacher).values()
    return term


@pytest.mark.parametrize("base", BASES)
def test_without_both_switches_it_is_the_base(base: str, dense: Any) -> None:
    method = methods.build(f"akd+{base}", dense.setting, perturb=False, normalise=False)
    assert run(method, dense) == run(method.base, dense)


@pytest.mark.parametrize("base", BASES)
def test_the_four_arms_differ(base: str, dense: Any) -> None:
    arms = [(perturb, normalise) for perturb in (False, True) for normalise in (False, True)]
    losses = set()
    for perturb, normalise in arms:
        torch.manual_seed(0)
        method = methods.build(f"akd+{base}", dense.setting, perturb=perturb, normalise=normalise)
        losses.add(run(method, dense).item())
    assert len(losses) == 4


@pytest.mark.parametrize("base", ["cwd", "masked_generative"])
def test_segmentation_has_the_four_arms_on_the_last_feature(base: str, sample: Make) -> None:
    data, losses = sample("segmentation"), set()
    for perturb, normalise in [(perturb, normalise) for perturb in (False, True) for normalise in (False, True)]:
        torch.manual_seed(0)
        method = methods.build(f"akd+{base}", data.setting, perturb=perturb, normalise=normalise)
        losses.add(run(method, data).item())
        if not perturb and not normalise:
            assert run(method, data) == run(method.base, data)
    assert len(losses) == 4
    run(method, data).backward()
    assert [feature.grad is not None for feature in data.student.features] == [False] * 5 + [True]


@pytest.mark.parametrize("perturb", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
def test_every_arm_keeps_the_logits_of_cwd_as_they_are(perturb: bool, normalise: bool, sample: Make) -> None:
    data = sample("segmentation")
    method = methods.build("akd+cwd", data.setting, logits_weight=3.0, tau=4.0, perturb=perturb, normalise=normalise)
    terms = method(data.batch, data.student, data.teacher)
    assert list(terms) == ["akd+cwd", "cwd_logits"]
    assert terms["cwd_logits"] == method.base(data.batch, data.student, data.teacher)["cwd_logits"]


def test_term_carries_wrapper_and_base(dense: Any) -> None:
    method = methods.build("akd+cwd", dense.setting)
    assert method.name == "akd+cwd"
    assert set(method(dense.batch, dense.student, dense.teacher)) == {"akd+cwd"}
    assert AKD.name == "akd"


def test_an_avatar_drops_elements_and_scales_the_others(sample: Make) -> None:
    data = sample("dense", widths=(6, 6), sizes=((80, 80),))
    probe, _ = probed(data, normalise=False)
    ((_, avatar, _),), teacher = probe.seen, data.teacher.features[0]
    dropped = avatar == 0
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.allclose(avatar[~dropped], teacher[~dropped] / 0.9)
    assert not torch.equal(dropped.all(dim=1), dropped.any(dim=1))  # elements, not whole positions


def test_the_mean_avatar_is_the_teacher(plain: Any) -> None:
    probe, _ = probed(plain, normalise=False, avatars=3000)
    mean = torch.stack([target for _, target, level in probe.seen if level == 0]).mean(dim=0)
    teacher = plain.teacher.features[0]
    # The deviation of an Avatar's element is |T| / 3, so five standard errors of the mean:
    assert ((mean - teacher).abs() <= 5 * teacher.abs() / 3 / 3000**0.5).all()


def test_avatars_are_new_each_forward_even_in_evaluation(plain: Any) -> None:
    probe = Probe(plain.setting)
    method = AKD(plain.setting, probe, normalise=False).eval()
    for _ in range(2):
        method(plain.batch, plain.student, plain.teacher)
    first, second = (target for _, target, level in probe.seen if level == 0)
    assert (first == 0).any()
    assert not torch.equal(first, second)


def test_the_student_is_not_perturbed(plain: Any) -> None:
    probe, _ = probed(plain, normalise=False)
    for (student, _, level), feature in zip(probe.seen, plain.student.features, strict=True):
        assert torch.equal(student, feature), level


def test_normalise_uses_each_sides_own_statistics(plain: Any) -> None:
    probe, _ = probed(plain, perturb=False)
    for student, target, level in probe.seen:
        for feature, own in ((student, plain.student), (target, plain.teacher)):
            raw = own.features[level]
            mean = raw.mean(dim=(0, 2, 3), keepdim=True)
            variance = (raw - mean).square().mean(dim=(0, 2, 3), keepdim=True)
            assert torch.allclose(feature, (raw - mean) / (variance + 1e-5).sqrt(), atol=1e-5)


def test_loss_is_the_weighted_sum_of_levels_of_the_mean_over_avatars(plain: Any) -> None:
    probe, loss = probed(plain, avatars=4, weight=3.0)
    values = [[target.square().mean() for _, target, level in probe.seen if level == wanted] for wanted in (0, 1)]
    assert [len(level) for level in values] == [4, 4]
    assert loss.item() == pytest.approx(3 * sum(sum(level) / 4 for level in values).item(), rel=1e-5)


def test_the_wrapped_method_knows_the_progress_of_the_training(dense: Any) -> None:
    method = methods.build("akd+maskd", dense.setting, avatars=3)
    method.set_progress(5, 2)
    assert (method.base.step, method.base.epoch) == (5, 2.5)


def test_figure_divides_both_sides_by_the_variance_of_the_differences(plain: Any) -> None:
    plain_avatars, _ = probed(plain, normalise=False, avatars=3)
    probe, _ = probed(plain, uncertainty="figure", avatars=3)
    for level, (student, teacher) in enumerate(zip(plain.student.features, plain.teacher.features, strict=True)):
        avatars = [target for _, target, at in plain_avatars.seen if at == level]
        variance = sum((avatar - teacher).square() for avatar in avatars).mean(dim=0) / 3
        seen = [(own, target) for own, target, at in probe.seen if at == level]
        for (own, target), avatar in zip(seen, avatars, strict=True):
            assert torch.allclose(own, student / (variance + FIGURE_EPS))
            assert torch.allclose(target, avatar / (variance + FIGURE_EPS))


def test_cwd_raw_target_leaves_the_target_and_normalises_the_student(plain: Any) -> None:
    probe, _ = probed(plain)
    raw, _ = probed(plain, normalise=False)
    method = methods.build("akd+cwd", plain.setting, align=None, cwd_raw_target=True)
    (student, _, _), (_, target, _) = probe.seen[0], raw.seen[0]
    expected = method.base.compare(student, target, 0)
    (student, _, _), (_, target, _) = probe.seen[1], raw.seen[1]
    expected = expected + method.base.compare(student, target, 1)
    torch.manual_seed(0)
    loss = method(plain.batch, plain.student, plain.teacher)["akd+cwd"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_normalised_maskd_does_not_see_scale_and_shift(plain: Any) -> None:
    method = methods.build("akd+maskd", plain.setting, align=None, drop_rate=0.0)
    moved = Outputs(plain.student.logits, tuple(5 * feature + 2 for feature in plain.teacher.features))
    assert method(plain.batch, moved, plain.teacher)["akd+maskd"].item() < 1e-6
    assert method(plain.batch, plain.student, plain.teacher)["akd+maskd"].item() > 1
    assert method.base(plain.batch, moved, plain.teacher)["maskd"].item() > 1


def test_prepare_is_the_bases(plain: Any) -> None:
    probe = Probe(plain.setting)
    teacher, batches = object(), object()
    AKD(plain.setting, probe).prepare(teacher, batches)  # type: ignore[arg-type]
    assert probe.prepared == [teacher, batches]


def test_normalising_keeps_no_state(dense: Any) -> None:
    assert all(key.startswith("base.") for key in methods.build("akd+cwd", dense.setting).state_dict())


def test_one_image_and_a_1x1_map_is_refused(sample: Make) -> None:
    data = sample("dense", sizes=((3, 3), (1, 1)), images=1)
    with pytest.raises(MethodError, match="level 1 is 1x1 for a single image"):
        run(methods.build("akd+cwd", data.setting), data)
    assert run(methods.build("akd+cwd", data.setting, normalise=False), data).isfinite()
    pair = sample("dense", sizes=((3, 3), (1, 1)), images=2)
    assert run(methods.build("akd+cwd", pair.setting), pair).isfinite()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("akd+maskd", {"cwd_raw_target": True}, "akd.cwd alone"),
        ("akd+cwd", {"uncertainty": "variance"}, "use 'batchnorm' or 'figure'"),
        ("akd+cwd", {"uncertainty": "figure", "perturb": False}, "is 0 without Avatars"),
        ("akd+cwd", {"uncertainty": "figure", "drop_rate": 0.0}, "is 0 without Avatars"),
        ("akd+cwd", {"drop_rate": 1.0}, "drop_rate is 1.0"),
        ("akd+cwd", {"avatars": 0}, "avatars is 0"),
    ],
)
def test_senseless_options_are_refused(name: str, options: dict[str, Any], message: str, dense: Any) -> None:
    with pytest.raises(MethodError, match=message):
        methods.build(name, dense.setting, **options)


def test_covers_the_tasks_of_its_base(sample: Make) -> None:
    setting = sample("classification").setting
    assert methods.build("akd+cwd", setting).tasks == {"classification", "detection", "segmentation"}
    with pytest.raises(MethodError, match="does not support classification"):
        methods.build("akd+maskd", setting)


def test_options_of_wrapper_and_base_stand_side_by_side(dense: Any) -> None:
    assert methods.resolve("akd+cwd", {"tau": 4.0}) == {
        "weight": 1.0,
        "tau": 4.0,
        "align": "conv1x1",
        "logits_weight": 0.0,
        "perturb": True,
        "normalise": True,
        "drop_rate": 0.1,
        "avatars": 1,
        "cwd_raw_target": False,
        "uncertainty": "batchnorm",
        "chunk": None,
    }
    method = methods.build("akd+cwd", dense.setting, tau=4.0, drop_rate=0.2)
    assert (method.base.tau, method.drop_rate) == (4.0, 0.2)


def test_needs_a_base_it_knows() -> None:
    for name in ("akd", "akd+mimic"):
        with pytest.raises(MethodError, match=r"akd\+maskd|^akd wraps cwd, maskd, masked_generative, not mimic$"):
            methods.resolve(name, {})
