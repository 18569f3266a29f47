"""Exported students: every format computes what the network does, and a file that does not is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from kdbench.deploy import formats
from kdbench.deploy.checking import MismatchError
from kdbench.deploy.export import ExportRequest, export
from kdbench.deploy.manifest import Manifest
from kdbench.deploy.saved import DataPlace
from kdbench.errors import CheckpointError, SpecError
from kdbench.spec import network_name
from tests.helpers.students import Trained, train, write_wrong_logits

pytestmark = pytest.mark.integration

MISSING = [name for name in formats.FORMATS["onnx"].libraries if find_spec(name) is None]
ONNX = pytest.param("onnx", marks=pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"))
VIT = "timm:vit_tiny_patch16_224:patch_size=8:depth=2:embed_dim=24:img_size=32"

FILE = """
from torch import nn

def build(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
    )
"""


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory, digits_path: Path) -> dict[str, Trained]:
    """A student of every task and of every source of networks."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("students")
    (root / "small_net.py").write_text(FILE)
    network_name.register(root / "small_net.py")
    detection = {
        name: train("detection", f"{name}_mini_student", root, digits_path) for name in ("fcos", "faster_rcnn")
    }
    return {
        "classifier": train("classification", "resnet8", root),
        "timm": train("classification", VIT, root),
        "file": train("classification", "small_net.py:build", root),
        "segmenter": train("segmentation", "segmenter_mini_student", root),
        **detection,
    }


Export = Callable[[str, str], tuple[Path, Manifest]]


@pytest.fixture(scope="module")
def exported(students: dict[str, Trained], tmp_path_factory: pytest.TempPathFactory) -> Export:
    """exported(student, format) -> the folder of its export, made once, and what describes it."""

    @cache
    def make(name: str, form: str) -> tuple[Path, Manifest]:
        folder = tmp_path_factory.mktemp("export") / "out"
        return folder, students[name].export(form, folder)

    return make


STUDENTS = ("classifier", "timm", "file", "segmenter", "fcos", "faster_rcnn")
# An ONNX file is written from an exported program, so those programs of every student are tested with it.
PAIRS = [(name, form) for name in STUDENTS for form in ("torch", "torchscript")]
PAIRS += [("classifier", "exported-program")]
SLOW = ("faster_rcnn",)
"""Students whose graphs take half a minute to write, and whose like is tested."""


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *PAIRS,
        *(
            pytest.param(name, *ONNX.values, marks=[*ONNX.marks, *([pytest.mark.slow] if name in SLOW else [])])
            for name in STUDENTS
        ),
    ],
)
def test_a_student_keeps_its_metric_in_every_format(
    name: str, form: str, students: dict[str, Trained], exported: Export
) -> None:
    student = students[name]
    assert student.row.metrics
    folder, described = exported(name, form)
    (file,) = described.files
    check = file.check
    assert check.metric and check.measured is not None
    assert abs(check.measured - student.row.metrics.last[check.metric]) <= 1e-4
    assert check.network is None and check.random_images >= 2
    assert {path.name for path in folder.iterdir()} == {"README.md", "student.json", file.file}
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    assert len(described.classes) == student.row.run.data.classes


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
def test_an_onnx_file_runs_without_kdbench_on_batches_of_any_size(exported: Export) -> None:
    import onnxruntime

    folder, described = exported("segmenter", "onnx")
    session = onnxruntime.InferenceSession(str(folder / described.files[0].file))
    for shape in ((1, 3, 32, 64), (3, 3, 40, 50)):
        (logits,) = session.run(None, {"images": torch.zeros(shape).numpy()})
        assert logits.shape == (shape[0], len(described.classes), *shape[2:])
    assert described.files[0].inputs == {"images": ("N", 3, "H", "W")}


def test_formats_share_a_folder_and_another_run_is_refused(students: dict[str, Trained], tmp_path: Path) -> None:
    first = students["classifier"]
    first.export("torchscript", tmp_path)
    described = first.export("torch", tmp_path)
    assert [file.format for file in described.files] == ["torchscript", "torch"]
    card = (tmp_path / "README.md").read_text()
    assert "student.torchscript" in card and "student.pt" in card and "normalize" in card and "CC BY 4.0" in card
    steps = json.loads((tmp_path / "student.json").read_text())["preprocessing"]
    assert [step["step"] for step in steps] == ["crop_to_aspect", "resize", "divide", "normalize"]
    with pytest.raises(SpecError, match="holds the export of the run"):
        students["timm"].export("torch", tmp_path)


def test_without_the_data_the_card_says_that_nothing_was_measured(students: dict[str, Trained], tmp_path: Path) -> None:
    student = students["segmenter"]
    elsewhere = DataPlace(tmp_path / "none", None, {"train": 13})  # another set of pictures
    described = student.export("torchscript", tmp_path / "out", place=elsewhere)
    check = described.files[0].check
    assert check.measured is None and check.random_images >= 2 and "measured on" in check.reason
    assert "was not measured again" in (tmp_path / "out" / "README.md").read_text()


def test_a_file_that_computes_something_else_is_refused_and_leaves_nothing(
    students: dict[str, Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wrong_logits(monkeypatch, 1.0)
    with pytest.raises(MismatchError, match=r"logits differ by up to 1 "):
        students["classifier"].export("torchscript", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_wrong_requests_are_one_message_each(
    students: dict[str, Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = students["classifier"]
    (tmp_path / "file").touch()
    for form, out, message in (
        ("onxx", "out", "unknown format: 'onxx'. Did you mean 'onnx'"),
        ("torch", "file", "file is a file; give a folder"),
        ("torch", "file/below", "file is a file; give a folder"),
    ):
        with pytest.raises(SpecError, match=message):
            student.export(form, tmp_path / out)
    with pytest.raises(SpecError, match="--int8 is for --format onnx"):
        student.export("torch", tmp_path / "out", int8=True)
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"needs onnx, onnxruntime, onnxscript: pip install 'kdbench\[export\]'"):
        student.export("onnx", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_without_usable_weights_is_refused(tmp_path: Path) -> None:
    student = train("classification", "resnet8", tmp_path)
    assert student.row.student
    weights = student.results / student.row.student.file
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"x")
    with pytest.raises(CheckpointError, match="is damaged or was replaced"):
        student.export("torch", tmp_path / "out")
    weights.unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        student.export("torch", tmp_path / "out")
    (student.results / student.row.id / "row.json").unlink()
    (student.results / student.row.id / "checkpoint.pt").touch()
    with pytest.raises(SpecError, match="is not done"):
        student.export("torch", tmp_path / "out")
    with pytest.raises(SpecError, match="no run in"):
        export(ExportRequest("ffff", "torch", student.results, student.place, tmp_path / "out"), [])
    assert not (tmp_path / "out").exists()
