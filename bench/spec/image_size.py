"""`--set image_size=S`: one field for the size of images, whatever the recipe's kind of preparation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from ..errors import SpecError
from .recipe import PaddedCrop, Recipe, Resize, ResizedCrop, ScaledCrop

NAME = "image_size"

LEAST = 32
"""Pixels of an image at one pixel of the coarsest stage of a backbone, and of the multiple that detectors pad to."""

LARGEST = 2**14
"""Pixels a side; larger ones are typing errors."""


def changes_of(recipe: Recipe, changes: Mapping[str, Any], teacher: bool) -> dict[str, Any]:
    """A user's changes of a recipe by field, with those of its `image` that `image_size` sets in its place.

    `image_size` is of students and teachers, because they read one stream of images: a teacher would teach at a size
    that it was not trained at. `teacher.image_size` gives teachers another one.

    Args:
        recipe: without the changes; its ratios are kept.
        changes: as in `RunRequest.changes`, those of teachers by `teacher.FIELD`.
        teacher: whether the recipe is the teachers'.

    Raises:
        SpecError: the size is no number of pixels, it is too small or large, the recipe's images keep their size, or
            the changes also have a field that it sets.
    """
    owner = "teacher." if teacher else ""
    of_owner = {name: value for name, value in changes.items() if name.startswith("teacher.") == teacher}
    given = f"{owner}{NAME}" if f"{owner}{NAME}" in changes else NAME
    rest = {name.removeprefix(owner): value for name, value in of_owner.items() if name != given}
    if given not in changes:
        return rest
    size = changes[given]
    option = f"--set {given}={size}"
    if type(size) is not int or not LEAST <= size <= LARGEST:
        raise SpecError(f"{option}: give a whole number of pixels, from {LEAST} to {LARGEST}")
    fields = _fields(recipe, size, option)
    for name in rest:
        if name in fields or name in ("image", "image.kind"):
            raise SpecError(
                f"{option} sets {', '.join(fields)} of recipe {recipe.name}; remove it, or --set {owner}{name}"
            )
    return rest | fields


def _fields(recipe: Recipe, size: int, option: str) -> dict[str, int]:
    """The fields of a recipe's image for a size of the shorter side."""
    image = recipe.image
    match image:
        case Resize():
            return {"image.shorter": size, "image.longer": round(image.longer * size / image.shorter)}
        case ResizedCrop():
            return {"image.size": size, "image.val_resize": round(image.val_resize * size / image.size)}
        case ScaledCrop():
            shorter = min(image.height, image.width)
            return {f"image.{side}": round(getattr(image, side) * size / shorter) for side in ("height", "width")}
        case PaddedCrop():
            raise SpecError(
                f"{option}: recipe {recipe.name} takes small images in whole batches (image.kind padded_crop), which "
                "keep the size that they are stored in; remove it, or store the images in that size"
            )
    assert_never(image)
