"""SGD on the gradients of task and distillation apart: DOT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdbench import methods
from kdbench.errors import SpecError
from kdbench.train.job import execute
from kdbench.train.separate_gradients import DISTILLATION, TASK, SeparateAdamW, SeparateSGD
from kdbench.train.student import Student
from tests.helpers.golden import load
from tests.helpers.pictures import Pictures, done, numbers, short, state_of
from tests.helpers.tensors import equal

CPU = torch.device("cpu")
SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


def test_three_steps_are_the_authors() -> None:
    arrays = load("dot")
    names = ("both", "task_only", "kd_only")
    parameters = {name: nn.Parameter(arrays[f"before_{name}"][0].clone()) for name in names}
    optimizer = SeparateSGD(
        [{"params": list(parameters.values())}], lr=0.05, momentum=0.9, delta=0.075, weight_decay=5e-4
    )
    for step in range(3):
        optimizer.zero_grad()
        for name, parameter in parameters.items():
            torch.testing.assert_close(parameter.data, arrays[f"before_{name}"][step], rtol=1e-6, atol=1e-7)
            if f"task_grad_{name}" in arrays:
                parameter.grad = arrays[f"task_grad_{name}"][step].clone()
        with optimizer.distillation():
            for name, parameter in parameters.items():
                if f"kd_grad_{name}" in arrays:
                    parameter.grad = arrays[f"kd_grad_{name}"][step].clone()
        optimizer.step()
        for name, parameter in parameters.items():
            torch.testing.assert_close(parameter.data, arrays[f"after_{name}"][step], rtol=1e-6, atol=1e-7)
            for key, recorded in ((TASK, "momentum_buffer"), (DISTILLATION, "momentum_kd_buffer")):
                if f"{recorded}_{name}" in arrays:
                    buffer = optimizer.state[parameter][key]
                    torch.testing.assert_close(buffer, arrays[f"{recorded}_{name}"][step], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"clip_norm": 1e6}], ids=str)
def test_without_a_difference_of_momenta_it_is_sgd(changes: dict[str, Any], pictures: Pictures, tmp_path: Path) -> None:
    recipe = short(**SGD, **changes)
    plain = pictures.run("kd", recipe=recipe)
    runs = [pictures.run("dot+kd", recipe=recipe, options={"delta": delta}) for delta in (0.0, 0.075)]
    done(execute(pictures.job(tmp_path, plain, *runs), lambda _: None))
    expected, same, other = (state_of(tmp_path, run) for run in (plain, *runs))
    for name, value in expected.items():
        torch.testing.assert_close(same[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert not torch.allclose(other["conv1.weight"], expected["conv1.weight"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_without_a_difference_of_momenta_adamw_is_torch_s(share: float) -> None:
    torch.manual_seed(0)
    start = torch.randn(4, 5)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    separate = SeparateAdamW([{"params": [ours]}], lr=0.01, momentum=0.9, delta=0.0, weight_decay=0.1)
    adamw = torch.optim.AdamW([theirs], 0.01, weight_decay=0.1)
    for _ in range(5):
        gradient = torch.randn(4, 5)
        separate.zero_grad()
        ours.grad = share * gradient if share else None
        with separate.distillation():
            ours.grad = (1 - share) * gradient if share < 1 else None
        theirs.grad = gradient
        separate.step()
        adamw.step()
        torch.testing.assert_close(ours.data, theirs.data, rtol=1e-5, atol=1e-6)


def test_dot_trains_by_adamw_too(pictures: Pictures, tmp_path: Path) -> None:
    runs = [pictures.run("dot+kd", recipe=short(optimizer="adamw"), options={"delta": d}) for d in (0.0, 0.075)]
    rows = done(execute(pictures.job(tmp_path, *runs), lambda _: None))
    assert rows[0].history[0].losses != rows[1].history[0].losses


def test_both_momenta_are_resumed(pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pictures.run("dot+crd", recipe=short(**SGD, epochs=2), options={"negatives": 8})
    (whole,) = done(execute(pictures.job(tmp_path / "whole", run), lambda _: None))

    class Killed(BaseException):
        pass

    def kill(event: Any) -> None:
        if event.event == "epoch":
            raise Killed

    with pytest.raises(Killed):
        execute(pictures.job(tmp_path / "killed", run), kill)
    (resumed,) = done(execute(pictures.job(tmp_path / "killed", run), lambda _: None))
    assert equal(state_of(tmp_path / "killed", run), state_of(tmp_path / "whole", run))
    assert numbers(resumed) == numbers(whole)


@pytest.mark.parametrize("change", [{"nesterov": True}, {"optimizer": "rmsprop_tf"}, {"momentum": 0.0}], ids=str)
def test_recipes_with_another_optimizer_are_refused(change: dict[str, Any], pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run("dot+kd", recipe=short(**SGD | change))
    student = Student(run, pictures.task(run), None, tmp_path, CPU)
    with pytest.raises(SpecError, match="trains by SGD without Nesterov, or AdamW, and changes the momentum by 0.075"):
        _ = student.optimizer


def test_a_delta_that_leaves_no_momentum_below_one_is_refused(pictures: Pictures, tmp_path: Path) -> None:
    for optimizer in ("sgd", "adamw"):
        run = pictures.run("dot+kd", recipe=short(**SGD | {"optimizer": optimizer}), options={"delta": 0.3})
        student = Student(run, pictures.task(run), None, tmp_path, CPU)
        with pytest.raises(SpecError, match="momentum of the recipe, 0.9, by 0.3, .* delta from 0 to below 0.1$"):
            _ = student.optimizer


def test_wraps_any_method_also_a_wrapper(pictures: Pictures) -> None:
    assert methods.resolve("dot+ls+kd", {}) == {**methods.resolve("ls+kd", {}), "delta": 0.075}
    assert set(methods.resolve("dot+crd+kd", {})) == {"dot+crd", "kd"}
    assert {"dot+crd", "dot+kd"} <= set(methods.names()) and "dot+dist" not in methods.names()
    assert methods.views("dot+mlkd") == ("strong",)


def test_a_run_that_fails_first_leaves_a_cut_training_to_the_others(pictures: Pictures, tmp_path: Path) -> None:
    recipe = short(**SGD | {"nesterov": True}, max_steps=2)
    runs = [pictures.run(method, recipe=recipe) for method in ("dot+kd", "kd")]
    rows = {row.run.method: row for row in execute(pictures.job(tmp_path, *runs), lambda _: None)}
    assert (rows["dot+kd"].status, rows["kd"].status) == ("failed", "done")
    assert [epoch.steps for epoch in rows["kd"].history] == [2]
