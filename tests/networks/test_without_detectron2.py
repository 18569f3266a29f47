"""Without a working detectron2: what is reported and skipped, and that everything else still runs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdbench import networks
from kdbench.errors import SpecError
from kdbench.grid.validate import validate
from kdbench.launch.check import problems
from kdbench.networks import detectron2
from kdbench.spec.table import MethodEntry, Networks, Pair, load_table
from tests.helpers.plans import Choice, plan
from tests.helpers.rows import COCO, DIGITS
from tests.helpers.tables import fixed_table

R50 = "detectron2:COCO-Detection/retinanet_R_50_FPN_1x"
MISSING = "detectron2 is not installed"


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """The installation is examined again before and after each test."""
    detectron2.unavailable.cache_clear()
    yield
    detectron2.unavailable.cache_clear()


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, *more: Any) -> Any:
        return None if name == "detectron2" else real(name, *more)

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", find)


def imported() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == "detectron2"]


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A detectron2 whose compiled operators were built for another torch."""
    package = tmp_path / "detectron2"
    zoo = package / "model_zoo" / "configs" / "COCO-Detection"
    zoo.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "_C.py").write_text("raise ImportError('_C.so: undefined symbol: _ZN3c10')")
    for file in (
        "retinanet_R_50_FPN_1x.yaml",
        "fcos_R_50_FPN_1x.py",
        "rpn_R_50_FPN_1x.yaml",
        "faster_rcnn_R_50_C4_1x.py",
    ):
        (zoo / file).touch()
    for name in imported():
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in imported():
        del sys.modules[name]


@pytest.mark.usefixtures("missing")
def test_a_missing_installation_is_the_reason_given_and_none_of_its_networks_is_listed() -> None:
    assert detectron2.unavailable() == MISSING == networks.unavailable(R50)
    assert networks.unavailable("fcos_r50_fpn") == ""
    assert not [name for name in networks.names() if name.startswith("detectron2")]
    assert (networks.task(R50), networks.family(R50), networks.library(R50)) == ("detection", "retinanet", "detectron2")
    with pytest.raises(SpecError, match=f"retinanet_R_50_FPN_1x cannot be built: {MISSING}"):
        networks.build(R50, 3)


@pytest.mark.usefixtures("missing")
def test_its_table_is_skipped_with_the_reason_and_still_validated() -> None:
    table = load_table("detectron2/coco")
    validate(table)
    for choice in (Choice("full", COCO), Choice("mini", DIGITS)):
        whole = plan([table], choice)
        assert whole.runs == []
        assert {skip.reason for skip in whole.skipped} == {MISSING} and len(whole.skipped) == len(table.pairs)


@pytest.mark.usefixtures("missing")
def test_without_it_torchvision_is_used_instead_at_full_scale_and_mini_is_unchanged() -> None:
    tables = [fixed_table("akd/coco"), fixed_table("dist/coco")]
    whole = plan(tables, Choice("full", COCO))
    students = {run.student for run in whole.runs if run.teacher}
    assert students == {"retinanet_r50_fpn", "fcos_r50_fpn", "faster_rcnn_r50_fpn"}
    reasons = {skip.cell: skip.reason for skip in whole.skipped}
    teacher = "detectron2:COCO-Detection/retinanet_R_101_FPN_3x"
    assert reasons[f"{teacher} -> {R50}"] == f"{MISSING}; torchvision's detectors run instead"
    assert reasons["cascade_mask_rcnn_x101_fpn -> faster_rcnn_r50_fpn"] == MISSING
    mini = plan(tables, Choice("mini", DIGITS))
    assert not [run for run in mini.runs if "detectron2" in run.student]
    assert [skip.reason for skip in mini.skipped] == ["RepPoints is in neither torchvision nor detectron2"]


