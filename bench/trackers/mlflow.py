"""MLflow: a run of an experiment, in a local folder or on the server that `MLFLOW_TRACKING_URI` names."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..records.row import Row
from ..spec.run import Run
from .base import Scalar, Settings, Tracker, hyper_parameters, summary

TAG = "kdbench_run"
MOST_PARAMETERS = 100  # in one call
LONGEST_PARAMETER = 500  # characters that every server takes


class MLflow(Tracker):
    """Logs to `mlruns` in the folder of runs or in `log_dir`; `MLFLOW_EXPERIMENT_NAME` names the experiment."""

    requires = "mlflow"

    def start(self, run: Run, settings: Settings) -> None:
        """Create a run, or reopen the last one of a run that continues."""
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self.client: Any = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or _local(settings))
        self.last: dict[str, int] = {}  # step of the last point by metric
        self.status = "KILLED"
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "kdbench"))
        earlier = self._earlier(experiment, run.id)
        if settings.resumed_at is not None and earlier:
            self._reopen(earlier[0])
            return
        for each in earlier:
            if each.info.status == "RUNNING":  # of a process that was killed
                self.client.set_terminated(each.info.run_id, "KILLED")
        tags = {TAG: run.id, "mlflow.source.name": "kdbench"}
        self.run_id = self.client.create_run(experiment, run_name=settings.name, tags=tags).info.run_id
        self._parameters(hyper_parameters(run))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values that do not have a point at this step or a later one."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        points = [
            Metric(_name(name), float(value), now, step)
            for name, value in values.items()
            if step > self.last.get(_name(name), -1)
        ]
        if points:
            self.client.log_batch(self.run_id, metrics=points)

    def epoch(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics."""
        self.step(step, metrics)

    def finish(self, row: Row) -> None:
        """Log the row's numbers as metrics, all else as tags."""
        content = summary(row)
        numbers = {name: value for name, value in content.items() if isinstance(value, (int, float))}
        self.step(row.steps, numbers)
        for name, value in content.items():
            if name not in numbers:
                self.client.set_tag(self.run_id, name, str(value))
        self.status = "FINISHED" if row.status == "done" else "FAILED"

    def close(self) -> None:
        """End the run; one that was interrupted as KILLED."""
        self.client.set_terminated(self.run_id, self.status)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name))
            except MlflowException:  # another command has created it meanwhile
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _earlier(self, experiment: str, run_id: str) -> list[Any]:
        """Runs of this id, the last one first; each is of another attempt to train it."""
        query, order = f"tags.{TAG} = '{run_id}'", ["attributes.start_time DESC"]
        return list(self.client.search_runs([experiment], query, order_by=order))

    def _reopen(self, found: Any) -> None:
        """Continue a run after the points that it has."""
        self.run_id = found.info.run_id
        self.client.update_run(self.run_id, "RUNNING")
        for name in found.data.metrics:
            self.last[name] = max(point.step for point in self.client.get_metric_history(self.run_id, name))

    def _parameters(self, values: Mapping[str, Scalar]) -> None:
        from mlflow.entities import Param

        parameters = [Param(_name(name), str(value)[:LONGEST_PARAMETER]) for name, value in values.items()]
        for first in range(0, len(parameters), MOST_PARAMETERS):
            self.client.log_batch(self.run_id, params=parameters[first : first + MOST_PARAMETERS])


def _local(settings: Settings) -> str:
    folder: Path = settings.log_dir or settings.results
    return (folder.resolve() / "mlruns").as_uri()


def _name(name: str) -> str:
    """A name of the characters that MLflow allows."""
    return re.sub(r"[^\w./ -]", "_", name)
