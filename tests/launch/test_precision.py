"""The precision that a request asks for, or lets the device decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.engines import precision_probe
from kdbench.errors import SpecError
from kdbench.launch import precision
from kdbench.launch.planning import make_plans
from kdbench.spec.request import RunRequest
from tests.helpers.tables import cifar_table


def precisions(tmp_path: Path, log: Any = lambda _: None, **given: Any) -> set[str]:
    request = RunRequest.parse(scale="mini", results=tmp_path, explain=True, **given)
    [plan] = make_plans([cifar_table("none", "kd")], request, log)
    return {run.recipe.precision for run in plan.plan.runs}


def test_it_is_that_of_students_and_teachers(tmp_path: Path) -> None:
    assert precisions(tmp_path) == {"ieee"}
    assert precisions(tmp_path, precision="bfloat16") == {"bfloat16"}
    with pytest.raises(SpecError, match="unknown precision: 'bfloat'. Did you mean 'bfloat16'"):
        precisions(tmp_path, precision="bfloat")
    with pytest.raises(SpecError, match="--precision ieee and --set teacher.precision are both given"):
        precisions(tmp_path, precision="ieee", changes=["teacher.precision=tf32"])


@pytest.mark.parametrize(("ratio", "chosen"), [(0.94, "ieee"), (1.05, "ieee"), (2.2, "bfloat16")])
def test_auto_takes_bfloat16_where_the_device_is_faster_with_it(
    ratio: float, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "speedup", lambda device: {"cpu": ratio}[device])
    logged: list[str] = []
    assert precisions(tmp_path, logged.append, precision="auto", devices="cpu") == {chosen}
    assert any(line.startswith(f"precision {chosen}, because cpu takes ") for line in logged)


def test_auto_needs_a_device_that_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="--precision auto times a device of this machine, and --on h100 names others"):
        precisions(tmp_path, precision="auto", on="h100")
    monkeypatch.setattr(precision_probe, "visible_alone", lambda device: ("no-such-device", {}))
    with pytest.raises(SpecError, match="--precision auto: cpu cannot be timed: .*; name a precision"):
        precisions(tmp_path, precision="auto", devices="cpu")


def test_steps_of_both_precisions_are_timed() -> None:
    assert precision_probe.measured(torch.device("cpu"), seconds=0.0) > 0


@pytest.mark.slow
def test_both_precisions_are_timed_in_a_process_of_their_own() -> None:
    assert precision_probe.speedup("cpu") > 0
