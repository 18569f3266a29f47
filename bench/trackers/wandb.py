"""Weights & Biases: a run of a project, online or, with `WANDB_MODE=offline`, in a local folder."""

from __future__ import annotations

import json
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

JOURNAL = "wandb.jsonl"
"""In a run's folder: the id of the run at wandb, and every point that was logged, a line each. A process that is killed
loses what wandb has not yet sent or written, offline all of it."""


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
        """Begin a run of wandb, or continue the last one with the points that it has lost."""
        import wandb

        self.file = settings.folder / JOURNAL
        points = [] if settings.resumed_at is None else _read(self.file)
        header = next((each for each in points if "id" in each), None)
        resumed = header is not None
        header = header or {"id": secrets.token_hex(4)}
        folder = settings.log_dir or settings.folder
        folder.mkdir(parents=True, exist_ok=True)
        self.exit_code = 255
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "kdbench"),
            name=settings.name,
            id=header["id"],
            group=f"{run.teacher_network} -> {run.student}" if run.teacher_network else run.student,
            job_type=run.method,
            config=hyper_parameters(run),
            dir=str(folder),
            resume="allow" if resumed and os.environ.get("WANDB_MODE") != "offline" else None,
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, save_code=False),
        )
        kept = [each for each in points if "step" in each and each["step"] <= (settings.resumed_at or 0)]
        write_atomically(self.file, _line(header))
        for each in kept:
            self._log(each["step"], each["values"])
        if self.run.offline:
            self._remove_superseded(folder)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values, unless the server has points of later steps."""
        self._log(step, values)

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics, likewise."""
        self._log(step, metrics)

    def finish(self, row: Row) -> None:
        """Keep the row's values in the run's summary."""
        self.run.summary.update(summary(row))
        self.exit_code = 0 if row.status == "done" else 1

    def close(self) -> None:
        """End the run; one that was interrupted as failed."""
        self.run.finish(exit_code=self.exit_code)

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self.run.starting_step:  # of the server; 0 offline
            self.run.log(dict(values), step=step)
        with self.file.open("ab") as stream:
            stream.write(_line({"step": step, "values": dict(values)}))

    def _remove_superseded(self, folder: Path) -> None:
        """Delete earlier offline files of the run: the new ones have their points, and would be replaced by them."""
        current = Path(self.run.dir).parent.name
        for each in (folder / "wandb").glob(f"offline-run-*-{self.run.id}*"):
            if each.name != current:
                shutil.rmtree(each)


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _read(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal: a process may have been killed while it wrote the last."""
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]
