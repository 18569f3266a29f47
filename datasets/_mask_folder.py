"""Any folder of images and masks: `images/{train,val}/*`, `masks/{train,val}/*.png`, `classes.txt`.

An image and its mask have the same name without suffix. Masks are 8-bit grayscale images: gray level i is the class in
line i of `classes.txt`, counted from 0, and one gray level is ignored.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from pathlib import Path

from . import _files, _layouts, _masks
from ._text import counted
from .base import IGNORE_INDEX, DataError, MaskSet

LAYOUT = "images/{train,val}/*, masks/{train,val}/*.png under the same names, and classes.txt with a name a line"
MASKS = (".png",)
IMAGES = (".png", ".webp", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAX_CLASSES = 255  # 8 bits, without the ignored level


def open_folder(
    path: Path,
    name: str = "",
    ignore_index: int = IGNORE_INDEX,
    colors: tuple[tuple[int, int, int], ...] | None = None,
) -> MaskSet:
    """The segmentation set in the folder `path`.

    Args:
        path: a folder with the files of `LAYOUT`.
        name: name in result rows; the name of the folder by default.
        ignore_index: gray level of ignored pixels.
        colors: RGB of each class; distinct hues by default (our choice).

    Raises:
        DataError: files are missing or broken, or an argument is out of range.
    """
    if not path.is_dir():
        raise DataError(f"{path}: is not a folder; put a segmentation set there: {LAYOUT}")
    classes = _classes(path / "classes.txt")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int) or not 0 <= ignore_index <= 255:
        raise DataError(f"data option ignore_index={ignore_index!r}: must be a whole number, 0 to 255")
    if ignore_index < len(classes):
        raise DataError(
            f"data option ignore_index={ignore_index}: is the class {classes[ignore_index]!r} in line {ignore_index} "
            f"of {path / 'classes.txt'}, counted from 0; give the gray level of ignored pixels, or remove the class"
        )
    val = _layouts.validation_folder(path / "images")
    labels = {i: i for i in range(len(classes))} | {ignore_index: IGNORE_INDEX}
    return _masks.open_set(
        name=name or _files.name_of(path),
        path=path,
        classes=classes,
        colors=colors or tuple(_color(i) for i in range(len(classes))),
        labels=labels,
        pairs={"train": _pairs(path, "train"), "val": _pairs(path, val)},
        fix=f"add it to {path / 'classes.txt'}, which ends at {len(classes) - 1}, or give the ignored gray level with "
        f"--ignore-index (now {ignore_index})",
        notices=(*_layouts.validation_notices(path / "images", val), *_nested(path, {"train", val})),
    )


def _classes(file: Path) -> list[str]:
    try:
        text = _files.read_bytes(file, MAX_CLASSES * 1000).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is not UTF-8 text"
        raise DataError(f"{file}: cannot be read ({reason}); write the name of a class in each line") from error
    names = [line.strip() for line in text.rstrip().splitlines()]
    if "" in names:
        raise DataError(
            f"{file}: line {names.index('') + 1} is empty; remove it, or name the class, since the lines are counted"
        )
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{file}: names {repeated[0]!r} twice; give every class a different name")
    if len(names) == 1:
        raise DataError(
            f"{file}: names {names[0]!r} alone, and of one class nothing can be learned; name the background in a line "
            f"of its own: gray level 0 is the class in the first line, and 1 that in the second"
        )
    if not 2 <= len(names) <= MAX_CLASSES:
        raise DataError(f"{file}: names {counted(len(names), 'class', 'classes')}; 2 to {MAX_CLASSES} are possible")
    return names


def _pairs(path: Path, split: str) -> list[tuple[Path, Path]]:
    images, masks = _stems(path / "images" / split, IMAGES), _stems(path / "masks" / split, MASKS)
    for files, partners, folder, what, suffixes in (
        (images, masks, "masks", "mask", MASKS),
        (masks, images, "images", "image", IMAGES),
    ):
        if unpaired := sorted(files.keys() - partners.keys()):
            raise DataError(
                f"{files[unpaired[0]]}: has no {what}, like {len(unpaired)} of {counted(len(files), 'file')}; put one "
                f"of the same name into {path / folder / split} ({', '.join(suffixes)}), or remove it"
            )
    return [(images[stem], masks[stem]) for stem in sorted(images)]


def _nested(path: Path, splits: set[str]) -> Iterator[str]:
    """That images in folders below those of the splits are not read."""
    for folder in (path / kind / split for kind in ("images", "masks") for split in sorted(splits)):
        below = [file for file in sorted(folder.glob("[!.]*/**/*")) if file.suffix.lower() in IMAGES]
        if below:
            first = below[0].relative_to(folder)
            yield f"{folder}: {counted(len(below), 'image')} in folders below (first: {first}); not read"


def _stems(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files with these suffixes by stem, without hidden files."""
    try:
        visible = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
        files = [file for file in visible if file.suffix.lower() in suffixes]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); a segmentation set has {LAYOUT}") from error
    if not files:
        raise DataError(f"{folder}: contains no image; a segmentation set has {LAYOUT}")
    by_stem: dict[str, Path] = {}
    for file in files:
        if file.stem in by_stem:
            raise DataError(f"{file}: has the same name as {by_stem[file.stem].name}; keep one of them")
        by_stem[file.stem] = file
    return by_stem


def _color(i: int) -> tuple[int, int, int]:
    """RGB of class i: hues at golden-section steps, with saturation and value in cycles of three."""
    red, green, blue = colorsys.hsv_to_rgb(i * 0.618034 % 1, (0.85, 0.5, 0.95)[i % 3], (0.95, 0.85, 0.6)[i // 3 % 3])
    return round(255 * red), round(255 * green), round(255 * blue)
