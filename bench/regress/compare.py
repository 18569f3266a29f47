"""Rows of two folders matched cell by cell, and the change of each cell.

A cell is everything that identifies a run but its seed: data, networks, the teacher's training, the recipe and the
options must be the same on both sides. A cell of one side alone is `not measured`; the reason names the nearest cell of
the other side, for instance where a default changed.

A seed that has a number in BASE and diverges or fails in HEAD is a regression, whatever the other seeds' results. Where
BASE's and HEAD's teacher are not the same file, all students of a side share its effect: a further noise budget, which
more seeds do not reduce.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .. import tasks
from ..grid.cells import CellKey, canonical
from ..records.row import Row
from ..report.cells import headline
from ..report.comparability import field_differences
from ..report.verdicts import noise_budget
from ..spec.run import Run
from ..spec.scale import Scale
from ..text import counted, one_line
from .loss_drift import drift
from .stats import PRIOR, Change, Scores, Word, classify, exit_code, pooled, speed

MINI_BUDGET = 2.0
"""Noise budget at mini scale, points: our choice.

The same seed of `cifar_mini` run again with other CPU instructions, teacher included, had an sd of 2.2 (`none` 1.5);
budget and teacher term together allow 2.8. One seed of three hardly trains and had 10: no budget covers that.
Assumed for the other tasks.
"""

MINI_SPREAD = 6.0
"""The sd from one seed to the next at mini scale, points; `cifar_mini` had 5.5 within a method."""

TARGET: dict[Scale, float] = {"full": 2.0, "mini": 6.0}
"""The change that seeds must suffice to detect, in noise budgets: our choice.

Two are about the differences that papers report between methods (half a point on CIFAR-100). At mini scale a few
hundred steps only show whether a method is broken, and six are what one seed a side detects in 80 % of cases though
each side trained its own teacher.
"""

UNTESTED = Change("unsure", "not tested yet")

Runs = Mapping[CellKey, Sequence[Run]]  # by cell, its method's options left out


@dataclass(frozen=True)
class CellChange:
    """One cell in BASE and HEAD.

    Attributes:
        run: one of its runs, of HEAD where it has any.
        base, head: rows in order of seeds; a row that is on both sides is left out.
        accuracy: the headline metric of the last epoch.
        losses: of the first epoch, term by term (`drift`).
        speed: seconds a step.
    """

    run: Run
    base: tuple[Row, ...]
    head: tuple[Row, ...]
    accuracy: Change
    losses: Change
    speed: Change

    @property
    def words(self) -> tuple[Word, Word, Word]:
        return self.accuracy.word, self.losses.word, self.speed.word


def compare(base: Sequence[Row], head: Sequence[Row]) -> list[CellChange]:
    """Every cell of either side."""
    runs = _by_cell(base), _by_cell(head)
    drafts = [_draft(*sides, runs) for sides in _matched(base, head)]
    tested = iter(classify(_scores([draft for draft in drafts if draft.accuracy is UNTESTED])))
    cells = [replace(draft, accuracy=next(tested)) if draft.accuracy is UNTESTED else draft for draft in drafts]
    return sorted(cells, key=lambda cell: _order(cell.run))


def exit_status(cells: Iterable[CellChange]) -> int:
    """`stats.exit_code` of accuracy and speed; changed losses are `unsure`."""
    cells = list(cells)
    changed: list[Word] = ["unsure" for cell in cells if cell.losses.word == "unsure"]
    return exit_code([*changed, *(change.word for cell in cells for change in (cell.accuracy, cell.speed))])


def budget(run: Run) -> float:
    """The noise budget of a cell's metric, points."""
    return MINI_BUDGET if run.scale == "mini" else noise_budget(run.data.name, run.task)


def target(run: Run) -> float:
    """The change of a cell's metric that its seeds must suffice to detect, points."""
    return TARGET[run.scale] * budget(run)


def value(row: Row) -> float | None:
    """The headline metric after the last epoch, percent; None where the row has no number."""
    return headline(row, tasks.headline(row.run.task).key, "last")


