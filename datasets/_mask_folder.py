"""Any folder of images and masks: `images/{train,val}/*`, `masks/{train,val}/*.png`, `classes.txt`.

An image and its mask bear one name, endings aside. Masks are 8-bit greyscale images: grey level i is the class in line
i of `classes.txt`, counted from 0, and one level counts for nothing.
"""

from __future__ import annotations

import colorsys
from pathlib import Path

from . import _masks
from .base import VOID, DataError, MaskSet

LAYOUT = "images/{train,val}/*, masks/{train,val}/*.png under the same names, and classes.txt with a name a line"
MASKS = (".png",)
IMAGES = (".png", ".webp", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MOST = 255  # classes that 8 bits can tell apart from void


def open_folder(
    path: Path,
    name: str = "",
    ignore_index: int = VOID,
    colours: tuple[tuple[int, int, int], ...] | None = None,
) -> MaskSet:
    """The folder `path` as a segmentation set.

    Args:
        path: holds what `LAYOUT` says.
        name: what results call it; the folder's own name by default.
        ignore_index: grey level of pixels that count for nothing.
        colours: of the classes; by default hues that are easy to tell apart (our choice).

    Raises:
        DataError: something is missing or broken; names it.
    """
    if not path.is_dir():
        raise DataError(f"{path}: is not a folder; put a segmentation set there: {LAYOUT}")
    classes = _classes(path / "classes.txt")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int) or not 0 <= ignore_index <= 255:
        raise DataError(f"data option ignore_index={ignore_index!r}: must be a whole number, 0 to 255")
    if ignore_index < len(classes):
        raise DataError(
            f"data option ignore_index={ignore_index}: is the class {classes[ignore_index]!r} in line {ignore_index} "
            f"of {path / 'classes.txt'}, counted from 0; give the grey level of void, or take the class out"
        )
    labels = {i: i for i in range(len(classes))} | {ignore_index: VOID}
    return _masks.open_set(
        name=name or path.resolve().name,
        path=path,
        classes=classes,
        colours=colours or tuple(_colour(i) for i in range(len(classes))),
        labels=labels,
        pairs={split: _pairs(path, split) for split in ("train", "val")},
        mend=f"name it in {path / 'classes.txt'}, which ends at {len(classes) - 1}, or give the level of void with "
        f"--ignore-index (now {ignore_index})",
    )


def _classes(file: Path) -> list[str]:
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); write the name of a class in each line") from error
    if "" in names:
        raise DataError(
            f"{file}: line {names.index('') + 1} is empty; remove it, or name the class, since the lines are counted"
        )
    if doubled := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{file}: names {doubled[0]!r} twice; give every class a name of its own")
    if not 2 <= len(names) <= MOST:
        raise DataError(f"{file}: names {len(names)} classes; 2 to {MOST} are possible")
    return names


def _pairs(path: Path, split: str) -> list[tuple[Path, Path]]:
    images, masks = _stems(path / "images" / split, IMAGES), _stems(path / "masks" / split, MASKS)
    for own, others, folder, what, kinds in (
        (images, masks, "masks", "mask", MASKS),
        (masks, images, "images", "image", IMAGES),
    ):
        if lonely := sorted(own.keys() - others.keys()):
            raise DataError(
                f"{own[lonely[0]]}: has no {what}, as {len(lonely)} of {len(own)} files; put one under the same name "
                f"into {path / folder / split} ({', '.join(kinds)}), or remove it"
            )
    return [(images[stem], masks[stem]) for stem in sorted(images)]


def _stems(folder: Path, kinds: tuple[str, ...]) -> dict[str, Path]:
    """Files of these endings, by name without its ending; hidden ones are left out."""
    try:
        found_here = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
        files = [file for file in found_here if file.suffix.lower() in kinds]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); a segmentation set holds {LAYOUT}") from error
    if not files:
        raise DataError(f"{folder}: holds no image; a segmentation set holds {LAYOUT}")
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise DataError(f"{file}: bears the name of {found[file.stem].name}; keep one of them")
        found[file.stem] = file
    return found


def _colour(i: int) -> tuple[int, int, int]:
    """Hues a golden section of the circle apart, in three depths in turn."""
    red, green, blue = colorsys.hsv_to_rgb(i * 0.618034 % 1, (0.85, 0.5, 0.95)[i % 3], (0.95, 0.85, 0.6)[i // 3 % 3])
    return round(255 * red), round(255 * green), round(255 * blue)
