"""Whether the loss terms of a cell still begin as they did: what accuracy is too coarse to see.

A method that computes something else often scores much the same, at mini scale above all. The mean of its terms over
the first epoch, seed by seed, tells it at once, whatever the machine: the same options and the same code give the same
losses but for rounding, and for a teacher that had to be trained again.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from ..records.row import Row
from .stats import Change

MOVED = 0.15
"""Relative change of a term that counts: our choice. `kd` of `cifar_mini` moved by up to 5.5 % where its teacher was
trained again with other CPU instructions, every term of `none` and `dist` by up to 1.9 %."""

SMALL = 0.05
"""A term counts as at least this share of the loss: rounding moves what adds next to nothing by much of itself."""

SIGN = 0.001
"""Share of the loss from which a term that vanished or changed its sign has moved, however small it is."""


def drift(base: Sequence[Row], head: Sequence[Row]) -> Change:
    """`unsure` where a term moved, came or went in the first epoch of the seeds that both sides have."""
    before, after = _first(base), _first(head)
    shared = sorted(before.keys() & after.keys())
    if not shared:
        return Change("not measured", "no seed in common that has losses of a first epoch")
    old, new = ([losses[seed] for seed in shared] for losses in (before, after))
    if old == new:
        return Change("unchanged", n=len(shared))
    names = [set().union(*side) for side in (old, new)]
    if names[0] != names[1]:
        lost, more = (", ".join(sorted(one - other)) for one, other in (names, names[::-1]))
        words = [f"without {lost}" if lost else "", f"with {more}" if more else ""]
        return Change("unsure", f"other loss terms: {' and '.join(filter(None, words))}", n=len(shared))
    means = {name: (_mean(old, name), _mean(new, name)) for name in sorted(names[0])}
    whole = sum(abs(was) for was, _ in means.values())
    moves = {name: _move(was, now, whole) for name, (was, now) in means.items()}
    worst = max(moves, key=lambda name: abs(moves[name]))
    was, now = means[worst]
    if abs(moves[worst]) <= MOVED:
        return Change("unchanged", "", was, now, moves[worst], len(shared))
    reason = f"loss term {worst} was {was:.4g} over the first epoch, now {now:.4g}: something else is computed"
    return Change("unsure", reason, was, now, moves[worst], len(shared))


def _move(was: float, now: float, whole: float) -> float:
    """Change of a term over its own size, as far as it counts."""
    if was * now <= 0 and max(abs(was), abs(now)) > SIGN * whole:
        return (now - was) / max(abs(was), abs(now))
    return (now - was) / max(abs(was), SMALL * whole) if now != was else 0.0


def _first(rows: Sequence[Row]) -> dict[int, Mapping[str, float]]:
    """Each seed's losses over its first epoch."""
    return {row.run.seed: row.history[0].losses for row in rows if row.history and row.history[0].losses}


def _mean(losses: Sequence[Mapping[str, float]], name: str) -> float:
    return statistics.fmean(own.get(name, 0.0) for own in losses)
