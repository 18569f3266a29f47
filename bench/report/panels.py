"""Pictures of what a table's networks predict: truth, teacher, student alone and methods, one below the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..spec.run import Run
from ..spec.table import Table
from .blocks import Block
from .box_panels import box_panel
from .mask_panels import mask_panel
from .pictures import Gallery, Panel

__all__ = ["PANELS", "Gallery", "panels"]

PANELS: dict[str, Callable[[Table, Block, Any, Gallery], Panel]] = {
    "detection": box_panel,
    "segmentation": mask_panel,
}
"""By task; the panel of one block."""


def panels(table: Table, blocks: Sequence[Block], gallery: Gallery) -> tuple[dict[str, Panel], list[str]]:
    """A panel for each block of a table, by name, and messages about what could not be drawn and why.

    Networks are read from their saved files and predict the images anew.
    """
    drawn: dict[str, Panel] = {}
    messages: list[str] = []
    measured = [
        (block, rows) for block in blocks if (rows := [line.cell.rows[0] for line in block.lines if line.cell.rows])
    ]
    for number, (block, rows) in enumerate(measured, 1):
        task = _task(rows[0].run, gallery)
        if isinstance(task, str):
            messages.append(f"{table.name}: no panel of {block.title}: {task}")
            continue
        name = "panel" if len(measured) == 1 else f"panel-{number}"
        drawn[name] = PANELS[table.task](table, block, task, gallery)
        messages += [f"{table.name}: {name} lacks {what}" for what in drawn[name].missing]
    return drawn, messages


def _task(run: Run, gallery: Gallery) -> Any:
    """The task on the run's data; or why that data cannot be opened."""
    from kdbench import datasets

    from .. import tasks

    if gallery.data is None and run.data.name not in datasets.names():
        return f"its runs used the data set {run.data.name}, which is not built in; give it with --data"
    try:
        options = run.data.options | gallery.open_options
        data: Any = tasks.get(run.task).open(run.data.name, gallery.root, gallery.data, options)
    except datasets.DataError as error:
        return str(error)
    if data.fingerprint != run.data.fingerprint:
        return (
            f"its runs used {run.data.name} {run.data.fingerprint}, and {data.path} is {data.fingerprint}; give --data"
        )
    return tasks.get(run.task)(data, run.recipe, run.data_seed)
