"""How many kernels a training step of each method may take, and where it may wait for the device.

`python -m tests.cuda.budgets` measures every method again and writes `kernel_budgets.yaml`; `allowed_waits.yaml` is
written by hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from kdbench import tasks
from kdbench.contract.findings import Finding
from kdbench.contract.on_cuda import listed
from kdbench.spec.schema import read_yaml

from .cells import Cell, of_methods
from .steps import PREPARED, Steps, run_steps

FOLDER = Path(__file__).parent
KERNELS, WAITS = FOLDER / "kernel_budgets.yaml", FOLDER / "allowed_waits.yaml"
COMMAND = "python -m tests.cuda.budgets"
HEADER = f"""\
# Kernels of one training step of the student, its method and its optimizer, the frozen teacher's forward left out: the
# operations that a GPU would compute. They were counted on the first cell of each method in the shipped tables, and a
# step may take no more. Where a change needs more, write this file again with `{COMMAND}`.
"""


@cache
def _read(path: Path) -> Any:
    return read_yaml(path)


def over_budget(cell: Cell, kernels: int) -> str:
    """What is wrong with the number of kernels of a cell's step; empty where it keeps its budget."""
    budget = _read(KERNELS).get(cell.family, {}).get(cell.variant)
    if budget is None:
        return (
            f"{cell.variant} has no kernel budget with {cell.family} networks in {KERNELS.name}: its step takes "
            f"{kernels} kernels; write the file again with {COMMAND}"
        )
    if kernels > budget:
        return f"{cell.variant}: a step takes {kernels} kernels and its budget in {KERNELS.name} is {budget}"
    return ""


def not_allowed(cell: Cell, findings: Iterable[Finding], steps: int = 1, first: bool = False) -> list[str]:
    """The waits and copies of so many steps beyond those of `allowed_waits.yaml`, with their lines.

    Args:
        cell: of the steps.
        findings: of the steps.
        steps: their number.
        first: whether the first one is among them, in which networks make what they keep.
    """
    parts: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        parts.setdefault((finding.library or finding.file, finding.kind), []).append(finding)
    wrong = []
    for (part, kind), found in parts.items():
        entry = _read(WAITS).get(part, {}).get(cell.family, {})
        allowed, once = entry.get(kind, 0), entry.get(f"{kind} at first", 0) if first else 0
        if len(found) > steps * allowed + once:
            wrong.append(
                f"{cell.variant}: {part} {kind} {len(found) / steps:g} times a step, {allowed} allowed with "
                f"{cell.family} networks in {WAITS.name}: {'; '.join(listed(found))}"
            )
    return wrong


def problems(cell: Cell, steps: Steps) -> list[str]:
    """What is wrong with the steps of a cell, a sentence each; its kernels are not looked at."""
    fails = [finding for record in (steps.before, steps.teacher, steps.first, steps.last) for finding in record.fails]
    return [
        *(f"{cell.variant}: {text}" for text in listed(fails)),
        *not_allowed(cell, steps.before.slows, PREPARED, first=True),
        *not_allowed(cell, [*steps.teacher.slows, *steps.last.slows]),
    ]


def write() -> None:
    """Measure every method's step, and write its kernels as its budget."""
    found: dict[str, dict[str, int]] = {}
    for task in tasks.names():
        for cell in of_methods(task):
            found.setdefault(cell.family, {})[cell.variant] = run_steps(cell.run).last.kernels
    KERNELS.write_text(HEADER + yaml.safe_dump(found, sort_keys=True, width=120), encoding="utf-8")


if __name__ == "__main__":
    write()
