"""Pictures of predictions in the details: the tiles of the panels that `kdbench plots` draws, as files of their own."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from PIL import Image

from ...errors import StoreError
from ...records.row_file import InvalidRow
from ..cells import Cell
from ..panel_file import PanelRecord, TileRow, read_panel

TASKS = ("detection", "segmentation")
"""Whose predictions are drawn."""

QUALITY = 85

Found = tuple[Path, PanelRecord, TileRow]


class Tiles:
    """Panels in a folder, and files of their tiles.

    Args:
        folder: of panels; None for none.
        commands: by table, what draws its panels.

    Attributes:
        problems: panels that cannot be used, and why.
        written: names of files.
    """

    def __init__(self, folder: Path | None = None, commands: dict[str, str] | None = None) -> None:
        self._commands = commands or {}
        self._by_run: dict[str, Found] = {}
        self._files: dict[Path, list[list[str]]] = {}
        self.problems: list[str] = []
        self.written: set[str] = set()
        for path in sorted(folder.glob("*panel*.png")) if folder and folder.is_dir() else ():
            record = read_panel(path)
            if isinstance(record, InvalidRow):
                self.problems.append(f"{path}: {record.reason}; `kdbench plots` draws it anew")
            if isinstance(record, PanelRecord):
                self._by_run |= {row.run: (path, record, row) for row in record.rows if row.role in ("none", "method")}

    def pictures(self, cell: Cell, table: str, out: Path) -> dict[str, Any] | None:
        """What the details show of a cell's predictions, with tiles written to `out`; None where none are drawn.

        `images` with `name` and `tiles` (`label`, `score`, `words`, `file`, size, and whether it is `main`: the data,
        the teacher, the student alone or the cell itself), `note`, `legend`; or `missing`, a sentence.

        Raises:
            StoreError: a file cannot be written.
        """
        if not cell.rows or cell.rows[0].run.task not in TASKS:
            return None
        command = f"`{self._commands.get(table, 'kdbench plots')}{' --scale mini' if cell.scale == 'mini' else ''}`"
        found = next((self._by_run[row.id] for row in cell.rows if row.id in self._by_run), None)
        if found is None:
            return {"missing": f"There are no pictures of its runs; {command} draws them."}
        path, record, own = found
        if own.sha256 not in {row.student.sha256 for row in cell.rows if row.student}:
            return {"missing": f"Its pictures are of an earlier training of the run; {command} draws them anew."}
        files = self._tile_files(path, record, out)
        return {
            "images": [
                {"name": name, "tiles": [_tile(row, k, files[j][k], row is own) for j, row in enumerate(record.rows)]}
                for k, name in enumerate(record.images)
            ],
            "note": record.note,
            "legend": record.legend,
        }

    def _tile_files(self, path: Path, record: PanelRecord, out: Path) -> list[list[str]]:
        """Names of the files of a panel's tiles, which are written once; a name is the hash of the content."""
        if path not in self._files:
            with Image.open(path, formats=["PNG"]) as file:
                page = file.convert("RGB")
                tiles = [[_encoded(page.crop(tile.box)) for tile in row.tiles] for row in record.rows]
            self._files[path] = [[self._write(content, out) for content in row] for row in tiles]
        return self._files[path]

    def _write(self, content: bytes, out: Path) -> str:
        name = f"{hashlib.sha256(content).hexdigest()[:16]}.webp"
        if name not in self.written:
            try:
                out.mkdir(parents=True, exist_ok=True)
                (out / name).write_bytes(content)
            except OSError as error:
                raise StoreError(f"{out / name}: the report cannot be written: {error.strerror}") from error
            self.written.add(name)
        return name


def _encoded(tile: Image.Image) -> bytes:
    content = io.BytesIO()
    tile.save(content, "WEBP", quality=QUALITY)
    return content.getvalue()


def _tile(row: TileRow, k: int, file: str, is_own: bool) -> dict[str, Any]:
    left, top, right, bottom = row.tiles[k].box
    return {
        "label": row.label,
        "score": row.score,
        "words": row.tiles[k].words,
        "file": file,
        "width": right - left,
        "height": bottom - top,
        "main": is_own or row.role != "method",
        "own": is_own,
    }
