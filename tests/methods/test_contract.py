"""What every method in the folder must do; a new file joins by being there."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import IGNORE_INDEX, FeatureMethod, Method, MethodError, Outputs

FOLDER = Path(methods.__file__).parent
KINDS = {
    "classification": "classification",
    "segmentation": "segmentation",
    "dense": "detection",
    "two-stage": "detection",
}
NAMES = methods.names()
Make = Callable[..., Any]


def tasks(name: str) -> frozenset[str]:
    """The tasks that every term of a name covers."""
    return frozenset.intersection(*(methods.method_class(term).tasks for term in name.split("+")))


def compares_features(name: str) -> bool:
    return any(issubclass(methods.method_class(term), FeatureMethod) for term in name.split("+"))


CASES = [(name, kind) for name in NAMES for kind, task in KINDS.items() if task in tasks(name)]
UNCOVERED = [(name, kind) for name in NAMES for kind, task in KINDS.items() if task not in tasks(name)]
every_case = pytest.mark.parametrize(("name", "kind"), CASES)


def own_options(cls: type[Method]) -> list[str]:
    return [p.name for p in inspect.signature(cls).parameters.values() if p.default is not p.empty]


def fitting(sample: Make, name: str, kind: str) -> Any:
    """A sample that `name` can be built on: FSP compares Grams, so its teacher must not be wider."""
    return sample(kind, **({"widths": (6, 6)} if name == "fsp" else {}))


def seeded(sample: Any, name: str, seed: int = 0, **options: Any) -> Method:
    torch.manual_seed(seed)
    return methods.build(name, sample.setting, **options)


def run(method: Method, sample: Any, seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return method(sample.batch, sample.student, sample.teacher, initial=method.initial_epochs > 0)


def tensors(outputs: Outputs) -> list[Tensor]:
    """Every tensor of the outputs but the proposals, which are boxes and no predictions."""
    extra = [value for key, value in outputs.extra.items() if key != "proposals"]
    pooled = () if outputs.pooled is None else outputs.pooled
    values = [outputs.logits, outputs.features, pooled, outputs.boxes, *extra]
    return [tensor for value in values for tensor in (value if isinstance(value, tuple) else (value,))]


def cast(outputs: Outputs, dtype: torch.dtype) -> Outputs:
    def to(value: Any) -> Any:
        return tuple(map(to, value)) if isinstance(value, tuple) else value.detach().to(dtype)

    extra = {key: to(value) for key, value in outputs.extra.items()}
    return replace(
        outputs,
        logits=to(outputs.logits),
        features=to(outputs.features),
        pooled=None if outputs.pooled is None else to(outputs.pooled),
        boxes=to(outputs.boxes),
        extra=extra,
    )


@pytest.mark.parametrize("name", NAMES)
def test_describes_itself(name: str) -> None:
    for term in name.split("+"):
        cls = methods.method_class(term)
        assert cls.name == term
        assert cls.tasks
        assert cls.tasks <= set(KINDS.values())
        assert re.search(r"\b(19|20)\d\d\b.*https://", cls.citation) or not cls.needs_teacher
        documented = f"{cls.__doc__}{FeatureMethod.__doc__}"
        assert all(re.search(rf"\b{option}\b", documented) for option in own_options(cls))


@every_case
def test_terms_are_finite_float32_scalars(name: str, kind: str, sample: Make) -> None:
    data = fitting(sample, name, kind)
    method = seeded(data, name)
    terms = run(method, data)
    assert bool(terms) == method.needs_teacher
    for term in terms.values():
        assert term.shape == ()
        assert term.dtype == torch.float32
        assert term.isfinite()


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if methods.method_class(case[0]).needs_teacher])
def test_gradient_reaches_student_and_own_parameters_only(name: str, kind: str, sample: Make) -> None:
    data = fitting(sample, name, kind)
    method = seeded(data, name)
    torch.stack(list(run(method, data).values())).sum().backward()
    grads = [tensor.grad for tensor in tensors(data.student) if tensor.grad is not None]
    assert any(grad.any() for grad in grads)
    assert all(grad.isfinite().all() for grad in grads)
    if method.teacher_mode == "online":
        grads = [tensor.grad for tensor in tensors(data.teacher) if tensor.grad is not None]
        assert any(grad.any() for grad in grads)
        assert all(grad.isfinite().all() for grad in grads)
    else:
        assert all(tensor.grad is None for tensor in tensors(data.teacher))
    for key, parameter in method.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key


@pytest.mark.parametrize("name", [name for name, kind in CASES if kind == "segmentation"])
def test_masks_of_void_alone_stay_finite(name: str, sample: Make) -> None:
    data = sample("segmentation")
    data.batch.targets[:] = IGNORE_INDEX
    terms = run(seeded(data, name), data)
    assert all(term.isfinite() for term in terms.values())
    if terms:
        torch.stack(list(terms.values())).sum().backward()
    assert all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in tensors(data.student))


@pytest.mark.parametrize("name", [n for n, kind in CASES if kind == "segmentation" and compares_features(n)])
def test_feature_methods_compare_the_last_map_of_a_segmenter(name: str, sample: Make) -> None:
    data = sample("segmentation")
    torch.stack(list(run(seeded(data, name), data).values())).sum().backward()
    assert [feature.grad is not None for feature in data.student.features] == [False] * 5 + [True]


@every_case
def test_outputs_are_left_as_they_were(name: str, kind: str, sample: Make) -> None:
    data, untouched = fitting(sample, name, kind), fitting(sample, name, kind)
    run(seeded(data, name), data)
    for side in ("student", "teacher"):
        for after, before in zip(tensors(getattr(data, side)), tensors(getattr(untouched, side)), strict=True):
            assert torch.equal(after, before)


@every_case
def test_same_seed_same_losses(name: str, kind: str, sample: Make) -> None:
    data = fitting(sample, name, kind)
    assert run(seeded(data, name), data) == run(seeded(data, name), data)


@every_case
def test_half_precision_is_raised_to_float32(name: str, kind: str, sample: Make) -> None:
    data = fitting(sample, name, kind)
    half = replace(data, student=cast(data.student, torch.bfloat16), teacher=cast(data.teacher, torch.bfloat16))
    full = replace(data, student=cast(half.student, torch.float32), teacher=cast(half.teacher, torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = run(seeded(half, name), half)
    assert all(term.dtype == torch.float32 for term in terms.values())
    assert terms == run(seeded(full, name), full)


@every_case
def test_state_round_trip_keeps_the_losses(name: str, kind: str, sample: Make) -> None:
    data = fitting(sample, name, kind)
    method, other = seeded(data, name, seed=0), seeded(data, name, seed=5)
    run(method, data)
    other.load_state_dict(method.state_dict(), strict=True)
    assert run(other, data) == run(method, data)


@every_case
def test_resolved_options_build_the_default_method(name: str, kind: str, sample: Make) -> None:
    data = fitting(sample, name, kind)
    explicit = methods.resolve(name, {})
    assert run(seeded(data, name, **explicit), data) == run(seeded(data, name), data)


@pytest.mark.parametrize("name", NAMES)
def test_a_misspelt_option_is_refused_with_the_nearest(name: str, sample: Make) -> None:
    setting = sample("dense").setting
    options = methods.resolve(name, {})
    for option in options:
        with pytest.raises(MethodError, match=f"Did you mean '{re.escape(option)}'"):
            methods.build(name, setting, **{f"{option}_": 1})
    with pytest.raises(MethodError, match=f"Available: {re.escape(', '.join(options) or 'none')}"):
        methods.build(name, setting, qqqq=1)


@pytest.mark.parametrize(("name", "kind"), UNCOVERED)
def test_a_task_without_a_form_is_refused(name: str, kind: str, sample: Make) -> None:
    with pytest.raises(MethodError, match=f"does not support {KINDS[kind]}"):
        methods.build(name, sample(kind).setting)


def test_importing_the_package_imports_no_torch() -> None:
    assert in_subprocess("import sys, methods; print('torch' in sys.modules)") == "False"


def test_building_a_method_imports_its_own_files_only() -> None:
    script = f"""
import importlib, sys, torch
for name in {NAMES!r}:
    for module in [key for key in sys.modules if key.split(".")[0] == "methods"]:
        del sys.modules[module]
    methods = importlib.import_module("methods")
    base = importlib.import_module("methods.base")
    info = base.NetworkInfo((4, 4, 8, 16), (1, 1, 2, 4), 16, torch.nn.Linear(16, 5), (torch.nn.BatchNorm2d(16),) * 3)
    task = sorted(frozenset.intersection(*(methods.method_class(term).tasks for term in name.split("+"))))[0]
    methods.build(name, base.Setting(task, 5, 20_000, info, info, torch.arange(20_000) % 5, 5))
    print(name, *(key.split(".")[1] for key in sys.modules if key.startswith("methods.")))
"""
    lines = in_subprocess(script).splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    for line in lines:
        name, *modules = line.split()
        own = {module for module in modules if not module.startswith("_")}
        assert own - {"base", "functional"} == set(name.split("+"))


def in_subprocess(script: str) -> str:
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_files_import_torch_and_the_standard_library_only(path: Path) -> None:
    allowed = {"torch", "methods"} | sys.stdlib_module_names
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1 or (node.level == 0 and str(node.module).split(".")[0] in allowed)
