"""A report of synthetic rows, with names that would be HTML, for tests of the page."""

from __future__ import annotations

from pathlib import Path

from kdbench.records.row import Row
from kdbench.records.store import InvalidRow
from kdbench.report.evidence import NOTHING
from kdbench.report.html.lines import all_lines
from kdbench.report.html.site import Content, write
from kdbench.report.overview import summarize
from kdbench.spec.reported import load_reported
from kdbench.spec.table import MethodEntry, Table, load_table
from tests.helpers.rows import expand, full_truth, mini_truth
from tests.helpers.tables import cifar_table

HOSTILE = '<img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>\'`${1}'
FORMULA = "=1+1"
INVALID = InvalidRow(Path("runs/damaged/row.json"), f"is no row: {HOSTILE}")


def tables() -> list[Table]:
    """AvatarKD's table on COCO, and one whose methods have hostile names."""
    hostile = cifar_table("none", MethodEntry(method="kd", label=HOSTILE), MethodEntry(method="dist", label=FORMULA))
    return [load_table("akd/coco"), hostile]


def rows() -> list[Row]:
    """Three seeds of every cell: COCO at full scale, the other table at mini scale."""
    coco, hostile = tables()
    return [*expand(coco, "full", (0, 1, 2), full_truth), *expand(hostile, "mini", (0, 1, 2), mini_truth)]


def content() -> Content:
    """The rows above with the numbers of the papers on COCO."""
    measured = rows()
    papers = summarize(tables(), {name: load_reported(name) for name in ("akd", "maskd")}, measured, NOTHING)
    return Content(all_lines(tables(), measured, NOTHING, papers), papers, [f"left out: {INVALID.reason}"])


def build(folder: Path) -> Path:
    """The report in a folder; returns its page."""
    return write(content(), folder)
