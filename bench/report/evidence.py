"""Evidence for a reported number that needs no training here: other people's runs, authors' logs, published weights.

Like is compared with like: a run under another recipe, with another teacher, or of another epoch than the paper reports
has a difference, and no verdict.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from ..records.weights import WeightsRow
from ..spec.reported import Reported
from ..spec.reruns import Rerun, Setting
from .verdicts import Sample, Verdict, make_verdict

Kind = Literal["reruns", "logs", "weights"]
"""Other people's runs of the authors' code or of a reimplementation; logs that the authors released; published
weights that were evaluated here."""

KINDS: tuple[Kind, ...] = ("reruns", "logs", "weights")


@dataclass(frozen=True)
class Published:
    """What others published.

    Attributes:
        reruns: values of runs, and of logs that authors released.
        settings: options that authors set for each pair.
        weights: checkpoints, as they were evaluated here.
    """

    reruns: Sequence[Rerun] = ()
    settings: Sequence[Setting] = ()
    weights: Sequence[WeightsRow] = ()

    @cached_property
    def by_student(self) -> dict[tuple[str, str], list[Rerun]]:
        """Reruns by data set and student."""
        index: dict[tuple[str, str], list[Rerun]] = {}
        for run in self.reruns:
            index.setdefault((run.dataset, run.student), []).append(run)
        return index

    @cached_property
    def logs(self) -> set[str]:
        """Sources of the logs that authors released."""
        return {run.source for run in self.reruns if run.by == "authors"}


NOTHING = Published()


class Subject(NamedTuple):
    """What a reported number is about, by the names of the files of reported numbers."""

    dataset: str
    teacher: str
    student: str
    method: str
    metric: str

    @classmethod
    def of(cls, row: Reported) -> Subject:
        return cls(row.dataset, row.teacher, row.student, row.method, row.metric)


class Claim(NamedTuple):
    """What evidence is compared with: the reported number, the epoch it is of, and the noise of one run, percent."""

    subject: Subject
    reported: Reported | None
    selection: str
    budget: float


@dataclass(frozen=True)
class Evidence:
    """What one kind of source says about a reported number.

    Attributes:
        sample: of the runs that are compared.
        selection: their epoch; empty where the sources do not say.
        found: how many runs there are, those included that are less alike.
        verdict: of their mean against the reported number; `not comparable` has a difference too.
        sources: of these runs.
        notes: what their sources add, and the runs that are left out because they are less alike.
    """

    sample: Sample
    selection: str
    found: int
    verdict: Verdict
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()


class _Run(NamedTuple):
    value: float
    selection: str
    reasons: tuple[str, ...]
    """Why the run is not comparable."""
    source: str
    note: str


def gather(claim: Claim, published: Published) -> dict[Kind, Evidence]:
    """All evidence for a claim, by kind; a kind without any is left out."""
    subject = claim.subject
    of_student = published.by_student.get((subject.dataset, subject.student), [])
    others = [run for run in of_student if _is_about(run, claim)]
    runs: dict[Kind, list[_Run]] = {
        "reruns": [_rerun(run, claim) for run in others if run.by == "independent"],
        "logs": [_rerun(run, claim) for run in others if run.by == "authors"],
        "weights": [_weights(row, claim) for row in published.weights if _are_about(row, claim)],
    }
    return {kind: _evidence(some, claim) for kind, some in runs.items() if some}


def _is_about(run: Rerun, claim: Claim) -> bool:
    """Whether a run of this student is of the pair and method, and is not where the reported number comes from."""
    subject, reported = claim.subject, claim.reported
    if (run.method, run.metric) != (subject.method, subject.metric):
        return False
    if subject.method != "none" and run.teacher != subject.teacher:
        return False
    return reported is None or _file(run.source) != _file(reported.source)


def _file(source: str) -> str:
    return source.split("#L")[0]


def _rerun(run: Rerun, claim: Claim) -> _Run:
    stated = claim.reported.teacher_value if claim.reported else None
    reasons = [run.differs] if run.differs else []
    if run.method != "none" and None not in (run.teacher_value, stated) and run.teacher_value != stated:
        reasons = [reason for reason in reasons if reason != "other teachers"]
        reasons.append(f"teacher {run.teacher_value}, not {stated}")
    return _Run(run.value, run.selection, (*reasons, *_epoch(run.selection, claim)), run.source, run.note)


def _are_about(row: WeightsRow, claim: Claim) -> bool:
    subject = claim.subject
    same = (row.data.name, row.network, row.method) == (subject.dataset, subject.student, subject.method)
    return same and subject.metric in row.metrics and (subject.method == "none" or row.teacher == subject.teacher)


def _weights(row: WeightsRow, claim: Claim) -> _Run:
    value = row.metrics[claim.subject.metric]
    return _Run(value, row.selection, _epoch(row.selection, claim), row.source, row.note)


def _epoch(selection: str, claim: Claim) -> tuple[str, ...]:
    """Why a run of this epoch is not comparable; where the paper does not say which, one that does not say is."""
    stated = claim.reported.selection if claim.reported else ""
    if selection == claim.selection or not (selection or stated):
        return ()
    compared = "the paper reports" if stated else "compared is"
    return (f"{selection or 'unknown'} epoch, and {compared} the {claim.selection}",)


def _evidence(runs: Sequence[_Run], claim: Claim) -> Evidence:
    """The runs that are most alike what the paper did, and in the notes the others."""
    groups: dict[tuple[str, ...], list[_Run]] = {}
    for run in runs:
        groups.setdefault(run.reasons, []).append(run)
    reasons, *others = sorted(groups, key=len)
    chosen = groups[reasons]
    sample = Sample.of([run.value for run in chosen])
    assert sample is not None
    notes = [run.note for run in chosen if run.note]
    notes += [_left_out(groups[other], other, claim) for other in others]
    return Evidence(
        sample=sample,
        selection=chosen[0].selection,
        found=_count(runs),
        verdict=_verdict(sample, reasons, claim),
        sources=tuple(dict.fromkeys(run.source for run in chosen)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _count(runs: Iterable[_Run]) -> int:
    """The number of runs; the best and the last epoch of a source are of the same ones."""
    sources = Counter((run.source, run.selection) for run in runs)
    most: dict[str, int] = {}
    for (source, _), count in sources.items():
        most[source] = max(count, most.get(source, 0))
    return sum(most.values())


def _verdict(sample: Sample, reasons: Sequence[str], claim: Claim) -> Verdict:
    reported = claim.reported
    if reported is None or reported.value is None:
        return make_verdict(sample, None, claim.budget)
    verdict = make_verdict(sample, reported.value, claim.budget, reported.std, reasons)
    return replace(verdict, difference=sample.mean - reported.value)


def _left_out(runs: Sequence[_Run], reasons: Sequence[str], claim: Claim) -> str:
    """`also 70.77 (best epoch, and the paper reports the last): +0.11`."""
    mean = statistics.fmean(run.value for run in runs)
    count = f", n={len(runs)}" if len(runs) > 1 else ""
    text = f"also {mean:.2f} ({'; '.join(reasons)}{count})"
    value = claim.reported.value if claim.reported else None
    return text if value is None else f"{text}: {mean - value:+.2f}"
