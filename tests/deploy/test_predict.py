"""Predictions of saved students: as evaluation prepares images, in JSON and in pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench import tasks
from kdbench.datasets import DataError
from kdbench.deploy.predict import image_files, predict
from kdbench.deploy.preprocessing import preprocessing
from kdbench.deploy.saved import find_student, open_task
from kdbench.errors import SpecError
from kdbench.tasks.base import Task
from kdbench.tasks.detection import DetectionTask
from tests.helpers.students import Trained, train


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory, digits_path: Path) -> dict[str, Trained]:
    """A student of every task."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("students")
    return {
        "classification": train("classification", "resnet8", root),
        "segmentation": train("segmentation", "segmenter_mini_student", root),
        "detection": train("detection", "fcos_mini_student", root, digits_path),
    }


def opened(trained: Trained) -> Any:
    student = find_student(trained.results, trained.row.id)
    task = open_task(student, trained.place)
    assert isinstance(task, Task)
    return student, task, preprocessing(student, task)


def predictions(trained: Trained, images: list[Path], out: Path, **more: Any) -> dict[str, Any]:
    predict(trained.results, trained.row.id[:8], images, trained.place, out, **more)
    content: dict[str, Any] = json.loads((out / "predictions.json").read_text())
    return content


def test_a_classifier_predicts_the_images_of_the_data_as_evaluation_does(
    students: dict[str, Trained], tmp_path: Path
) -> None:
    student, task, _ = opened(students["classification"])
    for i, image in enumerate(task.data.val.images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (images, _) = next(task.images.val_batches(99, torch.device("cpu")))
    with torch.no_grad():
        expected = student.network.infer(images).softmax(1)
    found = predictions(students["classification"], [tmp_path], tmp_path / "out")
    assert [each["top"][0]["index"] for each in found["predictions"]] == expected.argmax(1).tolist()
    assert [each["score"] for each in found["predictions"]] == pytest.approx(expected.max(1).values.tolist(), abs=1e-5)
    first = found["predictions"][0]
    assert len(first["top"]) == 5 and first["class"] == student.classes[first["top"][0]["index"]]
    with Image.open(tmp_path / "out" / first["picture"]) as picture:
        assert picture.width == 256 and picture.height > 256


def test_a_detector_gives_the_boxes_of_evaluation_in_pixels_of_the_image(
    students: dict[str, Trained], tmp_path: Path
) -> None:
    student, task, _ = opened(students["detection"])
    assert isinstance(task, DetectionTask)
    task.recipe = task.recipe.model_copy(update={"batch_size": 1})  # padded as alone
    expected = [each for each in task.detections(student.network, torch.device("cpu")) if each["image_id"] == 1]
    file = next(task.data.val.path(i) for i in range(len(task.data.val)) if task.data.val.image_ids[i] == 1)
    (found,) = predictions(students["detection"], [file], tmp_path)["predictions"]
    assert len(found["boxes"]) == len(expected)
    for box, other in zip(found["boxes"], expected, strict=True):
        left, top, right, bottom = box["box"]
        assert [left, top, right - left, bottom - top] == pytest.approx(other["bbox"], abs=1e-3)
        assert task.data.category_ids[box["index"]] == other["category_id"]
    assert (tmp_path / found["picture"]).is_file()


def test_a_segmenter_writes_the_masks_of_evaluation_in_the_colors_of_the_data(
    students: dict[str, Trained], tmp_path: Path
) -> None:
    student, task, _ = opened(students["segmentation"])
    file = task.data.val.images[0]
    ((_, _, expected),) = list(task.predictions(student.network, torch.device("cpu"), [0]))
    (found,) = predictions(students["segmentation"], [file], tmp_path)["predictions"]
    with Image.open(tmp_path / found["mask"]) as mask:
        assert mask.mode == "P" and np.array_equal(np.asarray(mask), expected.numpy())
        palette = mask.getpalette()
        assert palette is not None and tuple(palette[3:6]) == tuple(task.data.colors[1])
    assert sum(found["shares"].values()) == pytest.approx(1)


def test_images_of_one_name_are_told_apart_and_folders_are_searched(tmp_path: Path) -> None:
    for folder in ("a", "b/deep"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "x.png")
    (tmp_path / "a" / "notes.txt").touch()
    assert list(image_files([tmp_path / "a", tmp_path / "b"])) == ["x", "x-2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.png", None, "does not exist; give image files"),
        ("text.png", b"no image", "cannot be decoded"),
        ("empty", "folder", "has no image file"),
    ],
)
def test_what_is_no_image_is_refused_before_any_work(
    name: str, content: Any, message: str, students: dict[str, Trained], tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((SpecError, DataError), match=message):
        predictions(students["classification"], [tmp_path / "good.png", tmp_path / name], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_truncated_image_is_refused(students: dict[str, Trained], tmp_path: Path) -> None:
    file = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cut\.png: is truncated"):
        predictions(students["classification"], [file], tmp_path / "out")


def test_a_picture_is_turned_as_its_tag_says(students: dict[str, Trained], tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20))
    tags = image.getexif()
    tags[274] = 6
    image.save(tmp_path / "turned.jpg", exif=tags)
    (found,) = predictions(students["classification"], [tmp_path / "turned.jpg"], tmp_path / "out")["predictions"]
    assert (found["width"], found["height"]) == (20, 40)


def test_every_task_is_predicted(students: dict[str, Trained]) -> None:
    assert set(students) == set(tasks.names())
