"""AD beyond the golden values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import methods
from kdbench.methods import _paths
from kdbench.methods.ad import CONFIGS, STAGE_PATHS
from kdbench.methods.base import MethodError

Make = Callable[..., Any]


@pytest.fixture
def data(sample: Make) -> Any:
    return sample("classification")


def seeded(data: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return methods.build("ad", data.setting, **options)


def terms(data: Any, **options: Any) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = seeded(data, **options)(data.batch, data.student, data.teacher)
    return losses


def test_there_are_the_twelve_released_configurations() -> None:
    assert len(CONFIGS) == 12


@pytest.mark.parametrize("config", CONFIGS)
def test_every_configuration_gives_finite_losses_and_trains_all_that_it_has(config: str, data: Any) -> None:
    method = seeded(data, config=config)
    losses = method(data.batch, data.student, data.teacher)
    paths, aggregation = CONFIGS[config]
    assert list(losses) == [path.split(":")[0] for path in paths.split("+")] + ["alphas"] * (aggregation != "fixed")
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.isfinite() and total > 0
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters())
    assert (method.alphas is None) == (aggregation == "fixed")


def test_learned_weights_begin_as_the_fixed_ones(data: Any) -> None:
    fixed, learned = terms(data, config="equal"), terms(data, config="adaptive_at_st")
    assert learned.pop("alphas") == 0
    assert learned == fixed
    layerwise = terms(data, config="adaptive_all_layer_wise")
    adaptive = terms(data, config="adaptive_all")
    assert {key: term.item() for key, term in layerwise.items()} == pytest.approx(
        {key: term.item() for key, term in adaptive.items()}
    )


def test_weight_is_a_factor_on_everything(data: Any) -> None:
    def losses(weight: float) -> list[float]:
        method = seeded(data, config="adaptive_all", weight=weight)
        method.alphas.data.copy_(torch.tensor([0.1, -0.2, 0.3, 0.4]))
        return [term.item() for term in method(data.batch, data.student, data.teacher).values()]

    assert losses(3.0) == pytest.approx([3 * loss for loss in losses(1.0)])


def test_stage_losses_are_summed_over_the_stages_without_the_stem(data: Any) -> None:
    pairs = list(zip(data.student.features[1:], data.teacher.features[1:], strict=True))
    expected = 1000 * sum(_paths.attention(own, other).item() for own, other in pairs)
    assert terms(data, config="at")["attention"].item() == pytest.approx(expected)


@pytest.mark.parametrize("safe", [False, True])
def test_a_learned_weight_settles_where_its_path_counts_one(safe: bool, data: Any) -> None:
    method = seeded(data, paths="logits:5+soft_target:0.1", aggregation="adaptive", safe=safe)
    losses = method.path_losses(data.student, data.teacher)
    groups = method.parameter_groups() or [{"params": [method.alphas]}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for _ in range(1000):
        optimizer.zero_grad()
        torch.stack(
            list(method.aggregate({key: loss.detach() for key, loss in losses.items()}).values())
        ).sum().backward()
        optimizer.step()
    expected = [math.log(5 * losses["logits"].item()), math.log(0.1 * losses["soft_target"].item())]
    assert method.alphas.tolist() == pytest.approx(expected, abs=2e-3)
    settled = {key: 1 / loss.item() for key, loss in losses.items()}
    assert method.learned() == pytest.approx(settled, rel=1e-2)


def test_layerwise_weights_belong_to_one_stage_each(data: Any) -> None:
    method = seeded(data, config="adaptive_all_layer_wise")
    assert method.alpha_names() == [
        *(f"nst:{i}" for i in range(3)),
        "logits",
        *(f"attention:{i}" for i in range(3)),
        "soft_target",
    ]
    method.alphas.data[5] = 1.5
    losses = method.path_losses(data.student, data.teacher)["attention"]
    found = method(data.batch, data.student, data.teacher)["attention"]
    assert found.item() == pytest.approx((losses[0] + math.exp(-1.5) * losses[1] + losses[2]).item())
    assert list(method.learned()) == method.alpha_names()
    assert method.learned()["attention:1"] == pytest.approx(math.exp(-1.5))
    assert method.learned()["attention:0"] == 1


def test_safe_gives_the_learned_weights_a_group_of_their_own(data: Any) -> None:
    assert seeded(data).parameter_groups() == []
    method = seeded(data, safe=True)
    (group,) = method.parameter_groups()
    assert group.pop("params") == [method.alphas]
    assert group == {"lr": 0.01, "weight_decay": 0.0, "momentum": 0.0}


def test_paths_and_aggregation_override_the_configuration(data: Any) -> None:
    method = seeded(data, config="hand_tuned", paths="logits + attention:20+soft_target", aggregation="adaptive")
    assert method.paths == {"logits": 1.0, "attention": 20.0, "soft_target": 0.1}
    assert method.alphas.tolist() == [0.0, 0.0, 0.0]
    assert method.learned() == method.paths  # all a_k are 0
    assert seeded(data, config="hand_tuned", paths="logits").paths == {"logits": 1.0}
    assert seeded(data, config="hand_tuned", paths="logits").learned() == {}  # its weights are given, not learned


@pytest.mark.parametrize("path", STAGE_PATHS)
@pytest.mark.parametrize("channels", [6, 40])
def test_no_path_has_a_gradient_to_the_teacher_or_a_loss_at_agreement(path: str, channels: int) -> None:
    feature = torch.randn(2, channels, 4, 4, requires_grad=True)
    other = torch.randn(2, channels, 4, 4, requires_grad=True)
    STAGE_PATHS[path](feature, other).backward()
    assert feature.grad is not None and feature.grad.any() and other.grad is None
    assert STAGE_PATHS[path](other, other) == 0


@pytest.mark.parametrize(("noise", "rel"), [(1.0, 1e-4), (1e-3, 1e-3)])
def test_nst_without_grams_is_nst_with_grams(noise: float, rel: float) -> None:
    torch.manual_seed(0)
    student = torch.randn(3, 40, 4, 4, requires_grad=True)
    teacher = student.detach() + noise * torch.randn(3, 40, 4, 4)
    a, b = (F.normalize(feature.double().flatten(2), dim=2) for feature in (student, teacher))
    grams = (a @ a.mT - b @ b.mT).square().mean()
    loss = _paths.nst(student, teacher)
    assert loss.item() == pytest.approx(grams.item(), rel=rel)
    (found,), (expected,) = torch.autograd.grad(loss, student), torch.autograd.grad(grams, student)
    assert (found - expected).abs().max() <= rel * expected.abs().max()


def test_adapters_stand_only_where_a_path_reads_them(data: Any) -> None:
    stages = {config: sorted(seeded(data, config=config).adapters) for config in CONFIGS}
    assert stages["hand_tuned"] == stages["logits"] == []
    assert stages["nst"] == stages["srrl_fm_equal"] == ["0", "1", "2"]
    assert sorted(seeded(data, paths="softmax_regression").adapters) == ["2"]
    conv, norm = seeded(data, config="nst").adapters["1"]
    assert (conv.weight.shape, conv.bias, type(norm)) == ((12, 8, 1, 1), None, nn.BatchNorm2d)


def test_softmax_regression_goes_through_a_frozen_classifier_that_is_the_teachers(data: Any) -> None:
    method = seeded(data, paths="softmax_regression:1", aggregation="fixed")
    classifier = data.setting.teacher.classifier.requires_grad_()
    found = method(data.batch, data.student, data.teacher)["softmax_regression"]
    pooled = method.adapters["2"](data.student.features[3]).mean(dim=(2, 3))
    assert found.item() == pytest.approx(F.mse_loss(classifier(pooled), data.teacher.logits).item())
    found.backward()
    assert data.student.features[3].grad.any()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert classifier.weight.grad is None
    assert all(key.startswith("adapters.") for key in method.state_dict())
    assert all(name.startswith("adapters.") for name, _ in method.named_parameters())
    assert method.double().classifier_weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": "adaptive_at"}, "config of ad: 'adaptive_at'. Did you mean 'adaptive_at_st'"),
        ({"aggregation": "adaptiv"}, "aggregation of ad: 'adaptiv'. Did you mean 'adaptive'"),
        ({"paths": "atention"}, "path of ad: 'atention'. Did you mean 'attention'"),
        ({"paths": ""}, "path of ad: ''. Available: soft_target"),
        ({"paths": "nst+nst:2"}, "paths contains nst twice"),
        ({"paths": "nst:"}, "the weight of nst in paths is ''; write a positive number"),
        ({"paths": "nst:-1"}, "the weight of nst in paths is '-1'"),
        ({"paths": "nst:inf"}, "the weight of nst in paths is 'inf'"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be positive"),
        ({"config": "equal", "safe": True}, "set safe to false"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, Any], message: str, data: Any) -> None:
    with pytest.raises(MethodError, match=message):
        seeded(data, **options)


def test_networks_that_a_path_cannot_compare_are_refused_when_it_is_built(data: Any) -> None:
    setting = data.setting
    fewer = replace(setting, student=replace(setting.student, channels=(4, 4, 8), strides=(1, 1, 2)))
    with pytest.raises(MethodError, match="the student has 2 stages and the teacher 3"):
        methods.build("ad", fewer)
    smaller = replace(setting, student=replace(setting.student, strides=(1, 2, 4, 8)))
    with pytest.raises(MethodError, match=r"strides are \(2, 4, 8\) in the student and \(1, 2, 4\)"):
        methods.build("ad", smaller)
    assert methods.build("ad", smaller, config="srrl_fm_equal").stages == 3
    for classifier in (None, nn.Linear(5, 5)):
        other = replace(setting, teacher=replace(setting.teacher, classifier=classifier))
        with pytest.raises(MethodError, match="softmax_regression needs a teacher whose classifier is linear"):
            methods.build("ad", other, config="srrl_fm_equal")


SEGMENTED = [config for config, (paths, _) in CONFIGS.items() if "softmax_regression" not in paths]


@pytest.mark.parametrize("config", SEGMENTED)
def test_segmentation_has_the_configurations_without_a_classifier(config: str, sample: Make) -> None:
    data = sample("segmentation")
    method = seeded(data, config=config)
    losses = method(data.batch, data.student, data.teacher)
    paths, aggregation = CONFIGS[config]
    assert list(losses) == [path.split(":")[0] for path in paths.split("+")] + ["alphas"] * (aggregation != "fixed")
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters())
    reads = {path.split(":")[0] for path in paths.split("+")} & {"attention", "nst"}
    assert [bool(feature.grad is not None) for feature in data.student.features] == [False] + [bool(reads)] * 5


def test_paths_of_segmentation_are_means_over_pixels_and_stages_sum(sample: Make) -> None:
    data = sample("segmentation")
    method = seeded(data, paths="soft_target:1+logits:1+attention:1+nst:1+feature_map:1", aggregation="fixed").eval()
    found = {path: term.item() for path, term in method(data.batch, data.student, data.teacher).items()}
    p, q = ((shown.logits.double() / 4).softmax(dim=1) for shown in (data.student, data.teacher))
    assert found["soft_target"] == pytest.approx(16 * (q * (q / p).log()).sum(dim=1).mean().item(), rel=1e-5)
    difference = data.student.logits - data.teacher.logits
    assert found["logits"] == pytest.approx(difference.square().mean().item(), rel=1e-5)
    pairs = list(zip(data.student.features[1:], data.teacher.features[1:], strict=True))
    adapted = [(method.adapters[str(i)](own), other) for i, (own, other) in enumerate(pairs)]
    for path, shown in (("attention", pairs), ("nst", adapted), ("feature_map", adapted)):
        expected = sum(STAGE_PATHS[path](own, other).item() for own, other in shown)
        assert found[path] == pytest.approx(expected, rel=1e-5)


def test_larger_maps_do_not_make_larger_losses(sample: Make) -> None:
    data = sample("segmentation")

    def enlarged(outputs: Any) -> Any:
        def twice(feature: Tensor) -> Tensor:
            return feature.repeat_interleave(2, 2).repeat_interleave(2, 3)

        return replace(outputs, logits=twice(outputs.logits), features=tuple(map(twice, outputs.features)))

    method = seeded(data, paths="soft_target:1+logits:1+attention:1+nst:1+feature_map:1", aggregation="fixed").eval()
    small = method(data.batch, data.student, data.teacher)
    large = method(data.batch, enlarged(data.student), enlarged(data.teacher))
    assert all(large[path] <= small[path] * (1 + 1e-5) for path in small)


@pytest.mark.parametrize("options", [{"config": "srrl_fm_equal"}, {"paths": "softmax_regression"}])
def test_segmenters_have_no_classifier_to_regress_on(options: dict[str, Any], sample: Make) -> None:
    with pytest.raises(MethodError, match="needs a classifier of pooled features, and a segmenter has none"):
        seeded(sample("segmentation"), **options)
