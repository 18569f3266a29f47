"""`--set image_size=S`: what it stands for in each kind of recipe, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from kdbench.errors import SpecError
from kdbench.grid.cells import expand
from kdbench.spec import image_size
from kdbench.spec.recipe import Recipe, evaluated_alike, load_recipe
from kdbench.spec.scale import Scale
from kdbench.spec.table import load_table


def changed(recipe: str, changes: dict[str, Any], teacher: bool = False, **fields: Any) -> Recipe:
    plain = load_recipe(recipe, fields)
    return load_recipe(recipe, {**fields, **image_size.changes_of(plain, changes, teacher)})


@pytest.mark.parametrize(
    ("recipe", "size", "expected"),
    [
        ("coco_2x", 320, {"shorter": 320, "longer": 533}),
        ("coco_mini", 64, {"shorter": 64, "longer": 64}),
        ("imagenet_b1", 160, {"size": 160, "val_resize": 183}),
        ("imagenet_b3", 224, {"size": 224, "val_resize": 256}),
        ("cityscapes_dist", 256, {"height": 256, "width": 512}),
        ("camvid_cirkd", 180, {"height": 180, "width": 180}),
    ],
)
def test_ratios_of_the_recipe_are_kept(recipe: str, size: int, expected: dict[str, int]) -> None:
    image = changed(recipe, {"image_size": size}).image.model_dump()
    assert image == load_recipe(recipe).image.model_dump() | expected


def test_the_shorter_side_of_an_upright_crop_is_its_width() -> None:
    image = changed("cityscapes_dist", {"image_size": 128}, **{"image.height": 1024, "image.width": 512}).image
    assert (image.height, image.width) == (256, 128)  # type: ignore[union-attr]


def test_other_fields_of_the_images_and_of_the_recipe_are_free() -> None:
    recipe = changed("coco_2x", {"image_size": 320, "image.flip": 0.0, "batch_size": 8})
    assert (recipe.image.flip, recipe.batch_size, recipe.image.shorter) == (0.0, 8, 320)  # type: ignore[union-attr]


def recipes(changes: dict[str, Any], table: str = "dist/coco", scale: Scale = "full") -> tuple[Recipe, Recipe]:
    cell = expand(load_table(table), scale, changes)[0]
    return cell.recipe, cell.teacher_recipe


def test_one_size_is_of_students_and_teachers() -> None:
    students, teachers = recipes({"image_size": 320})
    assert students.image == teachers.image == changed("coco_2x", {"image_size": 320}).image
    assert evaluated_alike(students, teachers) and not evaluated_alike(students, load_recipe("coco_2x"))


def test_teachers_may_have_another_size() -> None:
    students, teachers = recipes({"image_size": 320, "teacher.image_size": 640})
    assert (students.image.shorter, teachers.image.shorter) == (320, 640)  # type: ignore[union-attr]
    students, teachers = recipes({"teacher.image_size": 640})
    assert (students.image.shorter, teachers.image.shorter) == (800, 640)  # type: ignore[union-attr]


def test_milestones_still_move_along() -> None:
    students, _ = recipes({"image_size": 320, "epochs": 12})
    assert (students.epochs, students.milestones, students.image.shorter) == (12, (8, 11), 320)  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [31, 0, -320, 320.0, "320", True, None, [320, 533], 2**14 + 1, 10**30])
def test_what_is_no_number_of_pixels_is_refused(value: Any) -> None:
    with pytest.raises(SpecError, match="image_size=.*: give a whole number of pixels, from 32 to 16384"):
        recipes({"image_size": value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 320, "image.shorter": 400},
         "--set image_size=320 sets image.shorter, image.longer of recipe coco_2x; remove it, or --set image.shorter"),
        ({"image_size": 320, "image.longer": 533}, "remove it, or --set image.longer"),
        ({"image_size": 320, "image": {"shorter": 320}}, "remove it, or --set image"),
        ({"image_size": 320, "teacher.image.shorter": 400}, "--set image_size=320 sets .* --set teacher.image.shorter"),
        ({"teacher.image_size": 320, "teacher.image.longer": 9}, "--set teacher.image_size=320 sets .*image.longer"),
        ({"image_sise": 320}, "unknown recipe field: 'image_sise'. Did you mean 'image_size'"),
    ],
)  # fmt: skip
def test_contradictions_and_misspellings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        recipes(changes)


@pytest.mark.parametrize("option", ["image_size", "teacher.image_size"])
def test_small_images_in_whole_batches_keep_their_size(option: str) -> None:
    with pytest.raises(SpecError, match=f"--set {option}=64: recipe cifar_240.* keep the size that they are stored in"):
        recipes({option: 64}, "dist/cifar100")
