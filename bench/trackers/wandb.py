"""Weights & Biases: a run of a project, online or, with `WANDB_MODE=offline`, in a local folder."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from typing import Any

from ..errors import SpecError
from ..records.atomic import write_atomically
from ..records.row import Row
from ..spec.run import Run
from .base import Settings, Tracker, hyper_parameters, summary

STATE = "wandb.json"


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
        """Begin a run of wandb, or continue the last one; the run's folder keeps its id and its last steps."""
        import wandb

        self.file = settings.folder / STATE
        resumed = settings.resumed_at is not None and self.file.exists()
        self.state: dict[str, Any] = json.loads(self.file.read_bytes()) if resumed else {"id": secrets.token_hex(4)}
        folder = settings.log_dir or settings.folder
        folder.mkdir(parents=True, exist_ok=True)
        self.exit_code = 255
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "kdbench"),
            name=settings.name,
            id=self.state["id"],
            group=f"{run.teacher_network} -> {run.student}" if run.teacher_network else run.student,
            job_type=run.method,
            config=hyper_parameters(run),
            dir=str(folder),
            resume="allow" if resumed else None,
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, save_code=False),
        )

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values, unless they were logged before the run was stopped."""
        self._log("step", step, values)

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics, unless they were logged before the run was stopped."""
        self._log("epoch", step, metrics)

    def finish(self, row: Row) -> None:
        """Keep the row's values in the run's summary."""
        self.run.summary.update(summary(row))
        self.exit_code = 0 if row.status == "done" else 1

    def close(self) -> None:
        """End the run; one that was interrupted as failed."""
        self.run.finish(exit_code=self.exit_code)

    def _log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        if step > self.state.get(kind, -1):
            self.run.log(dict(values), step=step)
            self.state[kind] = step
            write_atomically(self.file, json.dumps(self.state).encode())
