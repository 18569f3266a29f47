"""The overview as strings: one line a paper, the same for the terminal, Markdown and README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..records.row import Row
from ..records.store import write_atomically
from ..spec.table import Table
from ..text import counted, markdown_cell
from . import values
from .overview import Summary, interval, total
from .verdicts import Sample

HEADERS = {
    "paper": "paper",
    "numbers": "reported\nnumbers",
    "runnable": "can be\nrun here",
    "reruns": "others'\nruns",
    "logs": "authors'\nlogs",
    "weights": "published\nweights",
    "measured": "trained\nhere",
    "reproduced": "repro-\nduced",
    "above": "above",
    "below": "below",
    "open": "open",
    "difference": "evidence - reported\n[95 % interval] (n)",
}

READING = (
    "Each reported number has the verdict of the strongest evidence that can be compared with it: trained here at full "
    "scale, else others' runs of the authors' code, else published weights. Open: none can. Logs that the authors "
    "released, and runs with another teacher, recipe or epoch, decide nothing. The student alone is a number, too, "
    "where a table here trains it; a number with several cells is counted once. Indented: a paper's methods with "
    "evidence."
)


def records(papers: Sequence[Summary]) -> list[dict[str, str]]:
    """One record a paper that has a table or evidence, by the keys of `HEADERS`; then all together.

    The methods with evidence of papers that have a table have records of their own.
    """
    lines = []
    for paper in _listed(papers):
        lines.append(_record(paper))
        if paper.runnable:
            lines += [_record(method, "  ") for method in paper.by_method()]
    return [*lines, _record(total(papers))]


def headline(papers: Sequence[Summary]) -> str:
    """The answer in one sentence."""
    every = total(papers)
    decided = len(every.entries) - every.open
    words = ", ".join(f"{every.decided(word)} {word}" for word in ("reproduced", "above", "below"))
    mean = every.difference
    tail = "" if mean is None else f"; on average they differ from the report by {_difference(mean)} points"
    return (
        f"Of {counted(len(every.entries), 'distinct reported number')} in {counted(len(papers), 'paper')}, {decided} "
        f"have evidence that can be compared: {words}{tail}."
    )


def notes(papers: Sequence[Summary]) -> list[str]:
    """How to read the overview, and what it leaves out."""
    left = [paper for paper in papers if paper not in _listed(papers)]
    if not left:
        return [READING]
    count = sum(len(paper.entries) for paper in left)
    names = ", ".join(paper.name for paper in left)
    return [READING, f"Without a table or evidence so far: {counted(count, 'number')} of {len(left)} papers ({names})."]


def own_rows(tables: Sequence[Table], rows: Sequence[Row]) -> list[str]:
    """Where the rows that were trained here can be seen, by data set: tables that are about it."""
    lines = []
    for name in sorted({row.run.data.name for row in rows}):
        of_data = [row for row in rows if row.run.data.name == name]
        about = {row.run.task for row in of_data}
        at = [t.name for t in tables if t.task in about and name in (t.dataset.full, t.dataset.mini)]
        where = f"`kdbench table {' '.join(at)}`" if at else "`kdbench table --all`"
        lines.append(f"{counted(len(of_data), 'row')} on {name}: {where} prints them")
    return lines


def write(papers: Sequence[Summary], folder: Path) -> list[Path]:
    """`summary.csv`, a line a paper and method with unrounded numbers, and `summary.md`, as printed.

    Raises:
        StoreError: the folder cannot be written.
    """
    frame = pd.DataFrame([_numbers(paper, method) for paper in papers for method in (None, *paper.by_method())])
    contents = {"csv": frame.to_csv(index=False, lineterminator="\n"), "md": markdown(papers) + "\n"}
    paths = [folder / f"summary.{suffix}" for suffix in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_atomically(path, content.encode())
    return paths


def markdown(papers: Sequence[Summary], *, short: bool = False) -> str:
    """Headline, table and notes; `short` is without methods, notes, and papers without a table or a comparison."""
    lines = [_record(paper) for paper in papers if paper.runnable and paper.difference] if short else records(papers)
    frame = pd.DataFrame(lines).rename(columns={name: _flat(heading) for name, heading in HEADERS.items()})
    table = frame.map(markdown_cell).to_markdown(index=False, disable_numparse=True)
    return "\n\n".join([headline(papers), table, *([] if short else notes(papers))])


def _listed(papers: Sequence[Summary]) -> list[Summary]:
    """Papers with a table, then those with evidence alone."""
    return [p for p in papers if p.runnable] + [p for p in papers if p.has_evidence and not p.runnable]


def _record(summary: Summary, indent: str = "") -> dict[str, str]:
    counts = _counts(summary)
    texts = {name: str(value) if value else values.BLANK for name, value in counts.items()}
    difference = values.BLANK if summary.difference is None else _difference(summary.difference)
    return {"paper": indent + summary.name, **texts, "difference": difference}


def _counts(summary: Summary) -> dict[str, int]:
    return {
        "numbers": len(summary.entries),
        "runnable": summary.runnable,
        "reruns": summary.having("reruns"),
        "logs": summary.having("logs"),
        "weights": summary.having("weights"),
        "measured": summary.measured,
        "reproduced": summary.decided("reproduced"),
        "above": summary.decided("above"),
        "below": summary.decided("below"),
        "open": summary.open,
    }


def _difference(sample: Sample) -> str:
    """`-0.35 [-0.51, -0.18] (11)`."""
    ends = interval(sample)
    text = f"{sample.mean:+.2f}"
    return f"{text} (n=1)" if ends is None else f"{text} [{ends[0]:+.2f}, {ends[1]:+.2f}] ({sample.n})"


def _numbers(paper: Summary, method: Summary | None) -> dict[str, object]:
    summary = method or paper
    difference = summary.difference
    ends = interval(difference) if difference else None
    return {
        "paper": paper.name,
        "method": method.name if method else "",
        **_counts(summary),
        "difference": difference.mean if difference else None,
        "difference_low": ends[0] if ends else None,
        "difference_high": ends[1] if ends else None,
        "difference_n": difference.n if difference else 0,
    }


def _flat(heading: str) -> str:
    return heading.replace("-\n", "").replace("\n", " ")