def _draft(before: Sequence[Row], after: Sequence[Row], runs: tuple[Runs, Runs]) -> CellChange:
    """A cell whose accuracy is untested where its change depends on a test."""
    run = (after or before)[0].run
    base = tuple(row for row in before if row not in after)
    head = tuple(row for row in after if row not in before)
    if not before or not after:
        side, other = ("BASE", runs[0]) if after else ("HEAD", runs[1])
        others = other.get(_cell(run), [])
        missing = Change("not measured", f"not in {side}{_nearest(run, side, others)}")
        # Where BASE has the cell under options that HEAD lacks, as after a changed default, no result may pass unseen.
        kept = {_identity(each) for each in runs[1].get(_cell(run), [])}
        changed = after and any(
            _identity(each)[0] == _identity(run)[0] and _identity(each) not in kept for each in others
        )
        accuracy = replace(missing, word="unsure") if changed else missing
        return CellChange(run, base, head, accuracy, missing, missing)
    if not base or not head:
        same = Change("not measured", "HEAD's rows are those of BASE: it was not rerun")
        return CellChange(run, base, head, same, same, same)
    if apart := _other_world_size(base, head):
        return CellChange(run, base, head, apart, apart, apart)
    return CellChange(run, base, head, _settled(base, head) or UNTESTED, drift(base, head), _speed(base, head))


def _other_world_size(base: Sequence[Row], head: Sequence[Row]) -> Change | None:
    """A run on several GPUs normalizes, and relates images, within each one's part of a batch: it is another run."""
    sizes = [sorted({row.environment.world_size for row in side}) for side in (base, head)]
    if sizes[0] == sizes[1]:
        return None
    words = ["; ".join(counted(size, "GPU") for size in side) for side in sizes]
    return Change("not measured", f"BASE's runs took {words[0]} each, HEAD's {words[1]}: give --gpus alike")


def _settled(base: Sequence[Row], head: Sequence[Row]) -> Change | None:
    """The change where no test is needed: seeds that broke, no number on a side, or rows that are equal bit for bit."""
    before, after = _values(base), _values(head)
    means = _mean(before), _mean(after)
    if broken := _broken(head, before):
        return Change("regressed", f"HEAD: {broken}", *means)
    if not after and before:
        return Change("unsure", f"HEAD: {_trouble(head)}", *means)
    if not before:
        repaired = _broken(base, after)
        return Change("improved" if repaired else "not measured", f"BASE: {repaired or _trouble(base)}", *means)
    # Not all metrics: older rows lack the agreement with the teacher.
    old, new = ({row.run.seed: (row.history, value(row)) for row in side} for side in (base, head))
    shared = old.keys() & new.keys()
    if shared and all(old[seed] == new[seed] for seed in shared):
        mean = statistics.fmean(before[seed] for seed in shared)
        return Change("unchanged", "bitwise equal", mean, mean, 0.0, len(shared))
    return None


def _mean(values: Mapping[int, float]) -> float | None:
    return statistics.fmean(values.values()) if values else None


def _values(rows: Sequence[Row]) -> dict[int, float]:
    return {row.run.seed: score for row in rows if (score := value(row)) is not None}


def _broken(rows: Sequence[Row], finished: Collection[int]) -> str:
    """Which of the seeds that are `finished` on the other side diverged or failed here."""
    lost = [row for row in rows if row.status in ("diverged", "failed") and row.run.seed in finished]
    return _trouble(lost) if lost else ""


def _trouble(rows: Sequence[Row]) -> str:
    first = rows[0]
    more = f", and {len(rows) - 1} more" if len(rows) > 1 else ""
    return f"seed {first.run.seed} {first.status}: {one_line(first.reason) or 'no number'}{more}"


def _speed(base: Sequence[Row], head: Sequence[Row]) -> Change:
    """On the machine, with the number of threads, that has most rows on both sides."""
    sides = _seconds(base), _seconds(head)
    shared = sides[0].keys() & sides[1].keys()
    if not shared:
        words = [" and ".join(_describe_place(*place) for place in side) for side in sides]
        return Change("not measured", f"no machine in common: BASE {words[0] or 'none'}, HEAD {words[1] or 'none'}")
    place = max(sorted(shared), key=lambda place: min(len(side[place]) for side in sides))
    return speed(sides[0][place], sides[1][place])


