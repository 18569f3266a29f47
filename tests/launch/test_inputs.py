"""What a message about a recipe advises makes it fit, for students' and for teachers' recipes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdbench.errors import SpecError
from kdbench.launch import inputs
from kdbench.launch.planning import FinalPlan, make_plans
from kdbench.spec.recipe import ScaledCrop
from kdbench.spec.request import RunRequest, parse_changes, parse_methods
from kdbench.spec.table import load_table
from tests.helpers.pictures import Pictures, short


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Two images a split of two classes, 64x80 and 96x64 pixels."""
    path = tmp_path / "mine"
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (path / kind / split).mkdir(parents=True)
        for name, (height, width) in (("a", (64, 80)), ("b", (96, 64))):
            mask = (np.arange(height * width).reshape(height, width) % 2).astype(np.uint8)
            Image.fromarray(mask).save(path / "masks" / split / f"{name}.png")
            Image.fromarray(100 * mask).save(path / "images" / split / f"{name}.png")
    (path / "classes.txt").write_text("one\ntwo\n")
    return path


def planned(masks: Path, results: Path, changes: dict[str, Any]) -> FinalPlan | str:
    """The plan with these changes of recipes, or why there is none."""
    request = RunRequest(
        data=masks,
        scale="mini",
        seeds=(0,),
        methods=parse_methods("kd"),
        devices=("cpu",),
        results=results,
        changes=changes,
    )
    try:
        (plan,) = make_plans([load_table("cirkd/camvid")], request, lambda _: None)
    except SpecError as error:
        return str(error)
    return plan


def test_what_is_advised_about_recipes_makes_them_fit(masks: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {}
    owners = set()
    while isinstance(found := planned(masks, tmp_path / "runs", changes), str):
        advised = parse_changes(re.findall(r"--set (\S+=\S+)", found))
        assert any(changes.get(name) != value for name, value in advised.items()), found
        owners |= {name.startswith("teacher.") for name in advised}
        changes |= advised
    recipes = {run.recipe.name: run.recipe for run in found.plan.runs}
    assert owners == {True, False} and len(recipes) == 2
    for recipe in recipes.values():
        assert isinstance(recipe.image, ScaledCrop) and recipe.batch_size == 2
        assert (recipe.image.height, recipe.image.width) == (64, 64)


@pytest.mark.parametrize(
    ("refused", "changes", "message"),
    [
        ("mlkd", {}, r"mlkd reads further views of each image \(strong\)"),
        ("wsld", {"image.mixup": 0.8}, r"wsld needs one class per image.* --set image.mixup=0.0 --set image.cutm"),
    ],
)
def test_a_method_that_cannot_read_what_images_in_files_give_is_refused_in_a_plan(
    refused: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (40, 40), (40 * i, 0, 0)).save(folder / f"{i}.jpg")
    changes = {"batch_size": 4, "teacher.batch_size": 4, **changes}
    request = RunRequest(
        data=tmp_path / "data", results=tmp_path / "results", changes=changes, pairs=("resnet34->resnet18",)
    )
    table = load_table("dist/imagenet")
    with pytest.raises(SpecError, match=message):
        make_plans([table], replace(request, methods=parse_methods(refused)), lambda _: None)
    assert make_plans([table], replace(request, methods=parse_methods("kd")), lambda _: None)


@pytest.mark.parametrize(
    ("delta", "changes", "message"),
    [
        (0.3, {}, r"^dot\+kd: the method changes the momentum of the recipe, 0.9, by 0.3"),
        (0.075, {"nesterov": True}, r"^dot\+kd: .* give --set optimizer=sgd --set nesterov=false"),
    ],
)
def test_momenta_that_a_recipe_cannot_have_are_refused_before_any_work(
    delta: float, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pictures = Pictures(tmp_path)
    sgd: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.9, "nesterov": False}
    fits, refused = (
        pictures.run("dot+kd", recipe=short(**sgd | more), options={"delta": each})
        for each, more in ((0.075, {}), (delta, changes))
    )
    inputs._check_methods([fits], 24, 1)
    with pytest.raises(SpecError, match=message):
        inputs._check_methods([fits, refused], 24, 1)
