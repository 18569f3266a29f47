"""Options of the benchmarks, where they are saved, and what is printed at the end."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.records import environment
from kdbench.records.row import Environment

from . import summary
from .rig import Case, Rig

RESULTS = Path(__file__).parents[2] / "results" / "benchmarks"


@dataclass(frozen=True)
class Scope:
    """How much is measured, and where."""

    quick: bool
    device: torch.device

    def rounds(self, count: int) -> int:
        return max(2, count // 4) if self.quick else count


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="few rounds, and only what is not marked as long")
    parser.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where training is timed")
    parser.addoption("--saved", type=Path, default=RESULTS, help="folder of saved results, below it one a machine")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes long; left out by --quick")
    config.option.benchmark_storage = f"file://{_folder(config)}"
    config.option.benchmark_quiet = True  # its table has no ratios; `summary` prints them


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--quick"):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return dict(_machine(config))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = config._benchmarksession  # type: ignore[attr-defined]
    now = {one.fullname: one.as_dict(include_data=False) for one in session.benchmarks if not one.has_error}
    files = summary.saved(_folder(config))
    before = files[:-1] if session.autosave and now else files
    for line in summary.lines(now, before, _machine(config)):
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """In place of the tests' fixture of that name: benchmarks run with all threads of the machine."""


@pytest.fixture(scope="session")
def scope(request: pytest.FixtureRequest) -> Scope:
    return Scope(request.config.getoption("--quick"), torch.device(request.config.getoption("--device")))


@pytest.fixture(scope="session")
def rig(scope: Scope, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Rig]:
    """rig(case): built once a session."""
    root = tmp_path_factory.mktemp("rigs")
    built: dict[str, Rig] = {}

    def get(case: Case) -> Rig:
        if case.name not in built:
            built[case.name] = Rig(case, root, scope.device)
        return built[case.name]

    return get


def _machine(config: pytest.Config) -> Environment:
    """This machine, with the best that its CPU offers: it decides on bfloat16, and the CPU's name does not tell it."""
    there = torch.cpu.get_capabilities()
    offers = next((name for name in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2") if there.get(name)), "")
    machine = environment.describe(torch.device(config.getoption("--device")))
    return machine.model_copy(update={"machine": f"{machine.machine} {offers}".strip()})


def _folder(config: pytest.Config) -> Path:
    """Where this machine's results lie: with another number of threads it is another machine."""
    machine = _machine(config)
    name = re.sub(r"[^a-z0-9]+", "-", f"{machine.machine} {machine.threads} threads".lower())
    folder: Path = config.getoption("--saved") / name
    return folder
