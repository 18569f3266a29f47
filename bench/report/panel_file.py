"""The file of a panel: a PNG that says which networks, images and predictions are where in it.

What it says is a text of the PNG, so that a picture and its description never part.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, Literal

from PIL import Image, PngImagePlugin
from pydantic import Field, ValidationError

from ..records.history import Record
from ..records.row_file import InvalidRow

KEY = "kdbench"
SCHEMA = 1
MAX_PIXELS = 10**9
"""Of a page; far more than any that is drawn."""


Role = Literal["data", "teacher", "none", "method"]
Color = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]


class Tile(Record):
    """One image as one network sees it: left, top, right and bottom on the page, pixels, and what is seen, in words."""

    box: tuple[int, int, int, int]
    words: str


class TileRow(Record):
    """One network on all images: its run and the sha256 of its file, both empty for images and their truth."""

    label: str
    role: Role
    score: str = ""
    run: str = ""
    sha256: str = ""
    tiles: tuple[Tile, ...]


class PanelRecord(Record):
    """A page of images, as `kdbench plots` draws them."""

    schema_version: int = SCHEMA
    task: str
    images: tuple[str, ...] = Field(description="Names of the images' files.")
    rows: tuple[TileRow, ...]
    note: str = Field(default="", description="How to read the tiles.")
    legend: tuple[tuple[str, Color], ...] = Field(default=(), description="Names of classes with their colors.")


def described(png: bytes, record: PanelRecord) -> bytes:
    """The PNG with what it shows."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt(KEY, record.model_dump_json(), zip=True)
    content = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.save(content, "PNG", pnginfo=text, optimize=True)
    return content.getvalue()


def read_panel(path: Path) -> PanelRecord | InvalidRow | None:
    """What a PNG says that it shows, or why it cannot be read; None for a PNG that says nothing."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = image.info.get(KEY)
            size = image.size
            if text is None:
                return None
            if size[0] * size[1] > MAX_PIXELS:
                return InvalidRow(path, f"has {size[0]} × {size[1]} pixels, more than any panel")
            image.load()
    except (OSError, SyntaxError, ValueError) as error:
        return InvalidRow(path, f"is no whole PNG: {error}")
    try:
        record = PanelRecord.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        return InvalidRow(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    wrong = _misfit(record, size)
    return InvalidRow(path, wrong) if wrong else record


def _misfit(record: PanelRecord, size: tuple[int, int]) -> str:
    """What of the record is not in the picture; empty where all is."""
    if record.schema_version != SCHEMA:
        return f"schema_version: {record.schema_version} is not {SCHEMA}, which this version reads"
    for row in record.rows:
        if len(row.tiles) != len(record.images):
            return f"rows: {row.label} has {len(row.tiles)} images of {len(record.images)}"
        for tile in row.tiles:
            left, top, right, bottom = tile.box
            if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
                return f"rows: {tile.box} is not within {size[0]} × {size[1]} pixels"
    return ""
