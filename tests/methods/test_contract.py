"""Promises of every method in the folder; a new file is tested without an edit here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.contract.checks import CHECKS, Case, kinds, losses, returns_loss_terms
from kdbench.contract.description import wrong_description
from kdbench.contract.samples import TASKS
from kdbench.methods.base import FeatureMethod, MethodError

FOLDER = Path(methods.__file__).parent
NAMES = methods.names()
Make = Callable[..., Any]


def compares_features(name: str) -> bool:
    return any(issubclass(methods.method_class(term), FeatureMethod) for term in name.split("+"))


CASES = [(name, kind) for name in NAMES for kind in kinds(name)]
UNCOVERED = [(name, kind) for name in NAMES for kind in TASKS if kind not in kinds(name)]


@pytest.mark.parametrize("name", NAMES)
def test_describes_itself(name: str) -> None:
    for term in name.split("+"):
        assert list(wrong_description(term)) == [], f"methods/{term}.py"


@pytest.mark.parametrize("check", [returns_loss_terms, *CHECKS], ids=lambda check: check.__name__)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_keeps_the_contract(name: str, kind: str, check: Callable[[Case], Iterator[str]]) -> None:
    assert list(check(Case(name, kind))) == []


@pytest.mark.parametrize("name", [n for n, kind in CASES if kind == "segmentation" and compares_features(n)])
def test_feature_methods_compare_the_last_map_of_a_segmenter(name: str, sample: Make) -> None:
    data, method = sample("segmentation"), Case(name, "segmentation").build()
    torch.stack(list(losses(method, data).values())).sum().backward()
    assert [feature.grad is not None for feature in data.student.features] == [False] * 5 + [True]


@pytest.mark.parametrize("name", NAMES)
def test_a_misspelt_option_is_refused_with_the_nearest(name: str, sample: Make) -> None:
    setting = sample("dense").setting
    options = methods.resolve(name, {})
    for option in options:
        with pytest.raises(MethodError, match=f"Did you mean '{re.escape(option)}'"):
            methods.build(name, setting, **{f"{option}_": 1})
    with pytest.raises(MethodError, match=f"Available: {re.escape(', '.join(options) or 'none')}"):
        methods.build(name, setting, qqqq=1)


WEIGHTS = [
    (name, option)
    for name in methods.names()
    for option, default in methods.resolve(name, {}).items()
    if option.split("_")[-1] == "weight" and isinstance(default, float)
]


@pytest.mark.parametrize(("name", "option"), WEIGHTS)
def test_a_weight_below_zero_is_refused(name: str, option: str) -> None:
    with pytest.raises(MethodError, match=f"option {option} of {re.escape(name)} is -0.5; a weight below 0"):
        methods.resolve(name, {option: -0.5})


def test_an_option_that_overflows_is_refused(sample: Make) -> None:
    with pytest.raises(MethodError, match="dist: an option is too large"):
        methods.build("dist", sample("classification").setting, tau=1e308)


@pytest.mark.parametrize(("name", "kind"), UNCOVERED)
def test_a_task_without_a_form_is_refused(name: str, kind: str, sample: Make) -> None:
    with pytest.raises(MethodError, match=f"does not support {TASKS[kind]}"):
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
    info = base.NetworkInfo((4, 4, 16, 16), (1, 1, 2, 4), 16, torch.nn.Linear(16, 5), (torch.nn.BatchNorm2d(16),) * 3)
    task = sorted(frozenset.intersection(*(methods.method_class(term).tasks for term in name.split("+"))))[0]
    methods.build(name, base.Setting(task, 5, 20_000, info, info, torch.arange(20_000) % 5, 5, batch_size=8))
    print(name, *(key.split(".")[1] for key in sys.modules if key.startswith("methods.")))
"""
    lines = in_subprocess(script).splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    for line in lines:
        name, *modules = line.split()
        needed = set().union(*(needs(term) for term in name.split("+")))
        assert set(modules) <= needed | needs("base") | needs("_sum") | needs("_source") | needs("_outside"), (
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
