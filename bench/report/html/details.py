"""Details of a line: the verdict's arithmetic, seeds, curves, teacher, cost, environment and specification."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import tasks
from ...records.row import Environment, Row
from ...text import printable
from .. import inference_cost, values
from ..cells import Cell
from ..evidence import Evidence
from ..gains import CellCost
from ..verdicts import NORMAL, Sample, Verdict, factor
from .class_tables import ClassTables
from .curves import curves
from .lines import BASES, Line
from .specification import Specifications
from .tiles import Tiles

Facts = list[tuple[str, str]]

NO_NUMBER = "no reported number"

EVIDENCE = {"reruns": "Others' runs", "logs": "Authors' logs", "weights": "Published weights"}

GAINS = {
    "gain": "over none",
    "gain_kd": "over kd",
    "gain_base": "over its base",
    "gain_equal": "over none at equal cost",
    "gain_kd_equal": "over kd at equal cost",
}


@dataclass(frozen=True)
class Sources:
    """What details have beside a line and its rows.

    Attributes:
        classes: scores of classes.
        tiles: pictures of predictions.
        specifications: of runs, as YAML.
        problems: files that were left out, and why; they are added as they are found.
    """

    classes: ClassTables = field(default_factory=ClassTables)
    tiles: Tiles = field(default_factory=Tiles)
    specifications: Specifications = field(default_factory=Specifications)
    problems: list[str] = field(default_factory=list)


def details(line: Line, sources: Sources, pictures: Path) -> dict[str, Any]:
    """`title`, `sections` in order, `curves` and `pictures`, all JSON.

    A section has a `title` and `facts` (name and text), a table (`head` and `rows`, with `words` above it), or `blocks`
    of text.

    Args:
        line: of the page's table.
        sources: of what is beside its rows.
        pictures: the folder that pictures are written to.

    Raises:
        StoreError: a picture cannot be written.
    """
    cell = line.cell
    drawn: list[dict[str, Any]] = []
    sections = [_facts("Verdict", _verdict(line)), _facts("Reported number", _reported(line))]
    sections += [_facts(EVIDENCE[kind], _of_evidence(line, found)) for kind, found in line.evidence.items()]
    if cell is not None:
        drawn, missing = curves(cell)
        classes, unused = sources.classes.sections(cell)
        problems = [*missing, *unused]
        sources.problems.extend(each for each in problems if each not in sources.problems)
        notes = [*_notes(line, cell), *problems]
        sections += [*_measured(cell, classes, sources.specifications), _facts("Notes", [("", note) for note in notes])]
    arrow = f"{line.teacher} → {line.student}" if line.teacher else line.student
    return {
        "title": f"{line.method}: {arrow}",
        "subtitle": ", ".join(filter(None, (line.table or line.paper, line.dataset, f"{line.scale} scale"))),
        "sections": [section for section in sections if section],
        "curves": drawn,
        "pictures": sources.tiles.pictures(cell, line.table, pictures) if cell else None,
        "metric": tasks.metric(line.task, line.metric).title if cell else line.metric,
    }


def arithmetic(measured: Sample, line: Line, verdict: Verdict) -> Facts:
    """How a verdict follows from a mean, a number of runs and a reported number."""
    reported, budget = line.reported, line.budget
    if reported is None or reported.value is None or budget is None or verdict.tolerance is None:
        return []
    s, why = (budget, "the noise budget, as one run has no sd") if measured.sd is None else (measured.sd, "sample sd")
    s_r, why_r = (budget, "the noise budget, as no sd is reported") if reported.std is None else (reported.std, "given")
    t = factor(measured.n)
    sampling, noise = t * s / math.sqrt(measured.n), NORMAL * s_r
    difference = measured.mean - reported.value
    inside = abs(difference) <= verdict.tolerance
    return [
        ("mean m", f"{measured.mean:.3f} (n = {measured.n})"),
        ("reported r", f"{reported.value:g}"),
        ("s", f"{s:.3f} ({why})"),
        ("s_r", f"{s_r:.3f} ({why_r})"),
        ("t", f"{t:.3f}"),
        ("t s / √n", f"{t:.3f} × {s:.3f} / √{measured.n} = {sampling:.3f}"),
        ("1.96 s_r", f"1.96 × {s_r:.3f} = {noise:.3f}"),
        ("tolerance", f"√({sampling:.3f}² + {noise:.3f}²) = {verdict.tolerance:.3f}"),
        ("m - r", f"{measured.mean:.3f} - {reported.value:g} = {difference:+.3f}"),
        ("so", f"|{difference:+.3f}| {'≤' if inside else '>'} {verdict.tolerance:.3f}: {verdict.word}"),
    ]


def _verdict(line: Line) -> Facts:
    """The verdict and what it rests on; of what was trained here its arithmetic, too."""
    facts = [("verdict", line.verdict)]
    if line.basis:
        facts.append(("rests on", line.basis))
    if line.cell is None:
        untrained = [("", "No table has a cell for this number, so it is not trained here.")]
        return facts if line.basis else facts + untrained
    own = line.cell.verdict
    if own.reason not in ("", NO_NUMBER) or own.word != line.verdict:
        facts.append((BASES["cell"], own.text))
    return facts + (arithmetic(line.cell.measured, line, own) if line.cell.measured else [])


def _of_evidence(line: Line, found: Evidence) -> Facts:
    of = "" if found.found == found.sample.n else f", of {found.found} that were found"
    facts = [("mean", values.sample(found.sample) + of), ("verdict", found.verdict.text)]
    if found.selection:
        facts.append(("epoch", found.selection))
    steps = arithmetic(found.sample, line, found.verdict)
    if not steps and found.verdict.difference is not None:
        facts.append(("difference", f"{found.verdict.difference:+.2f}"))
    return [*facts, *steps, *(("source", text) for text in found.sources), *(("note", text) for text in found.notes)]


def _reported(line: Line) -> Facts:
    number = line.reported
    if number is None:
        return []
    facts = {
        "paper": number.paper,
        "table": number.table,
        "recipe": number.strategy,
        "teacher's score": values.number(number.teacher_value) if number.teacher_value is not None else "",
        "student alone": values.number(number.student_value) if number.student_value is not None else "",
        number.metric: f"{number.value:g}" if number.value is not None else "",
        "sd": f"{number.std:g}" if number.std is not None else "",
        "epoch": number.selection or "not stated",
        "source": number.source,
        "evidence": number.evidence,
        "note": number.note,
    }
    return [(name, text) for name, text in facts.items() if text]


def _measured(cell: Cell, classes: list[dict[str, Any]], specifications: Specifications) -> list[dict[str, Any]]:
    """Sections about the runs of a cell; none without a run."""
    rows = [*cell.rows, *cell.unfinished]
    if not rows:
        return []
    gains = [(title, values.gain(getattr(cell, name))) for name, title in GAINS.items() if getattr(cell, name)]
    return [
        _facts("Gains, points ± half of the 95 % interval", gains),
        _seeds(cell, rows),
        *classes,
        _facts("Teacher", _teacher(cell, rows)),
        _facts("Cost", _cost(cell.cost, rows)),
        _facts("Inference", _inference(cell)),
        _facts("Environment", _environment(rows)),
        {
            "title": f"Resolved specification of seed {rows[0].run.seed}",
            "blocks": specifications.blocks(rows[0].run),
        },
    ]


def _seeds(cell: Cell, rows: Sequence[Row]) -> dict[str, Any]:
    head = ["seed", cell.metric, "last", "best", "best epoch", "mean of last ten", "status", "finished", "run"]
    body = []
    for row in rows:
        scores: list[Mapping[str, float]] = [{}, {}, {}]
        if row.metrics:
            scores = [row.metrics.last, row.metrics.best, row.metrics.mean_last10]
        last, best, mean = (values.number(each.get(cell.metric)) for each in scores)
        status = f"{row.status}: {row.reason}" if row.reason else row.status
        epoch = str(row.metrics.best_epoch) if row.metrics else values.BLANK
        score = values.number(cell.value(row))
        body.append([str(row.run.seed), score, last, best, epoch, mean, status, row.finished, row.id])
    return {"title": f"Seeds, compared at the {cell.selection} epoch", "head": head, "rows": _clean(body)}


def _teacher(cell: Cell, rows: Sequence[Row]) -> Facts:
    teachers = {row.teacher.sha256: row.teacher for row in rows if row.teacher}
    facts = []
    if cell.teacher_reported is not None and cell.scale == "full" and cell.teacher:
        facts.append(("reported", values.number(cell.teacher_reported)))
    for sha256, teacher in teachers.items():
        facts += [
            ("network", teacher.network),
            ("measured before training", values.number(teacher.measured)),
            ("score of its own run", values.number(teacher.recorded)),
            ("sha256", sha256),
        ]
    return facts


def _cost(cost: CellCost | None, rows: Sequence[Row]) -> Facts:
    costs = [row.cost for row in rows if row.cost]
    if cost is None or not costs:
        return []
    factors = {"training time over none": cost.factor, "training time over kd": cost.factor_kd}
    return [
        ("parameters", f"{cost.params:,.0f}"),
        ("GFLOPs of an image", f"{cost.flops / 1e9:.4g} at {costs[0].image_size[0]} × {costs[0].image_size[1]} pixels"),
        ("step", f"{cost.step_seconds * 1e3:.1f} ms"),
        ("before training", f"{cost.prepare_seconds:.1f} s"),
        ("throughput", f"{cost.images_per_second:.1f} images/s"),
        *([] if cost.data_wait is None else [("waiting for data", f"{cost.data_wait:.1%} of the time in steps")]),
        ("precision", ", ".join(dict.fromkeys(row.run.recipe.precision for row in rows))),
        ("peak memory", f"{max(each.peak_memory for each in costs) / 2**20:.0f} MiB"),
        ("wall time of a cohort", ", ".join(f"{each.wall_seconds / 60:.1f} min" for each in costs)),
        ("students in a cohort", ", ".join(str(each.cohort) for each in costs)),
        *((name, f"×{value:.2f}") for name, value in factors.items() if value is not None),
    ]


def _inference(cell: Cell) -> Facts:
    """Latency, memory and files of the cell's network, of every setup."""
    found = cell.inference
    if found is None:
        return []
    facts = [(inference_cost.name_of(each), inference_cost.text_of(each)) for each in found.every]
    facts += [(f"file, {name}", f"{size / 2**20:.3g} MiB") for name, size in found.sizes.items()]
    return facts + ([("int8 score", values.sample(found.int8))] if found.int8 else [])


def _environment(rows: Iterable[Row]) -> Facts:
    """Each distinct environment of the rows."""
    facts: Facts = []
    distinct: list[Environment] = []
    for row in rows:
        if row.environment not in distinct:
            distinct.append(row.environment)
    for environment in distinct:
        libraries = ", ".join(f"{name} {version}" for name, version in sorted(environment.libraries.items()))
        facts += [
            ("commit", environment.commit),
            ("machine", environment.machine),
            ("device", environment.device),
            ("threads", str(environment.threads)),
            ("deterministic", "yes" if environment.deterministic else "no"),
            ("Python", environment.python),
            ("libraries", libraries),
        ]
    return facts


def _notes(line: Line, cell: Cell) -> list[str]:
    settings = [f"the authors' options: {cell.settings}"] if cell.settings else []
    proxies = [f"proxy for {pair}" for pair in line.pairs]
    return [*proxies, *settings, *cell.notes, *values.learned_note(cell)]


def _facts(title: str, facts: Facts) -> dict[str, Any]:
    """A section of names and texts; empty for none."""
    return {"title": title, "facts": _clean(facts)} if facts else {}


def _clean(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    return [[printable(text) for text in row] for row in rows]
