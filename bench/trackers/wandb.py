"""Weights & Biases: a run of a project, online or, with `WANDB_MODE=offline`, in a local folder."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..records.atomic import write_atomically
from ..records.row import Row
from ..spec.run import Run
from .base import Settings, Tracker, hyper_parameters, summary

ID = "wandb.id"
"""File in a run's folder: the id of the run at wandb."""


class WeightsAndBiases(Tracker):
    """Logs to the project `WANDB_PROJECT`, else `kdbench`; local files are in the run's folder, or in `log_dir`."""

    requires = "wandb"

    @classmethod
    def check(cls) -> None:
        """Whether there is an API key, for wandb would ask for one while the runs train.

        Raises:
            SpecError: there is none, and the mode is not offline.
        """
        import wandb

        if os.environ.get("WANDB_MODE", "online") in ("online", "run", "shared") and not wandb.api.api_key:
            raise SpecError("--log wandb: there is no API key; run `wandb login` once, or set WANDB_MODE=offline")

    def start(self, run: Run, settings: Settings) -> None:
        """Begin a run of wandb, or continue the last one."""
        import wandb

        file = settings.folder / ID
        earlier = file.read_text() if settings.resumed_at is not None and file.exists() else ""
        self.id = earlier or secrets.token_hex(4)
        write_atomically(file, self.id.encode())
        folder = settings.log_dir or settings.folder
        folder.mkdir(parents=True, exist_ok=True)
        self.exit_code = 255
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "kdbench"),
            name=settings.name,
            id=self.id,
            group=f"{run.teacher_network} -> {run.student}" if run.teacher_network else run.student,
            job_type=run.method,
            config=hyper_parameters(run),
            dir=str(folder),
            resume="allow" if earlier and os.environ.get("WANDB_MODE") != "offline" else None,
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, save_code=False),
        )
        if self.run.offline:
            self._remove_superseded(folder)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values, unless the server has points of later steps."""
        if step >= self.run.starting_step:  # of the server; 0 offline
            self.run.log(dict(values), step=step)

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics, likewise."""
        self.step(step, metrics)

    def finish(self, row: Row) -> None:
        """Keep the row's values in the run's summary."""
        self.run.summary.update(summary(row))
        self.exit_code = 0 if row.status == "done" else 1

    def close(self) -> None:
        """End the run; one that was interrupted as failed."""
        self.run.finish(exit_code=self.exit_code)

    def _remove_superseded(self, folder: Path) -> None:
        """Delete earlier offline files of the run: the new ones have their points, and would be replaced by them."""
        current = Path(self.run.dir).parent.name
        for each in (folder / "wandb").glob(f"offline-run-*-{self.run.id}*"):
            if each.name != current:
                shutil.rmtree(each)
