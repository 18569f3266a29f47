"""Files of details: scripts of many lines each, below the size that static hosts and browsers handle well."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...errors import StoreError
from ...records.store import no_garbage_collection
from .details import Sources, details
from .lines import Line
from .packed import encoded, literal
from .redact import Clean, unchanged

LARGEST = 250_000
"""Characters of a file; a line that has more has a file of its own."""

PICTURES = Path("data/pictures")
CELLS = Path("data/cells")


class Shards:
    """Writes files of details, one after another; each is named by its content, so that a page finds its own.

    Attributes:
        starts: name of each file, and the place of its first line in the table.
    """

    def __init__(self, folder: Path) -> None:
        self.starts: list[tuple[str, int]] = []
        self._folder = folder
        self._place = 0
        self._begin()

    def _begin(self) -> None:
        self._first = self._place
        self._texts: dict[str, int] = {}
        self._cells: list[str] = []
        self._size = 0

    def add(self, line_id: str, content: dict[str, Any]) -> None:
        """Add the details of the next line; texts of `blocks` are in the file once."""
        known = len(self._texts)
        cell = self._cell(line_id, content)
        added = sum(map(len, list(self._texts)[known:]))
        if self._cells and self._size + len(cell) + added > LARGEST:
            for text in list(self._texts)[known:]:
                del self._texts[text]
            self.close()
            cell, added = self._cell(line_id, content), sum(map(len, self._texts))
        self._cells.append(cell)
        self._size += len(cell) + added
        self._place += 1

    def _cell(self, line_id: str, content: dict[str, Any]) -> str:
        sections = [
            section | {"blocks": [self._texts.setdefault(text, len(self._texts)) for text in section["blocks"]]}
            if "blocks" in section
            else section
            for section in content["sections"]
        ]
        return f"{encoded(line_id)}:{encoded(content | {'sections': sections})}"

    def close(self) -> None:
        """Write the lines that are not yet in a file.

        Raises:
            StoreError: it cannot be written.
        """
        if not self._cells:
            return
        text = f'{{"texts":{encoded(list(self._texts))},"cells":{{{",".join(self._cells)}}}}}'
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        content = f"kdbench.showDetails({literal(name)},JSON.parse({literal(text)}));\n"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / f"{name}.js").write_text(content, encoding="utf-8")
        except OSError as error:
            raise StoreError(f"{self._folder}: the report cannot be written: {error.strerror}") from error
        self.starts.append((name, self._first))
        self._begin()


def write_details(
    lines: Iterable[Line], out: Path, sources: Sources, clean: Clean = unchanged
) -> tuple[list[tuple[str, int]], set[Path]]:
    """Write the details of all lines, and their pictures, into the folder of a report.

    Returns:
        Name and first line of each file of details, and all files that were written.

    Raises:
        StoreError: a file cannot be written.
    """
    shards = Shards(out / CELLS)
    with no_garbage_collection():  # of all rows, again and again, which would take most of the time
        for line in lines:
            shards.add(line.id, clean(details(line, sources, out / PICTURES)))
    shards.close()
    files = {CELLS / f"{name}.js" for name, _ in shards.starts}
    return shards.starts, files | {PICTURES / name for name in sources.tiles.written}


def remove_others(out: Path, files: set[Path]) -> None:
    """Remove details and pictures of an earlier report.

    Raises:
        StoreError: one cannot be removed.
    """
    for path in [*(out / CELLS).glob("*.js"), *(out / PICTURES).glob("*.webp")]:
        try:
            if path.relative_to(out) not in files:
                path.unlink()
        except OSError as error:
            raise StoreError(f"{path}: cannot be removed: {error.strerror}") from error
