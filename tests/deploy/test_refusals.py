"""Exports and predictions that would do harm or cannot be made: one message each, and nothing is replaced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.datasets import DataError, _images
from kdbench.deploy import checking, out
from kdbench.deploy.checking import TOLERANCE, MismatchError
from kdbench.deploy.predict import predict
from kdbench.deploy.saved import DataPlace
from kdbench.errors import SpecError, StoreError
from kdbench.report.added import register_files
from tests.helpers.students import Trained, train, write_wrong_logits


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    torch.set_num_threads(1)
    return train("classification", "resnet8", tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory, digits_path: Path) -> Trained:
    return train("detection", "fcos_mini_student", tmp_path_factory.mktemp("detector"), digits_path)


def picture(path: Path, width: int = 20, height: int = 10) -> Path:
    Image.new("RGB", (width, height), "red").save(path)
    return path


def test_an_export_replaces_no_file_of_others(student: Trained, tmp_path: Path) -> None:
    run = student.results / student.row.id
    before = (run / "student.pt").read_bytes()
    with pytest.raises(SpecError, match=r"would replace .*student\.pt, which kdbench did not write"):
        student.export("torch", run)
    assert (run / "student.pt").read_bytes() == before
    (tmp_path / "README.md").write_text("of a project")
    with pytest.raises(SpecError, match=r"would replace .*README\.md"):
        student.export("torch", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_an_export_replaces_its_earlier_files(student: Trained, tmp_path: Path) -> None:
    student.export("torch", tmp_path / "out")
    assert [file.format for file in student.export("torch", tmp_path / "out").files] == ["torch"]


def test_predictions_replace_neither_images_nor_other_files(student: Trained, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png")
    before = image.read_bytes()
    with pytest.raises(SpecError, match=r"would replace the image .*a\.png; give another folder"):
        predict(student.results, student.row.id, [image], student.place, tmp_path)
    (tmp_path / "out").mkdir()
    picture(tmp_path / "out" / "a.png", 1, 1)
    with pytest.raises(SpecError, match=r"would replace .*a\.png, which kdbench did not write"):
        predict(student.results, student.row.id, [image], student.place, tmp_path / "out")
    assert image.read_bytes() == before
    for _ in range(2):  # one's earlier predictions are replaced
        predict(student.results, student.row.id, [image], student.place, tmp_path / "new")


def test_a_folder_that_is_read_only_is_refused_before_any_work(
    student: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out.os, "access", lambda path, mode: path != tmp_path)  # permissions do not bind root
    with pytest.raises(SpecError, match=r"is read-only; make it writable, or give another folder"):
        student.export("torch", tmp_path / "below" / "out")


def test_a_file_in_place_of_the_folder_of_runs_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(StoreError, match="is no folder of runs but a file"):
        register_files(tmp_path / "runs", print)


def test_data_that_cannot_be_that_of_the_run_is_named(student: Trained, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(SpecError, match=r"--data .* cannot be the data of the run, digits train=12 val=5"):
        student.export("torch", tmp_path / "out", place=DataPlace(tmp_path, tmp_path))


def test_a_metric_is_kept_to_a_ten_thousandth_of_a_point_unless_more_is_allowed(
    student: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TOLERANCE == 1e-4
    write_wrong_logits(monkeypatch, 99.0)
    monkeypatch.setattr(checking, "compare_outputs", lambda network, function: (1, 0.0))
    task_metric = student.row.metrics.last["top1"] if student.row.metrics else 0.0
    with pytest.raises(
        MismatchError, match=r"points apart, and 0\.0001 are allowed; --tolerance .* 20 for one image of 5"
    ):
        student.export("torchscript", tmp_path / "out")
    (file,) = student.export("torchscript", tmp_path / "out", tolerance=100.0).files
    assert file.check.measured is not None and abs(file.check.measured - task_metric) >= 20


def test_images_that_are_too_thin_are_refused_before_any_is_predicted(detector: Trained, tmp_path: Path) -> None:
    images = [picture(tmp_path / "a.png"), picture(tmp_path / "thin.png", 3000, 2)]
    with pytest.raises(DataError, match=r"thin\.png: an image of 3000x2 pixels is too thin; cut it into parts"):
        predict(detector.results, detector.row.id, images, detector.place, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_predictions_before_a_damaged_image_are_kept(
    student: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.png")
    content = bytearray((tmp_path / "b.png").read_bytes())
    content[600:700] = bytes(100)
    (tmp_path / "b.png").write_bytes(content)
    assert _images.is_complete(tmp_path / "b.png")
    images = [picture(tmp_path / "a.png"), tmp_path / "b.png"]
    with pytest.raises(DataError, match=r"b\.png: cannot be decoded"):
        predict(student.results, student.row.id, images, student.place, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"]
    assert [Path(each["image"]).name for each in found] == ["a.png"]
