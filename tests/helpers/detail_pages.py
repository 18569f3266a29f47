"""A report whose cells have scores of classes and pictures of predictions, with names that would be HTML."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from kdbench.records.class_scores import ClassScores, write_class_scores
from kdbench.records.row import Row
from kdbench.records.store import Store, read_rows
from kdbench.report.evidence import NOTHING
from kdbench.report.html.class_tables import ClassTables
from kdbench.report.html.details import Sources
from kdbench.report.html.lines import Line, all_lines
from kdbench.report.html.site import Content
from kdbench.report.html.tiles import Tiles
from kdbench.report.panel_file import PanelRecord, Role, Tile, TileRow, described
from kdbench.spec.table import Table, load_table
from tests.helpers.report_pages import HOSTILE
from tests.helpers.rows import MINI_TEACHER, expand, mini_truth

CLASSES = (*(f"digit {k}" for k in range(9)), HOSTILE)
IMAGES = ("one", HOSTILE)
SIDE = 40
"""Of a tile, pixels."""


def table() -> Table:
    return load_table("dist/coco")


def write_runs(folder: Path) -> list[Row]:
    """Runs of every cell at mini scale, two seeds, those of seed 0 with scores of their classes; returns their rows."""
    for row in expand(table(), "mini", (0, 1), mini_truth):
        Store(folder).write(row)
        if row.run.seed == 0:
            write_class_scores(folder / row.id, class_scores(row))
    return read_rows([folder])[0]


def class_scores(row: Row) -> ClassScores:
    """AP of ten classes a point apart, around the row's; the teacher's are two points apart."""
    assert row.student and row.metrics
    return ClassScores(
        run=row.id,
        student=row.student.sha256,
        metric="ap",
        classes=CLASSES,
        counts=(50,) * 10,
        scores=tuple(row.metrics.last["ap"] + k - 4.5 for k in range(10)),
        teacher=tuple(MINI_TEACHER + 2 * (k - 4.5) for k in range(10)) if row.teacher else None,
    )


def panel(path: Path, rows: list[Row], **changes: str) -> PanelRecord:
    """Write a panel of the first pair: truth, its teacher, and the students of seed 0; returns what it says."""
    shown = [row for row in rows if row.run.seed == 0 and row.run.student == "retinanet_mini_student"]
    networks: list[tuple[str, Role, str]] = [("truth", "data", ""), ("teacher", "teacher", "")]
    networks += [(row.run.method, "none" if row.run.method == "none" else "method", row.id) for row in shown]
    sha256 = changes.get("sha256", "cd" * 32)
    record = PanelRecord(
        task="detection",
        images=IMAGES,
        note="boxes with a score of 0.3 or more",
        legend=((HOSTILE, "#ff0000"),),
        rows=tuple(
            TileRow(label=label, role=role, run=run, sha256=sha256 if run else "", score="30.0", tiles=_tiles(j))
            for j, (label, role, run) in enumerate(networks)
        ),
    )
    page = Image.new("RGB", (SIDE * len(IMAGES), SIDE * len(networks)))
    for j in range(len(networks)):
        for k in range(len(IMAGES)):
            page.paste((20 * j, 120 * k, 200), (SIDE * k, SIDE * j, SIDE * (k + 1), SIDE * (j + 1)))
    content = io.BytesIO()
    page.save(content, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(described(content.getvalue(), record))
    return record


def _tiles(j: int) -> tuple[Tile, ...]:
    boxes = [(SIDE * k, SIDE * j, SIDE * (k + 1), SIDE * (j + 1)) for k in range(len(IMAGES))]
    return tuple(Tile(box=box, words=f"{HOSTILE} 0.{j}{k}") for k, box in enumerate(boxes))


def content(runs: Path, plots: Path | None = None) -> Content:
    """The page of the runs in a folder."""
    rows, _ = read_rows([runs])
    commands = {table().name: f"kdbench plots {table().name}"}
    return Content(lines(rows), [], [], sources=Sources(ClassTables(runs, rows), Tiles(plots, commands)))


def lines(rows: list[Row]) -> list[Line]:
    return all_lines([table()], rows, NOTHING)
