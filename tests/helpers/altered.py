"""Rows of `builders` under another commit, machine, day, speed or option."""

from __future__ import annotations

from typing import Any

from kdbench.records.row import Row


def altered(
    row: Row,
    *,
    commit: str | None = None,
    machine: str | None = None,
    threads: int | None = None,
    day: int | None = None,
    factor: float = 1.0,
    options: dict[str, Any] | None = None,
    values: dict[str, float] | None = None,
) -> Row:
    """The row as another run would have left it; `factor` is on the step time, `day` one of January 2026, and
    `values` are its last metrics."""
    told: dict[str, Any] = {"commit": commit, "machine": machine, "threads": threads}
    environment = row.environment.model_copy(update={name: value for name, value in told.items() if value is not None})
    cost = row.cost and row.cost.model_copy(update={"step_seconds": row.cost.step_seconds * factor})
    run = row.run if options is None else row.run.model_copy(update={"options": row.run.options | options})
    finished = row.finished if day is None else f"2026-01-{day:02d}T00:00:00+00:00"
    metrics = row.metrics if values is None or row.metrics is None else row.metrics.model_copy(update={"last": values})
    spec = {"run": run, "id": run.id, "finished": finished}
    return row.model_copy(update=spec | {"environment": environment, "cost": cost, "metrics": metrics})
