"""Methods of detection and segmentation with their modules, against values recorded from the authors' own code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import Method, NetworkInfo, Outputs
from tests.helpers.golden import TOLERANCE, assert_golden, batch, fill, leaf, load, setting


def levels(arrays: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The pyramid levels of student and teacher; the student's are leaves."""
    count = sum(key in arrays for key in (f"s{i}" for i in range(5)))
    return [leaf(arrays[f"s{i}"]) for i in range(count)], [arrays[f"t{i}"] for i in range(count)]


def build(name: str, student: list[Tensor], teacher: list[Tensor], task: str = "detection", **options: Any) -> Method:
    infos = [NetworkInfo(tuple(x.shape[1] for x in maps)) for maps in (student, teacher)]
    return methods.build(name, setting(*infos, task=task, classes=5), **options)


def total(method: Method, student: list[Tensor], teacher: list[Tensor], targets: Tensor | None = None) -> Tensor:
    outputs = [Outputs(torch.zeros(3, 5), tuple(maps)) for maps in (student, teacher)]
    return torch.stack(list(method(batch(3, targets), *outputs).values())).sum()


def of_levels(student: list[Tensor], arrays: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    return {f"s{i}": (x, arrays[f"grad_s{i}"]) for i, x in enumerate(student)}


def give(monkeypatch: pytest.MonkeyPatch, function: str, values: list[Tensor]) -> None:
    """Replace a drawing function of torch by these values, in order."""
    left = iter(values)
    monkeypatch.setattr(torch, function, lambda *size, **options: next(left))


def drop(monkeypatch: pytest.MonkeyPatch, factors: list[Tensor]) -> None:
    """Let dropout multiply with these factors, in order."""
    left = iter(factors)

    def dropout(x: Tensor, p: float, training: bool) -> Tensor:
        assert (p, training) == (0.1, True)
        return x * next(left)

    monkeypatch.setattr(torch.nn.functional, "dropout", dropout)


def set_tokens(method: Method, module: str, arrays: dict[str, Tensor], token: str, prob: str) -> None:
    """The tokens and heads of every level, from keys that are made of the level's number."""
    for level in range(len(method.get_submodule(module))):  # type: ignore[arg-type]
        recorded = {"mask_token": arrays[token.format(level)]}
        for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
            recorded[f"prob__{name.replace('.', '__')}"] = arrays[prob.format(level) + name]
        fill(method.get_submodule(f"{module}.{level}"), **recorded)


def set_generators(method: Method, module: str, arrays: dict[str, Tensor], prefix: str) -> None:
    for level in range(len(method.get_submodule(module))):  # type: ignore[arg-type]
        names = ("0.weight", "0.bias", "2.weight", "2.bias")
        recorded = {name.replace(".", "__"): arrays[prefix.format(level) + name] for name in names}
        fill(method.get_submodule(f"{module}.{level}"), **recorded)


def test_mimic() -> None:
    arrays = load("mimic")
    student, teacher = levels(arrays)
    method = build("mimic", student, teacher)
    for i in range(5):
        fill(method, **{f"align__{i}__weight": arrays[f"w{i}"], f"align__{i}__bias": arrays[f"b{i}"]})
    assert_golden(total(method, student, teacher), arrays["loss"], of_levels(student, arrays))


def test_maskd_over_four_steps() -> None:
    """The student's masks join after two steps."""
    method = build("maskd", *levels(load("maskd_step0")), align=None, custom_mask_warmup=2)
    for step in range(4):
        method.set_progress(step, 10)
        arrays = load(f"maskd_step{step}")
        set_tokens(method, "tokens", arrays, "token{}", "prob{}_")
        assert total(method, *levels(arrays)).item() == pytest.approx(arrays["loss"].item(), rel=TOLERANCE)


def test_masked_generative(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = load("masked_generative")
    student, teacher = levels(arrays)
    method = build("masked_generative", student, teacher)
    set_generators(method, "generators", arrays, "gen{}_")
    give(monkeypatch, "rand", [arrays[f"visible{i}"].float() for i in range(5)])
    assert_golden(total(method, student, teacher), arrays["loss"], of_levels(student, arrays))


def test_akd_maskd_with_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = load("akd_maskd_p10")
    student, teacher = levels(arrays)
    method = build("akd+maskd", student, teacher, align=None)
    set_tokens(method, "base.tokens", arrays, "p_mask_modules.{}.mask_token", "p_mask_modules.{}.prob.")
    drop(monkeypatch, [arrays[f"drop{i}"] for i in range(3)])
    assert_golden(total(method, student, teacher), arrays["loss"], of_levels(student, arrays))


def test_akd_masked_generative_with_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = load("akd_masked_generative_p10")
    student, teacher = levels(arrays)
    method = build("akd+masked_generative", student, teacher)
    set_generators(method, "base.generators", arrays, "p_mask_modules.{}.generation.")
    drop(monkeypatch, [arrays[f"drop{i}"] for i in range(3)])
    give(monkeypatch, "rand", [arrays[f"visible{i}"].float() for i in range(3)])
    assert_golden(total(method, student, teacher), arrays["loss"], of_levels(student, arrays))


@pytest.mark.parametrize("name", ["ifvd", "skd"])
def test_relations_within_an_image(name: str) -> None:
    arrays = load(name)
    student, teacher = [leaf(arrays["student_f"])], [arrays["teacher_f"]]
    method = build(name, student, teacher, task="segmentation")
    found = total(method, student, teacher, arrays.get("targets"))
    assert_golden(found, arrays["loss"], {"student_f": (student[0], arrays["grad_student_f"])})


def test_cirkd(monkeypatch: pytest.MonkeyPatch) -> None:
    """In eval mode, because the recorded queues hold the step's entries; the projection is in train mode."""
    arrays = load("cirkd_step0")
    student, teacher = [leaf(arrays["student_f"])], [arrays["teacher_f"]]
    sizes = {"pixel_memory_size": 400, "region_memory_size": 40, "pixel_contrast_size": 20, "region_contrast_size": 10}
    method = build("cirkd", student, teacher, task="segmentation", **sizes).eval()
    layers = method.get_submodule("project").train()
    fill(layers, **{"0__weight": arrays["proj0"], "3__weight": arrays["proj3"]})
    fill(layers, **{"1__weight": arrays["proj1"], "1__bias": arrays["proj2"]})
    for name in ("pixels", "regions"):
        method.get_buffer(name).copy_(arrays[f"{name}_after"])
    give(monkeypatch, "randperm", [arrays["perm_pixels"], arrays["perm_regions"]])
    outputs = [Outputs(torch.zeros(3, 5), tuple(maps)) for maps in (student, teacher)]
    terms = method(batch(3, arrays["targets"]), *outputs)
    # The recorded terms have no weights, the gradient has those of the scripts.
    recorded = {"minibatch_pixel": ("minibatch", 1.0), "memory_pixel": ("pixel", 0.1), "memory_region": ("region", 0.1)}
    expected = {term: weight * arrays[name].item() for term, (name, weight) in recorded.items()}
    assert {term: value.item() for term, value in terms.items()} == pytest.approx(expected, rel=TOLERANCE)
    loss = torch.stack(list(terms.values())).sum()
    assert_golden(loss, loss, {"student_f": (student[0], arrays["grad_student_f"])})
