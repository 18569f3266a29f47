"""The Python API: what the commands do, as functions that return objects and pandas DataFrames.

The functions are attributes of the package: `kdbench.run(...)` is `kdbench.api.run(...)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from .launch.planning import FinalPlan
    from .records.row import Row
    from .regress.compare import CellChange
    from .spec.request import RunRequest
    from .spec.table import Table

Tables: TypeAlias = "str | Path | Table | Iterable[str | Path | Table]"
"""One table or several: names such as "dist/cifar100", paths of YAML files, or loaded tables."""

Log: TypeAlias = Callable[[str], None]

__all__ = ["compare", "evaluate", "load_student", "load_table", "plan", "rows", "run"]


def load_table(name_or_path: str | Path) -> Table:
    """A table's specification: its pairs, methods, recipes and the source of its reported numbers.

    Args:
        name_or_path: a shipped table such as "dist/cifar100" (`kdbench list tables`), or the path of a YAML file.

    Raises:
        SpecError: no such table (the nearest is suggested), or a wrong field (named with its file).
    """
    from .spec.table import load_table as load

    return load(str(name_or_path))


def plan(tables: Tables, log: Log = print, **options: Any) -> list[FinalPlan]:
    """What `run` would do, without training: one plan for the tables of each data set.

    A plan's `plan.runs` are its runs, `schedule.finished` the rows of those that are finished.

    Args:
        tables: one table or several.
        log: receives the plan as lines of text.
        options: fields of `kdbench.spec.request.RunRequest`, which are the options of `kdbench run`:
            `scale="mini"`, `seeds=3`, `methods=["kd", "dist"]`, `changes={"epochs": 1}`, `results="results/runs"`, ...

    Raises:
        SpecError, MethodError, DataError, CheckpointError, StoreError: whatever is wrong with the tables or options.
    """
    from .launch.explain import explain
    from .launch.planning import make_plans

    plans = make_plans(_loaded(tables), _request(options), log)
    for each in plans:
        explain(each, log)
    return plans


def run(tables: Tables, log: Log = print, **options: Any) -> pd.DataFrame:
    """Train every teacher, student and method of the tables that is not finished yet.

    A run that fails or diverges is a row with that status; it stops no other run.

    Args:
        tables: one table or several.
        log: receives the plan and the outcome as lines of text.
        options: as in `plan`.

    Returns:
        The rows of all runs of the tables, those that were finished before included; columns as in `rows`.

    Raises:
        SpecError, MethodError, DataError, CheckpointError, StoreError: as `plan`, before any training.
    """
    from .launch.execution import execute

    plans = plan(tables, log, **options)
    executed = [] if options.get("explain") or options.get("calibrate") else plans
    return _frame([row for each in executed for row in execute(each, log).rows])


def rows(folder: str | Path = "results/runs") -> pd.DataFrame:
    """The rows of a folder of runs, or of rows kept by `kdbench baseline`; files that are no valid rows are left out.

    Args:
        folder: of runs or rows; one that does not exist has no rows.

    Returns:
        One line a run. Columns: `id`, `status`, `reason`, `task`, `scale`, `data`, `teacher` and `student` (networks),
        `method`, `options` (all of them, as a dict), `seed`; every metric of the last epoch under its name (`top1`,
        `ap`, `miou`, ...) and of the best epoch as `best_<name>`, in percent; every field of
        `kdbench.records.row.Cost`; `weights` (the student's file, relative to the folder of runs), `device`, `machine`,
        `commit` and `finished`. Values that a run does not have are NaN or None.
    """
    from .records.store import read_rows

    return _frame(read_rows([Path(folder)])[0])


def compare(base: str | Path = "results/baselines", head: str | Path = "results/runs") -> pd.DataFrame:
    """What changed from one folder of rows to another, cell by cell, as `kdbench compare` prints it.

    Args:
        base: folder of rows to compare with.
        head: folder of newer rows.

    Returns:
        One line a cell, which is a run without its seed. Columns: `task`, `scale`, `data`, `teacher`, `student`,
        `method`, `options`, `base_rows` and `head_rows` (how many); `accuracy`, `losses` and `speed` ("improved",
        "regressed", "unchanged", "unsure" or "not measured"), each with `<name>_change` (accuracy: points, head - base;
        speed: ratio of the step times, head / base; NaN where there is none) and `<name>_reason`.

    Raises:
        SpecError: a folder does not exist or holds no row.
    """
    import pandas as pd

    from .regress import baselines
    from .regress import compare as comparison

    head_rows = baselines.latest(baselines.load(Path(head))[0])
    base_rows = baselines.latest(baselines.load(Path(base))[0], {row.environment.machine for row in head_rows})
    return pd.DataFrame([_change(cell) for cell in comparison.compare(base_rows, head_rows)])


def evaluate(
    network: str,
    weights: str | Path,
    data: str = "cifar100",
    path: str | Path | None = None,
    recipe: str | None = None,
    device: str = "cpu",
    root: str | Path | None = None,
) -> dict[str, float]:
    """The metrics of a checkpoint on the validation images of a data set, by the evaluator of final numbers.

    Args:
        network: a name of `kdbench list networks`, or a paper's.
        weights: checkpoint of kdbench, or weights under the names of the network's library; loaded strictly.
        data: a data set of `kdbench list datasets`.
        path: the user's data, in place of `data`.
        recipe: prepares the images; by default that of a shipped table of this task and data set.
        device: such as "cuda".
        root: folder that holds data sets; by default `KDBENCH_DATA`, else "data".

    Returns:
        Metrics in percent by name: `top1` and `top5`, `ap`, `ap50`, ..., or `miou` and `pixel_accuracy`.

    Raises:
        SpecError: an unknown network or recipe, or no recipe for the data set.
        CheckpointError: the file is damaged, another network's, or was trained on other classes.
        DataError: the data is missing or broken.
    """
    from .launch.evaluator import EvaluationRequest, Evaluator
    from .spec.request import data_root
    from .spec.weights import parse_weights

    request = EvaluationRequest(
        data=data if path is None else str(Path(path).absolute()) if Path(path).exists() else str(path),
        recipe=recipe,
        device=device,
        data_root=Path(root) if root else data_root(),
    )
    described = parse_weights({"file": str(weights), "network": network})
    return Evaluator(request).measure(Path(weights), described).row.metrics


def load_student(file: str | Path, network: str | None = None) -> nn.Module:
    """A trained student, of a run's folder or exported as `torch`: a module of tensors alone, in evaluation mode.

    Its inputs and outputs are those of the other exported formats: images [N, 3, H, W] -> logits [N, K], of segmenters
    [N, K, H, W]; of detectors an image [1, 3, H, W] and its size [2] -> boxes [D, 4], scores [D] and labels [D].

    Args:
        file: weights as kdbench saves them.
        network: one of your own, `./net.py:build`, where that is where it comes from.

    Raises:
        SpecError: the network is not known here.
        CheckpointError: the file is missing, damaged or no student's.
    """
    from .deploy.formats import load_student as load

    return load(Path(file), network)


def _loaded(tables: Tables) -> list[Table]:
    from .spec.table import Table

    given = [tables] if isinstance(tables, (str, Path, Table)) else list(tables)
    return [each if isinstance(each, Table) else load_table(each) for each in given]


def _request(options: dict[str, Any]) -> RunRequest:
    """The request with these options: fields as they are, or text as the command line takes it; counts and lists too.

    Raises:
        SpecError: an unknown option (the nearest is suggested), or text that cannot be read.
    """
    from .errors import SpecError, unknown
    from .spec.request import RunRequest

    known = {field.name: field for field in dataclasses.fields(RunRequest)}
    for name in options:
        if name not in known:
            raise unknown("option", name, known)
    values = dict(options)
    for name, value in options.items():
        parse = known[name].metadata.get("parse")
        if name == "seeds" and isinstance(value, int):
            value = str(value)
        if parse and (isinstance(value, str) or name in ("teacher", "methods", "sweep")):
            values[name] = parse(value)
        elif isinstance(value, (str, Path)):
            values[name] = Path(value)
        elif parse and name == "changes" and not isinstance(value, dict):
            values[name] = parse(value)
        elif isinstance(value, list):
            values[name] = tuple(value)
    if not all(type(seed) is int and 0 <= seed < 10**9 for seed in values.get("seeds") or ()):
        raise SpecError(f"seeds={values['seeds']!r}: give how many, or a list of whole numbers of at most nine digits")
    return RunRequest(**values)


def _frame(found: Sequence[Row]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([_record(row) for row in found], columns=None if found else [*_IDENTITY])


_IDENTITY = ("id", "status", "reason", "task", "scale", "data", "teacher", "student", "method", "options", "seed")


def _record(row: Row) -> dict[str, Any]:
    run = row.run
    identity = (
        *(row.id, row.status, row.reason, run.task, run.scale, run.data.display_name),
        *(run.teacher_network, run.student, run.method, run.options, run.seed),
    )
    record: dict[str, Any] = dict(zip(_IDENTITY, identity, strict=True))
    if row.metrics:
        record |= row.metrics.last | {f"best_{name}": value for name, value in row.metrics.best.items()}
    if row.cost:
        record |= row.cost.model_dump()
    place = row.environment
    record |= {"weights": row.student.file if row.student else None, "precision": run.recipe.precision}
    return (
        record | {name: getattr(place, name) for name in ("device", "machine", "commit")} | {"finished": row.finished}
    )


def _change(cell: CellChange) -> dict[str, Any]:
    run = cell.run
    record: dict[str, Any] = {
        "task": run.task, "scale": run.scale, "data": run.data.display_name, "teacher": run.teacher_network,
        "student": run.student, "method": run.method, "options": run.options, "base_rows": len(cell.base),
        "head_rows": len(cell.head),
    }  # fmt: skip
    for name in ("accuracy", "losses", "speed"):
        change = getattr(cell, name)
        record |= {name: change.word, f"{name}_change": change.size, f"{name}_reason": change.reason}
    return record
