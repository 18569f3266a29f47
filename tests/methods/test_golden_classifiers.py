"""Classification methods with their modules, against values recorded from the authors' own code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdbench import methods
from kdbench.methods.base import Method, NetworkInfo, Outputs
from kdbench.methods.ofd import margins
from tests.helpers.golden import assert_golden, batch, fill, leaf, load, setting


def info(maps: list[Tensor], stem: bool = True, **more: object) -> NetworkInfo:
    """Shapes of stages, with a stem of one channel before them; strides are relative to maps of 32 pixels."""
    channels = tuple(x.shape[1] for x in maps)
    strides = tuple(32 // x.shape[2] for x in maps)
    return NetworkInfo((1, *channels) if stem else channels, (1, *strides) if stem else strides, **more)  # type: ignore[arg-type]


def with_stem(maps: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.zeros(len(maps[0]), 1, 1, 1), *maps


def shown(features: tuple[Tensor, ...] = (), **more: object) -> Outputs:
    return Outputs(torch.zeros(8, 10), features, **more)  # type: ignore[arg-type]


def total(method: Method, images: int, student: Outputs, teacher: Outputs, initial: bool = False) -> Tensor:
    return torch.stack(list(method(batch(images), student, teacher, initial=initial).values())).sum()


@pytest.mark.parametrize("ratio", ["equal", "down", "up"])
def test_fitnet(ratio: str) -> None:
    arrays = load(f"fitnet_{ratio}")
    student, teacher = leaf(arrays["student_f"]), arrays["teacher_f"]
    infos = [NetworkInfo((1, 1, x.shape[1]), (1, 1, 32 // x.shape[2])) for x in (student, teacher)]
    method = methods.build("fitnet", setting(*infos))
    fill(method, regressor__0__weight=arrays["conv_weight"], regressor__0__bias=arrays["conv_bias"])
    parameters = dict(method.named_parameters())
    found = total(method, 8, shown((student,) * 3), shown((teacher,) * 3))
    gradients = {
        "student_f": (student, arrays["grad_student_f"]),
        "conv_weight": (parameters["regressor.0.weight"], arrays["grad_conv_weight"]),
        "bn_weight": (parameters["regressor.1.weight"], arrays["grad_bn_weight"]),
    }
    assert_golden(found, arrays["loss"], gradients)


def test_vid() -> None:
    arrays = load("vid")
    student, teacher = ([arrays[f"{who}_f{i}"] for i in (1, 2, 3)] for who in ("student", "teacher"))
    student = [leaf(x) for x in student]
    method = methods.build("vid", setting(info(student), info(teacher)))
    layers = {(stage, layer): arrays[f"reg{stage}_{layer}"] for stage in range(3) for layer in (0, 2, 4)}
    fill(method, **{f"predictors__{stage}__mean__{layer}__weight": w for (stage, layer), w in layers.items()})
    scales = {f"log_scale{i}": method.get_parameter(f"predictors.{i}.log_scale") for i in range(3)}
    leaves = {f"student_f{i}": x for i, x in enumerate(student, 1)} | scales
    found = total(method, 8, shown(with_stem(student)), shown(with_stem(teacher)))
    assert_golden(found, arrays["loss"], {name: (x, arrays[f"grad_{name}"]) for name, x in leaves.items()})


def test_cc() -> None:
    arrays = load("cc")
    student = leaf(arrays["student"])
    infos = [NetworkInfo((), pooled_dim=x.shape[1]) for x in (student, arrays["teacher"])]
    method = methods.build("cc", setting(*infos))
    fill(
        method,
        embed_student__weight=arrays["ws"],
        embed_student__bias=arrays["bs"],
        embed_teacher__weight=arrays["wt"],
        embed_teacher__bias=arrays["bt"],
    )
    found = total(method, 8, shown(pooled=student), shown(pooled=arrays["teacher"]))
    weight = method.get_parameter("embed_teacher.weight")
    gradients = {"student": (student, arrays["grad_student"]), "wt": (weight, arrays["grad_wt"])}
    assert_golden(found, arrays["loss"], gradients)


def test_ab_in_the_initial_phase() -> None:
    arrays = load("ab_initial")
    student, teacher = ([arrays[f"{who}_p{i}"] for i in (1, 2, 3)] for who in ("student", "teacher"))
    student = [leaf(x) for x in student]
    method = methods.build("ab", setting(info(student), info(teacher)))
    for stage in (1, 2):
        conv = {"weight": arrays[f"c{stage}_w"], "bias": arrays[f"c{stage}_b"]}
        fill(method, **{f"connectors__{stage}__0__{name}": array for name, array in conv.items()})
    outputs = [shown(extra={"pre_activations": tuple(maps)}) for maps in (student, teacher)]
    found = total(method, 8, *outputs, initial=True)
    assert_golden(found, arrays["loss"], {f"p{i}": (x, arrays[f"grad_student_p{i}"]) for i, x in enumerate(student, 1)})


def test_fsp_in_the_initial_phase() -> None:
    arrays = load("fsp_initial")
    student, teacher = ([arrays[f"{who}_f{i}"] for i in range(4)] for who in ("student", "teacher"))
    student = [leaf(x) for x in student]
    method = methods.build("fsp", setting(info(student, stem=False), info(teacher, stem=False)))
    found = total(method, 8, shown(tuple(student)), shown(tuple(teacher)), initial=True)
    assert_golden(found, arrays["loss"], {f"f{i}": (x, arrays[f"grad_student_f{i}"]) for i, x in enumerate(student)})


@pytest.mark.parametrize("size", ["eq", "small"])
def test_ft(size: str) -> None:
    arrays = load(f"ft_{size}")
    student, teacher = leaf(arrays["student_f"]), arrays["teacher_f"]
    method = methods.build("ft", setting(info([student]), info([teacher])))
    for module, prefix in (("paraphraser", "para"), ("translator", "trans")):
        for i, parameter in enumerate(method.get_submodule(module).parameters()):
            parameter.data.copy_(arrays[f"{prefix}{i}"])
    found = total(method, 8, shown((student,)), shown((teacher,)))
    assert_golden(found, arrays["loss"], {"student_f": (student, arrays["grad_student_f"])})


@pytest.mark.parametrize("teacher_size", ["same", "poolteacher"])
def test_ofd(teacher_size: str) -> None:
    arrays = load(f"ofd_{teacher_size}")
    student, teacher = ([arrays[f"{who}_p{i}"] for i in (1, 2)] for who in ("student", "teacher"))
    student = [leaf(x) for x in student]
    norms = [nn.BatchNorm2d(x.shape[1]) for x in teacher]
    for i, norm in enumerate(norms):
        fill(norm, weight=arrays[f"bn{i}_w"], bias=arrays[f"bn{i}_b"])
        torch.testing.assert_close(margins(norm), arrays[f"margin{i}"].flatten(), rtol=1e-4, atol=1e-6)
    method = methods.build("ofd", setting(info(student), info(teacher, norms=tuple(norms))))
    fill(method, **{f"connectors__{i}__0__weight": arrays[f"c{i}"] for i in range(2)})
    outputs = [shown(extra={"pre_activations": tuple(maps)}) for maps in (student, teacher)]
    found = total(method, 8, *outputs)
    assert_golden(found, arrays["loss"], {f"p{i}": (x, arrays[f"grad_student_p{i}"]) for i, x in enumerate(student, 1)})


def test_afd() -> None:
    arrays = load("afd")
    student, teacher = ([arrays[f"{who}{i}"] for i in range(3)] for who in ("s", "t"))
    student = [leaf(x) for x in student]
    method = methods.build("afd", setting(info(student), info(teacher)))
    for stage, layer in ((stage, layer) for stage in range(3) for layer in (0, 2)):
        recorded = {name: arrays[f"att{stage}_attention.{layer}.{name}"] for name in ("weight", "bias")}
        fill(method, **{f"attention__{stage}__{layer}__{name}": array for name, array in recorded.items()})
    found = total(method, 8, shown(with_stem(student)), shown(with_stem(teacher)))
    assert_golden(found, arrays["loss"], {f"s{i}": (x, arrays[f"grad_s{i}"]) for i, x in enumerate(student)})


def test_dml() -> None:
    arrays = load("dml")
    student, teacher = leaf(arrays["zs"]), leaf(arrays["zt"])
    method = methods.build("dml", setting(NetworkInfo(()), NetworkInfo(())))
    terms = method(batch(6, arrays["y"]), Outputs(student, ()), Outputs(teacher, ()))
    found = torch.stack(list(terms.values())).sum()  # without the student's cross-entropy, which is no term of a method
    assert_golden(found, arrays["loss"], {"s": (student, arrays["grad_s"]), "t": (teacher, arrays["grad_t"])})


def test_reviewkd() -> None:
    arrays = load("reviewkd_full")
    student, teacher = ([arrays[f"{who}{i}"] for i in (1, 2, 3)] for who in ("s", "t"))
    student, pooled = [leaf(x) for x in student], leaf(arrays["sp"])
    infos = [info(maps, pooled_dim=last.shape[1]) for maps, last in ((student, pooled), (teacher, arrays["tp"]))]
    method = methods.build("reviewkd", setting(*infos), warmup_epochs=0)
    parts = {"conv1": "enter", "conv2": "leave", "att_conv": "attention"}
    for level, part in ((level, part) for level in range(4) for part in parts):
        prefix = f"abf{level}_{part}."
        recorded = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
        if recorded:
            module = method.get_submodule(f"fusions.{level}.{parts[part]}")
            fill(module, **{name.replace(".", "__"): array for name, array in recorded.items()})
    found = total(
        method,
        6,
        shown(with_stem(student), pooled=pooled),
        shown(pooled=arrays["tp"], extra={"pre_activations": tuple(teacher)}),
    )
    leaves = {f"s{i}": x for i, x in enumerate(student, 1)} | {"sp": pooled}
    assert_golden(found, arrays["loss"], {name: (x, arrays[f"grad_{name}"]) for name, x in leaves.items()})
