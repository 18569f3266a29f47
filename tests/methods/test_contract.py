"""Promises of every method in the folder; a new file is tested without an edit here."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
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


def options_of(cls: type[Method]) -> list[str]:
    return [p.name for p in inspect.signature(cls).parameters.values() if p.default is not p.empty]


def fitting(sample: Make, name: str, kind: str) -> Any:
    """A sample for `name`: with a wider teacher, or with equal widths if the method refuses that."""
    data = sample(kind)
    try:
        methods.build(name, data.setting)
    except MethodError as error:
        data = sample(kind, widths=(6, 6))
        try:
            methods.build(name, data.setting)
        except MethodError:
            pytest.fail(f"{name} covers {KINDS[kind]}, so it must build with default options: {error}")
    return data


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
        file = f"methods/{term}.py"
        assert cls.tasks, f"{file}: tasks is empty; name at least one of {sorted(set(KINDS.values()))}"
        unknown = cls.tasks - set(KINDS.values())
        assert not unknown, f"{file}: tasks names {sorted(unknown)}; the tasks are {sorted(set(KINDS.values()))}"
        cited = re.search(r"\b(19|20)\d\d\b.*https://", cls.citation, re.S) or not cls.needs_teacher
        assert cited, f"{file}: citation must contain a year and then a URL (https://...), and is {cls.citation!r}"
        documented = f"{cls.__doc__}{FeatureMethod.__doc__ if issubclass(cls, FeatureMethod) else ''}"
        missing = [option for option in options_of(cls) if not re.search(rf"\b{option}\b", documented)]
        assert not missing, f"{file}: the docstring of {cls.__name__} does not describe the options {missing}"


@every_case
def test_terms_are_finite_float32_scalars(name: str, kind: str, sample: Make) -> None:
    data = fitting(sample, name, kind)
    method = seeded(data, name)
    terms = run(method, data)
    assert terms or not method.needs_teacher, f"{name} needs a teacher and returns no loss"
    for key, term in terms.items():
        assert term.shape == (), f"{name}: loss {key!r} must be a scalar, and has shape {tuple(term.shape)}"
        assert term.dtype == torch.float32, f"{name}: loss {key!r} must be float32, and is {term.dtype}"
        assert term.isfinite(), f"{name}: loss {key!r} is {term.item()} on random inputs"


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if methods.method_class(case[0]).needs_teacher])
def test_gradients_reach_the_student_and_the_methods_parameters_only(name: str, kind: str, sample: Make) -> None:
    data = fitting(sample, name, kind)
    method = seeded(data, name)
    torch.stack(list(run(method, data).values())).sum().backward()
    grads = [tensor.grad for tensor in tensors(data.student) if tensor.grad is not None]
    assert any(grad.any() for grad in grads), f"{name}: the losses have no gradient for the student's outputs"
    assert all(grad.isfinite().all() for grad in grads), f"{name}: a gradient of the student's outputs is not finite"
    if method.teacher_mode == "online":
        grads = [tensor.grad for tensor in tensors(data.teacher) if tensor.grad is not None]
        assert any(grad.any() for grad in grads), f"{name}: the losses have no gradient for the online teacher"
        assert all(grad.isfinite().all() for grad in grads), f"{name}: a gradient of the teacher is not finite"
    else:
        frozen = all(tensor.grad is None for tensor in tensors(data.teacher))
        assert frozen, f"{name}: the losses have gradients for the outputs of a frozen teacher; detach them"
    for key, parameter in method.named_parameters():
        expected = "a gradient" if parameter.requires_grad else "no gradient, since it does not require one"
        assert (parameter.grad is not None) == parameter.requires_grad, f"{name}: parameter {key} must get {expected}"


@pytest.mark.parametrize("name", [name for name, kind in CASES if kind == "segmentation"])
def test_losses_of_ignored_pixels_alone_are_finite(name: str, sample: Make) -> None:
    data = sample("segmentation")
    data.batch.targets[:] = IGNORE_INDEX
    terms = run(seeded(data, name), data)
    broken = [key for key, term in terms.items() if not term.isfinite()]
    assert not broken, f"{name}: losses {broken} are not finite if all pixels are ignored"
    if terms:
        torch.stack(list(terms.values())).sum().backward()
    finite = all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in tensors(data.student))
    assert finite, f"{name}: gradients are not finite if all pixels are ignored"


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
            assert torch.equal(after, before), f"{name} changes the outputs of the {side} in place"


@every_case
def test_same_seed_same_losses(name: str, kind: str, sample: Make) -> None:
    data = fitting(sample, name, kind)
    first, second = run(seeded(data, name), data), run(seeded(data, name), data)
    assert first == second, f"{name}: two runs with the same seed have different losses; draw from torch's generator"


@every_case
def test_half_precision_is_raised_to_float32(name: str, kind: str, sample: Make) -> None:
    data = fitting(sample, name, kind)
    half = replace(data, student=cast(data.student, torch.bfloat16), teacher=cast(data.teacher, torch.bfloat16))
    full = replace(data, student=cast(half.student, torch.float32), teacher=cast(half.teacher, torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = run(seeded(half, name), half)
    assert all(term.dtype == torch.float32 for term in terms.values()), f"{name}: losses must be float32 under autocast"
    assert terms == run(seeded(full, name), full), f"{name}: the inputs of the losses must be float32 under autocast"


@every_case
def test_state_round_trip_keeps_the_losses(name: str, kind: str, sample: Make) -> None:
    data = fitting(sample, name, kind)
    method, restored = seeded(data, name, seed=0), seeded(data, name, seed=5)
    run(method, data)
    restored.load_state_dict(method.state_dict(), strict=True)
    message = f"{name}: losses differ after load_state_dict; keep what they depend on in parameters or buffers"
    assert run(restored, data) == run(method, data), message


@every_case
def test_resolved_options_build_the_default_method(name: str, kind: str, sample: Make) -> None:
    data = fitting(sample, name, kind)
    explicit = methods.resolve(name, {})
    same = run(seeded(data, name, **explicit), data) == run(seeded(data, name), data)
    assert same, f"{name}: losses with the default options {explicit} differ from those without options"


@pytest.mark.parametrize("name", NAMES)
def test_a_misspelt_option_is_refused_with_the_nearest(name: str, sample: Make) -> None:
    setting = sample("dense").setting
    options = methods.resolve(name, {})
    for option in options:
        with pytest.raises(MethodError, match=f"Did you mean '{re.escape(option)}'"):
            methods.build(name, setting, **{f"{option}_": 1})
    with pytest.raises(MethodError, match=f"Available: {re.escape(', '.join(options) or 'none')}"):
        methods.build(name, setting, qqqq=1)


def test_an_option_that_overflows_is_refused(sample: Make) -> None:
    with pytest.raises(MethodError, match="dist: an option is too large"):
        methods.build("dist", sample("classification").setting, tau=1e308)


@pytest.mark.parametrize(("name", "kind"), UNCOVERED)
def test_a_task_without_a_form_is_refused(name: str, kind: str, sample: Make) -> None:
    with pytest.raises(MethodError, match=f"does not support {KINDS[kind]}"):
        methods.build(name, sample(kind).setting)


def test_importing_the_package_imports_no_torch() -> None:
    assert in_subprocess("import sys, methods; print('torch' in sys.modules)") == "False"


def test_building_a_method_imports_the_files_that_it_needs_only() -> None:
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
        needed = set().union(*(needs(term) for term in name.split("+")))
        assert set(modules) <= needed | needs("base") | needs("_sum") | needs("_source"), (
            f"{name} imports files of other methods"
        )


@cache
def needs(stem: str) -> frozenset[str]:
    """The files of the folder that a file imports, directly or not, and itself."""
    tree = ast.parse((FOLDER / f"{stem}.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    direct = {name for node in imports for name in ([node.module] if node.module else [a.name for a in node.names])}
    return frozenset({stem}).union(*(needs(name) for name in direct))


def in_subprocess(script: str) -> str:
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_files_import_torch_the_standard_library_and_each_other_relatively(path: Path) -> None:
    allowed = {"torch"} | sys.stdlib_module_names
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level != 1:
            names = ["." * node.level + str(node.module)]
        wrong = [name for name in names if name.split(".")[0] not in allowed]
        assert not wrong, f"methods/{path.name} imports {wrong}; use torch, the standard library or `from .file import`"
