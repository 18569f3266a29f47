"""Columns of the page's table: how each is named, sorted and read from a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from .. import inference_cost
from ..evidence import Kind
from ..inference_cost import CellInference, setup_text
from ..verdicts import Sample
from .lines import Line

Value = str | float | None

ColumnKind = Literal["text", "number", "sample", "gain", "evidence", "factor"]

PARTS: dict[ColumnKind, tuple[str, ...]] = {
    "text": ("",),
    "number": ("",),
    "factor": ("",),
    "sample": ("", "sd", "n"),
    "gain": ("", "half_width", "n"),
    "evidence": ("", "sd", "n", "found", "difference", "verdict"),
}
"""What the values of a column consist of, as they are named in CSV files after the column; the first is sorted by."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: in permalinks and CSV files.
        title: heading.
        kind: what a value consists of.
        values: its parts, in the order of `PARTS`.
        about: what it is, in a sentence; empty where the title says it.
        shown: whether the page shows it at first, if it has a value.
        narrow: likewise on a narrow screen.
        digits: after the point.
    """

    key: str
    title: str
    kind: ColumnKind
    values: Callable[[Line], Sequence[Value]]
    about: str = ""
    shown: bool = True
    narrow: bool = False
    digits: int = 2


def _text(name: str) -> Callable[[Line], Sequence[Value]]:
    return lambda line: (getattr(line, name),)


def _sample(sample: Sample | None) -> Sequence[Value]:
    return (None, None, None) if sample is None else (sample.mean, sample.sd, sample.n)


def _gain(name: str) -> Callable[[Line], Sequence[Value]]:
    def values(line: Line) -> Sequence[Value]:
        sample: Sample | None = getattr(line.cell, name) if line.cell else None
        return (None, None, None) if sample is None else (sample.mean, sample.half_width, sample.n)

    return values


def _evidence(kind: Kind) -> Callable[[Line], Sequence[Value]]:
    def values(line: Line) -> Sequence[Value]:
        found = line.evidence.get(kind)
        if found is None:
            return (None,) * len(PARTS["evidence"])
        verdict = found.verdict
        return (*_sample(found.sample), found.found, verdict.difference, verdict.word)

    return values


def _cost(name: str, unit: float = 1.0) -> Callable[[Line], Sequence[Value]]:
    def values(line: Line) -> Sequence[Value]:
        value = getattr(line.cell.cost, name) if line.cell and line.cell.cost else None
        return (None if value is None else value / unit,)

    return values


def _difference(line: Line) -> Sequence[Value]:
    return (line.own_verdict.difference if line.own_verdict else None,)


def _gain_per_time(line: Line) -> Sequence[Value]:
    return (line.cell.gain_per_time if line.cell else None,)


def _inference(read: Callable[[CellInference], Value]) -> Callable[[Line], Sequence[Value]]:
    def values(line: Line) -> Sequence[Value]:
        return (read(line.cell.inference) if line.cell and line.cell.inference else None,)

    return values


def _inference_columns() -> Iterator[Column]:
    """Latency, memory and size of files, where they were measured; `latency on` says by which machine."""

    def number(key: str, title: str, about: str, read: Callable[[CellInference], Value]) -> Column:
        return Column(key, title, "number", _inference(read), about, shown=False)

    for program, name in inference_cost.PROGRAMS.items():
        for batch in inference_cost.BATCHES:
            for key, text in (("median_ms", "ms"), ("p95_ms", "95th percentile, ms")):
                title = f"latency {name}, batch {batch}, {text}"
                read = partial(_latency, place=(program, batch), key=key)
                yield number(f"{program}_{batch}_{key}", title, "of a forward, without preprocessing", read)
        about = "that loading and running one image adds"
        yield number(f"{program}_memory", f"memory {name}, MiB", about, partial(_memory, program=program))
    for form, name in inference_cost.SIZES.items():
        yield number(f"{form}_file", f"file {name}, MiB", "", partial(_size, form=form))
    yield number("int8", "int8 score", "of quantized students", lambda each: each.int8.mean if each.int8 else None)
    about = "machine and CPU threads; figures of others are in the details"
    setup = _inference(lambda each: setup_text(each.setup) if each.setup else None)
    yield Column("latency_on", "latency on", "text", setup, about, shown=False)


def _latency(inference: CellInference, place: tuple[str, int], key: str) -> float | None:
    return getattr(inference.latency.get(place), key, None)


def _memory(inference: CellInference, program: str) -> float | None:
    return _mib(inference.memory(program))


def _size(inference: CellInference, form: str) -> float | None:
    return _mib(inference.sizes.get(form))


def _mib(count: int | None) -> float | None:
    return None if count is None else count / 2**20


COLUMNS = (
    Column("task", "task", "text", _text("task"), shown=False),
    Column("dataset", "data set", "text", _text("dataset")),
    Column("paper", "paper", "text", _text("paper"), "that reports the number"),
    Column("table", "table", "text", _text("table"), "of kdbench; empty for a number that no table has", shown=False),
    Column("strategy", "paper's recipe", "text", _text("strategy"), shown=False),
    Column("teacher", "teacher", "text", _text("teacher")),
    Column("student", "student", "text", _text("student"), narrow=True),
    Column("method", "method", "text", _text("method"), narrow=True),
    Column("scale", "scale", "text", _text("scale")),
    Column("metric", "metric", "text", _text("metric"), shown=False),
    Column(
        "reported",
        "reported",
        "sample",
        lambda line: (line.reported.value, line.reported.std, None) if line.reported else (None, None, None),
        "percent, ± the reported sd",
        narrow=True,
    ),
    Column(
        "measured",
        "measured",
        "sample",
        lambda line: _sample(line.cell.measured if line.cell else None),
        "trained here: mean ± sample sd (number of seeds), percent",
        narrow=True,
    ),
    Column("difference", "measured - reported", "number", _difference, "where they are compared", shown=False),
    Column(
        "verdict",
        "verdict",
        "text",
        _text("verdict"),
        "of the strongest evidence that can be compared with the reported number",
        narrow=True,
    ),
    Column("basis", "verdict rests on", "text", _text("basis"), shown=False),
    Column("reruns", "others' runs", "evidence", _evidence("reruns"), "mean ± sd (n), difference to reported, verdict"),
    Column("logs", "authors' logs", "evidence", _evidence("logs"), "likewise of authors' own logs", shown=False),
    Column("weights", "published weights", "evidence", _evidence("weights"), "likewise of checkpoints measured here"),
    Column("gain", "gain over none", "gain", _gain("gain"), "± half of the 95 % interval (number of seeds)"),
    Column("gain_kd", "gain over kd", "gain", _gain("gain_kd"), "likewise"),
    Column("gain_base", "gain over its base", "gain", _gain("gain_base"), "likewise", shown=False),
    Column("gain_equal", "gain over none at equal cost", "gain", _gain("gain_equal"), "likewise", shown=False),
    Column("gain_kd_equal", "gain over kd at equal cost", "gain", _gain("gain_kd_equal"), "likewise", shown=False),
    Column("gain_per_time", "gain per extra training time", "number", _gain_per_time, shown=False),
    Column("time", "time", "factor", _cost("factor"), "training time over that of the student alone"),
    Column("params", "params, M", "number", _cost("params", 1e6), "of the student", shown=False),
    Column("gflops", "GFLOPs", "number", _cost("flops", 1e9), "of the student on one image", shown=False, digits=3),
    Column("throughput", "images/s", "number", _cost("images_per_second"), "in training", shown=False, digits=0),
    Column("step", "step, ms", "number", _cost("step_seconds", 1e-3), "of training", shown=False, digits=1),
    Column("data_wait", "waiting for data, %", "number", _cost("data_wait", 1e-2), "of the time in steps", shown=False),
    *_inference_columns(),
)

FILTERS = {
    "task": "task",
    "dataset": "data set",
    "paper": "paper",
    "pair": "pair",
    "method": "method",
    "verdict": "verdict",
    "scale": "scale",
}
"""Filters by name, with their labels; all but `pair` are columns."""
