"""TensorBoard: event files in the folder of each run, or in a folder of the user."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..records.row import Row
from ..spec.run import Run
from ..text import markdown_cell
from .base import Settings, Tracker, hyper_parameters, summary

FOLDER = "tensorboard"


class TensorBoard(Tracker):
    """Writes to `<run>/tensorboard`, which `<results>/tensorboard/<name>` links to, or to `<log_dir>/<name> <id>`."""

    requires = "tensorboard"

    def start(self, run: Run, settings: Settings) -> None:
        """Open a file; TensorBoard does not show the points of earlier ones."""
        from torch.utils.tensorboard import SummaryWriter

        folder = _folder(run, settings)
        purge = 0 if any(folder.glob("events.out.tfevents.*")) else None
        self.run, self.steps = run, 0
        self.writer: Any = SummaryWriter(str(folder), purge_step=purge)
        self.writer.add_text("run", _table({"name": settings.name, **hyper_parameters(run)}), self.steps)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values as scalars, and write them at once."""
        self.steps = step
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics as scalars."""
        self.step(step, metrics)

    def finish(self, row: Row) -> None:
        """Log the row's values as scalars and text, and the hyper-parameters with the metrics for their dashboard."""
        from torch.utils.tensorboard.summary import hparams

        content = summary(row)
        scalars = {name: value for name, value in content.items() if isinstance(value, (int, float))}
        self.step(self.steps, scalars)
        self.writer.add_text("row", _table(content), self.steps)
        metrics = {f"val/{name}": value for name, value in (row.metrics.last if row.metrics else {}).items()}
        for part in hparams(hyper_parameters(self.run), metrics):
            self.writer.file_writer.add_summary(part)

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


def _folder(run: Run, settings: Settings) -> Path:
    name = settings.name.replace("/", "_")[:200]
    if settings.log_dir is not None:
        earlier = sorted(settings.log_dir.glob(f"* {run.id}"))  # a variant's name may have been shorter then
        return earlier[0] if earlier else settings.log_dir / f"{name} {run.id}"
    folder = settings.folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # a file system without links: the files are in the run's folder all the same
        _link(settings.results / FOLDER, name, run.id)
    return folder


def _link(links: Path, name: str, run_id: str) -> None:
    """Link a run's files under its name alone; the name of another run gets the id as well."""
    links.mkdir(exist_ok=True)
    target = os.path.join("..", run_id, FOLDER)
    for link in links.iterdir():
        if link.is_symlink() and os.readlink(link) == target:
            link.unlink()
    taken = os.path.lexists(links / name)
    (links / (f"{name} {run_id}" if taken else name)).symlink_to(target, target_is_directory=True)


def _table(content: Mapping[str, Any]) -> str:
    rows = [f"| {markdown_cell(name)} | {markdown_cell(str(value))} |" for name, value in content.items()]
    return "\n".join(["| | |", "|---|---|", *rows])