def _describe_place(machine: str, threads: int) -> str:
    return f"{machine} ({counted(threads, 'thread')})"


def _seconds(rows: Sequence[Row]) -> dict[tuple[str, int], list[float]]:
    by_place: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in rows:
        if row.status == "done" and row.cost and row.cost.step_seconds > 0:
            by_place[row.environment.machine, row.environment.threads].append(row.cost.step_seconds)
    return by_place


def _scores(cells: Sequence[CellChange]) -> list[Scores]:
    """What is tested; where the cells of a data set have more noise than is assumed, theirs is used."""
    scores = [_assumed(cell) for cell in cells]
    families = [_family(cell.run) for cell in cells]
    groups: dict[tuple[str, str, str], list[Scores]] = defaultdict(list)
    for family, cell in zip(families, scores, strict=True):
        groups[family].append(cell)
    rerun = {family: _observed(cell.pairs for cell in group) / math.sqrt(2) for family, group in groups.items()}
    seed = {family: _observed(list(cell.base.values()) for cell in group) for family, group in groups.items()}
    return [
        replace(cell, rerun_sd=max(cell.rerun_sd, rerun[family]), seed_sd=max(cell.seed_sd, seed[family]))
        for cell, family in zip(scores, families, strict=True)
    ]


def _assumed(cell: CellChange) -> Scores:
    """The cell's metric with the noise that is assumed."""
    noise = budget(cell.run)
    seed_sd = MINI_SPREAD if cell.run.scale == "mini" else noise
    teachers = {row.teacher.sha256 for row in (*cell.base, *cell.head) if row.run.teacher and row.teacher}
    teacher_sd = noise if len(teachers) > 1 else 0.0
    return Scores(_values(cell.base), _values(cell.head), noise, noise, seed_sd, target(cell.run), teacher_sd)


def _observed(samples: Iterable[Sequence[float]]) -> float:
    """The sd within samples where it rests on as many degrees of freedom as the noise budget, else 0."""
    sd, freedom = pooled(samples)
    return sd if freedom >= PRIOR else 0.0


def _family(run: Run) -> tuple[str, str, str]:
    return run.scale, run.task, run.data.name


def _matched(base: Iterable[Row], head: Iterable[Row]) -> Iterator[tuple[list[Row], list[Row]]]:
    """The rows of each cell in BASE and HEAD in order of seeds; one of the two may be empty."""
    cells: dict[tuple[str, str], tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((base, head)):
        for row in sorted(rows, key=lambda row: row.run.seed):
            cells[_identity(row.run)][side].append(row)
    yield from cells.values()


def _identity(run: Run) -> tuple[str, str]:
    """Equal for runs that differ in seed alone; options are equal as reports compare them, 4 and 4.0 alike."""
    return run.model_copy(update={"seed": 0, "options": {}}).id, canonical(run.options)


def _cell(run: Run) -> CellKey:
    """The run's cell, its method's options left out."""
    return CellKey.of(run)._replace(options="")


def _by_cell(rows: Iterable[Row]) -> Runs:
    cells: dict[CellKey, list[Run]] = defaultdict(list)
    for row in rows:
        cells[_cell(row.run)].append(row.run)
    return cells


def _nearest(run: Run, side: str, others: Sequence[Run]) -> str:
    """How the most similar run of the other side's same method and networks differs; empty where there is none."""
    ignored = {"seed", "recipe.name", "recipe.source", "teacher.recipe.name", "teacher.recipe.source"}
    spec = run.model_dump(mode="json")
    texts = (field_differences(other.model_dump(mode="json"), spec) for other in others)
    relevant = ([text for text in some if text.split(" ")[0] not in ignored] for some in texts)
    fewest = min(relevant, key=len, default=[])
    more = f" and {len(fewest) - 2} more" if len(fewest) > 2 else ""
    return f"; {side}'s nearest has {', '.join(fewest[:2])}{more}" if fewest else ""


def _order(run: Run) -> tuple[str, ...]:
    networks = run.teacher_network or "", run.student
    return run.scale, run.task, run.data.display_name, *networks, run.method, canonical(run.options), run.id