def test_with_it_the_papers_detectors_are_those_of_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectron2, "unavailable", lambda: "")
    tables = [fixed_table("akd/coco"), fixed_table("dist/coco")]
    whole = plan(tables, Choice("full", COCO))
    assert all(run.student.startswith("detectron2:") for run in whole.runs)
    assert {run.teacher_network for run in whole.runs if run.teacher} == {
        "detectron2:COCO-Detection/retinanet_R_101_FPN_3x", "detectron2:retinanet_X_101_64x4d_FPN",
        "detectron2:fcos_R_101_FPN", "detectron2:COCO-Detection/faster_rcnn_R_101_FPN_3x",
        "detectron2:cascade_mask_rcnn_X_101_64x4d_FPN",
    }  # fmt: skip
    assert [skip.reason for skip in whole.skipped] == ["RepPoints is in neither torchvision nor detectron2"]
    assert not [run for run in plan(tables, Choice("mini", DIGITS)).runs if "detectron2" in run.student]


@pytest.mark.usefixtures("broken")
def test_operators_that_do_not_load_are_reported_with_cause_and_fix() -> None:
    reason = r"compiled operators cannot be loaded \(_C.so: undefined symbol: _ZN3c10\); build it again with the torch"
    with pytest.raises(SpecError, match=f"cannot be built: detectron2 is installed, but its {reason}"):
        networks.build(R50, 3)
    (skip, *_) = plan([load_table("detectron2/coco")], Choice("mini", DIGITS)).skipped
    assert "undefined symbol" in skip.reason
    line, wrong = detectron2.report()
    assert wrong and "undefined symbol" in line and "what needs it is skipped, all else runs" in line


@pytest.mark.usefixtures("broken")
def test_a_config_that_does_not_exist_suggests_the_nearest() -> None:
    assert [name for name in networks.names() if "COCO" in name] == ["detectron2:COCO-Detection/fcos_R_50_FPN_1x", R50]
    with pytest.raises(SpecError, match=f"unknown network: '{R50[:-1]}y'. Did you mean '{R50}'"):
        networks.build(f"{R50[:-1]}y", 3)
    for config in ("rpn_R_50_FPN_1x", "faster_rcnn_R_50_C4_1x"):  # kdbench has no adapter for them
        with pytest.raises(SpecError, match=f"unknown network: 'detectron2:COCO-Detection/{config}'"):
            networks.family(f"detectron2:COCO-Detection/{config}")


@pytest.mark.usefixtures("missing")
def test_a_config_of_no_known_family_is_refused_without_it_too() -> None:
    with pytest.raises(SpecError, match="of detectron2, kdbench runs RetinaNet, FCOS, Faster and Cascade R-CNN"):
        networks.family("detectron2:COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x")


@pytest.mark.parametrize("installed", [True, False])
def test_teacher_and_student_of_two_libraries_are_refused(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectron2, "unavailable", lambda: "" if installed else MISSING)
    names = {"teacher": "detectron2:mini_fcos_teacher", "student": "fcos_mini_student"}
    pair = Pair(**names, mini=Networks(**names), methods=(MethodEntry(method="none"), MethodEntry(method="mimic")))
    table = fixed_table("dist/coco").model_copy(update={"pairs": (pair,)})
    with pytest.raises(SpecError, match=r"pairs\[0\].*cannot teach fcos_mini_student.*have another order"):
        validate(table)


@pytest.mark.usefixtures("missing")
def test_methods_of_cells_that_cannot_run_here_are_validated() -> None:
    names = {"teacher": R50.replace("50", "101"), "student": R50}
    entries = (MethodEntry(method="none"), MethodEntry(method="cwd", options={"align": "linear"}))
    table = fixed_table("dist/coco").model_copy(update={"pairs": (Pair(**names, methods=entries),)})
    with pytest.raises(SpecError, match=r"pairs\[0\], method 1 \(cwd\): cwd: align is 'linear'"):
        validate(table)


@pytest.mark.usefixtures("missing")
def test_check_reports_that_it_is_missing_and_that_this_is_not_an_error(embedded_data: Path) -> None:
    lines = list(problems(embedded_data, []))
    (reported,) = [(line, wrong) for line, wrong in lines if line.startswith("detectron2")]
    optional = f"{MISSING} (optional; see {detectron2.GUIDE})"
    assert reported == (f"{optional}; what needs it is skipped, all else runs", False)
    assert not [line for line, wrong in lines if wrong]
