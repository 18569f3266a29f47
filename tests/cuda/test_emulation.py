"""The tests of CUDA can fail: faults that are planted in a small method are named, with the line that has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdbench import contract, methods
from tests.cuda import budgets
from tests.cuda.budgets import over_budget, problems
from tests.cuda.cells import Cell, of_methods
from tests.cuda.steps import run_steps

pytestmark = pytest.mark.usefixtures("fresh_methods")

METHOD = '''
import torch
from torch import Tensor

from kdbench.methods.base import Batch, Method, Outputs


class Planted(Method):
    """The squared distance of logits."""

    name = "planted"
    citation = "A. User. 2026. https://example.org"
    tasks = frozenset({"classification"})

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        error = (student.logits - teacher.logits).square()
        factor = 1.0
        LINE
        return {self.name: (factor * error).mean()}
'''
LINE = METHOD[: METHOD.index("LINE")].count("\n") + 1


def planted(line: str, folder: Path, name: str = "planted") -> Cell:
    """The small method with one more line, in a cell of the smallest networks."""
    file = folder / f"{name}.py"
    file.write_text(METHOD.replace("LINE", line).replace('"planted"', f'"{name}"'))
    methods.register(file)
    run = next(cell.run for cell in of_methods("classification") if cell.run.method == "fitnet")
    assert run.teacher is not None
    teacher = run.teacher.model_copy(update={"student": "resnet8"})
    changes = {"method": name, "options": {}, "student": "resnet8", "teacher": teacher}
    return Cell(run.model_copy(update=changes), name)


def found(line: str, folder: Path) -> list[str]:
    cell = planted(line, folder)
    return problems(cell, run_steps(cell.run))


def test_a_method_without_a_fault_has_no_problem(tmp_path: Path) -> None:
    assert found("pass", tmp_path) == []


@pytest.mark.parametrize(
    ("line", "op"),
    [
        ("factor = (error.detach() * torch.ones(error.shape[1])).mean()", "mul"),
        ("error = torch.cat([error, torch.zeros(1, error.shape[1])])", "cat"),
        ("factor = torch.stack([error.mean(), torch.tensor(1.0)]).mean()", "stack"),
        ("factor = (torch.arange(3)[batch.targets % 3]).float().mean()", "index"),
        ("torch.zeros(3).add_(error.mean())", "add_"),
        ("factor = error.detach().numpy().mean()", "numpy"),
    ],
)
def test_a_tensor_of_the_cpu_beside_those_of_the_device_fails(line: str, op: str, tmp_path: Path) -> None:
    assert f"planted: `{op}` gets tensors of the CPU and of the GPU: planted.py:{LINE} (2 times)" in found(
        line, tmp_path
    )


@pytest.mark.parametrize(
    ("line", "op"),
    [
        ("factor = error.mean().item()", "item"),
        ("factor = float(error.detach().mean())", "__float__"),
        ("factor = error.detach().mean().cpu()", "cpu"),
        ("factor = error.mean().detach().to('cpu')", "to"),
        ("factor = error.detach().mean(1).tolist()[0]", "tolist"),
        ("factor = 2.0 if error.mean() > 0 else 1.0", "__bool__"),
        ("error = error.flatten()[(error.flatten() > 0).nonzero()[:, 0]]", "nonzero"),
        ("factor = len(torch.unique(batch.targets))", "_unique2"),
        ("error = error * batch.targets.bincount(minlength=error.shape[1])", "bincount"),
        ("error = error.detach()[error > 0]", "index"),
        ("factor = torch.empty((), device='cpu').copy_(error.detach().mean())", "copy_"),
        ("torch.cuda.synchronize()", "synchronize"),
    ],
)
def test_waiting_for_the_device_is_found(line: str, op: str, tmp_path: Path) -> None:
    assert found(line, tmp_path) == [
        "planted: planted.py waits 1 times a step, 0 allowed with classifier networks in allowed_waits.yaml: "
        f"`{op}` makes the host wait for the GPU: planted.py:{LINE}"
    ]


def test_the_backward_pass_of_a_mask_waits_too(tmp_path: Path) -> None:
    (text,) = found("error = error[error.detach() > 0]", tmp_path)
    assert text.startswith("planted: planted.py waits 2 times a step")
    assert text.endswith(f"`index_put` makes the host wait for the GPU: backward of planted.py:{LINE}")


@pytest.mark.parametrize(
    ("line", "op"),
    [
        ("factor = torch.tensor([1.0, 2.0]).mean().to(error.device)", "to"),
        ("factor = torch.tensor(2.0, device=error.device)", "torch.tensor(..., device=...)"),
        ("factor = error.new_tensor([1.0]).mean()", "new_tensor"),
        ("factor = error.detach()[:, torch.arange(3)].mean()", "index"),
        ("error = error[:, [0, 2]]", "__getitem__ of a list"),
        ("factor = torch.empty(2, device=error.device).copy_(torch.ones(2)).mean()", "copy_"),
    ],
)
def test_a_tensor_that_is_copied_in_every_step_is_found(line: str, op: str, tmp_path: Path) -> None:
    assert found(line, tmp_path) == [
        "planted: planted.py copies 1 times a step, 0 allowed with classifier networks in allowed_waits.yaml: "
        f"`{op}` copies a tensor to the GPU in every step: planted.py:{LINE}"
    ]


@pytest.mark.parametrize(
    "line",
    [
        "factor = torch.tensor(2.0)",
        "factor = torch.ones(error.shape[1], device=error.device)",
        "factor = self.kept = self.kept if hasattr(self, 'kept') else torch.ones(100).to(error.device)",
        "error[error.detach() > 9] = 0.0",
        "error = error[:, torch.arange(3, device=error.device)]",
        "factor = torch.nn.functional.one_hot(batch.targets, error.shape[1])",
        "factor = torch.where(error > 1, error, torch.zeros_like(error))",
    ],
)
def test_what_needs_no_waiting_is_no_problem(line: str, tmp_path: Path) -> None:
    assert found(line, tmp_path) == []


def test_kernels_above_the_budget_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = planted("pass", tmp_path)
    kernels = run_steps(cell.run).last.kernels
    assert over_budget(cell, kernels) == (
        f"planted has no kernel budget with classifier networks in kernel_budgets.yaml: its step takes {kernels} "
        "kernels; write the file again with python -m tests.cuda.budgets"
    )
    monkeypatch.setattr(budgets, "_read", lambda path: {"classifier": {"planted": kernels}})
    assert over_budget(cell, kernels) == ""
    more = planted("for _ in range(10): factor = factor * error.detach().mean()", tmp_path, "planted_more")
    more = replace(more, method="planted")
    assert over_budget(more, run_steps(more.run).last.kernels) == (
        f"planted: a step takes {kernels + 20} kernels and its budget in kernel_budgets.yaml is {kernels}"
    )


def test_the_contract_names_what_fails_on_a_gpu(tmp_path: Path) -> None:
    planted("factor = (error.detach() * torch.ones(error.shape[1])).mean()", tmp_path)
    assert contract.problems("planted") == [
        f"planted, classification: `mul` gets tensors of the CPU and of the GPU: planted.py:{LINE} (2 times)"
    ]


def test_the_contract_tells_where_a_step_waits(tmp_path: Path) -> None:
    planted("factor = error.mean().item()", tmp_path)
    lines = list(contract.report("planted", {}))
    assert not any(wrong for _, wrong in lines)
    assert lines[-1][0] == f"planted, classification: `item` makes the host wait for the GPU: planted.py:{LINE}"
