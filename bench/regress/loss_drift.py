"""Changes of the loss terms of a cell's first epoch, which find what accuracy is too coarse to find.

A method that computes something else often has much the same accuracy, at mini scale above all. The mean of its terms
over the first epoch, seed by seed, shows it on any machine: the same options and code give the same losses but for
rounding, and for a teacher that was trained again.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from ..records.row import Row
from .stats import Change

CHANGED = 0.15
"""Relative change of a term that counts: our choice. `kd` of `cifar_mini` changed by up to 5.5 % where its teacher was
trained again with other CPU instructions, every term of `none` and `dist` by up to 1.9 %."""

SMALL = 0.05
"""A term counts as at least this share of the loss: rounding changes tiny terms by much of their size."""

SIGN = 0.001
"""Share of the loss from which a term that vanished or changed its sign counts."""


def drift(base: Sequence[Row], head: Sequence[Row]) -> Change:
    """`unsure` where a term changed, appeared or vanished in the first epoch of the seeds that both sides have."""
    before, after = _first(base), _first(head)
    shared = sorted(before.keys() & after.keys())
    if not shared:
        return Change("not measured", "no seed in common that has losses of a first epoch")
    old, new = ([losses[seed] for seed in shared] for losses in (before, after))
    if old == new:
        return Change("unchanged", n=len(shared))
    names = [set().union(*side) for side in (old, new)]
    if names[0] != names[1]:
        lost, added = (", ".join(sorted(some - others)) for some, others in (names, names[::-1]))
        words = [f"without {lost}" if lost else "", f"with {added}" if added else ""]
        return Change("unsure", f"other loss terms: {' and '.join(filter(None, words))}", n=len(shared))
    means = {name: (_mean(old, name), _mean(new, name)) for name in sorted(names[0])}
    total = sum(abs(was) for was, _ in means.values())
    changes = {name: _relative_change(was, now, total) for name, (was, now) in means.items()}
    worst = max(changes, key=lambda name: abs(changes[name]))
    was, now = means[worst]
    if abs(changes[worst]) <= CHANGED:
        return Change("unchanged", "", was, now, changes[worst], len(shared))
    reason = f"loss term {worst} was {was:.4g} over the first epoch, now {now:.4g}: something else is computed"
    return Change("unsure", reason, was, now, changes[worst], len(shared))


def _relative_change(was: float, now: float, total: float) -> float:
    """The change of a term over its size, or over `SMALL` of the loss where it is smaller."""
    if was * now <= 0 and max(abs(was), abs(now)) > SIGN * total:
        return (now - was) / max(abs(was), abs(now))
    return (now - was) / max(abs(was), SMALL * total) if now != was else 0.0


def _first(rows: Sequence[Row]) -> dict[int, Mapping[str, float]]:
    """Each seed's losses over its first epoch."""
    return {row.run.seed: row.history[0].losses for row in rows if row.history and row.history[0].losses}


def _mean(losses: Sequence[Mapping[str, float]], name: str) -> float:
    return statistics.fmean(terms.get(name, 0.0) for terms in losses)
