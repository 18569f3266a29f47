"""`kdbench evaluate`: published weights, one file or all of a manifest, measured and kept as rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import networks, tasks
from ..errors import USER_ERRORS, SpecError, StoreError
from ..records.weights import WeightsRow, weights_folder, write_weights
from ..spec.weights import Listed, load_manifest, parse_weights
from ..text import counted
from .evaluator import EvaluationRequest, Evaluator, Log
from .table_lookup import find_network

__all__ = ["EvaluationRequest", "Outcome", "evaluate", "files_to_evaluate", "scores"]


class Outcome(NamedTuple):
    """The rows of the files that were measured, and how many were not."""

    rows: list[WeightsRow]
    failed: int


def files_to_evaluate(manifest: Path | None, path: Path | None, fields: dict[str, Any]) -> list[Listed]:
    """The lines of a manifest, or one file that is described by options.

    Args:
        manifest: a CSV file.
        path: of the one file.
        fields: of `WeightsFile`, by name; None where they are not given. `recorded` is of the headline metric.

    Raises:
        SpecError: both or none is given, an option is missing or wrong, or the manifest breaks its schema.
    """
    given = [name for name, value in fields.items() if value is not None]
    if manifest is not None:
        if path is not None or given:
            first = "weights" if path is not None else given[0]
            raise SpecError(f"--{first} is for one file and --manifest for a list of them; give one of the two")
        metrics = [metric.key for name in tasks.names() for metric in tasks.get(name).metrics]
        return load_manifest(manifest, metrics)
    if path is None or fields.get("network") is None:
        missing = "network" if path is not None else "weights"
        raise SpecError(f"--{missing} is missing; give --network NAME --weights FILE, or --manifest FILE.csv")
    values = dict(fields) | {"file": str(path)}
    if (recorded := values.pop("recorded", None)) is not None:
        task = networks.task(find_network(fields["network"], None).candidates[0])
        values[f"recorded_{tasks.headline(task).key}"] = recorded
    return [Listed("", path, parse_weights(values, names="--"))]


def evaluate(files: Sequence[Listed], request: EvaluationRequest, log: Log) -> Outcome:
    """Measure files and write a row of each; one of a manifest that cannot be measured is logged, the others are done.

    Raises:
        StoreError: the results folder cannot be written.
        SpecError, CheckpointError, DataError, TeacherError: a single file cannot be measured.
    """
    evaluator, folder = Evaluator(request, log), weights_folder(request.results)
    widths = [max(len(text) for text in texts) for texts in zip(*map(_names, files), strict=True)]
    rows = []
    for listed in files:
        try:
            measured = evaluator.measure(listed.path, listed.weights)
            write_weights(folder, measured.row, evaluator.is_own(listed.weights))
        except StoreError:
            raise
        except USER_ERRORS as error:
            if not listed.place:
                raise
            log(f"failed  {listed.place}: {error}")
            continue
        rows.append(measured.row)
        name, network = (text.ljust(width) for text, width in zip(_names(listed), widths, strict=True))
        log(f"{name}  {network}  {scores(measured.row)}")
        for remark in measured.remarks:
            log(f"  {remark}")
    log(f"{len(rows)} of {counted(len(files), 'file')} evaluated; rows in {folder}")
    return Outcome(rows, len(files) - len(rows))


def scores(row: WeightsRow) -> str:
    """The first two metrics of the task, the recorded value and the difference: `top1 72.63  top5 91.94  ...`."""
    metrics = [metric.key for metric in tasks.get(row.task).metrics if metric.key in row.metrics]
    parts = [f"{key} {row.metrics[key]:.2f}" for key in metrics[:2]]
    difference = row.difference(metrics[0])
    if difference is None:
        return "  ".join([*parts, "recorded -"])
    return "  ".join([*parts, f"recorded {row.recorded[metrics[0]]:.2f}", f"difference {difference:+.2f}"])


def _names(listed: Listed) -> tuple[str, str]:
    return listed.path.name, listed.weights.network
