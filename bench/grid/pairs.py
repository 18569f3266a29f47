"""Which networks a teacher-student pair of a table runs at a scale, and why some pairs cannot run."""

from __future__ import annotations

from .. import networks
from ..spec.scale import Scale
from ..spec.table import Pair


def pair_name(pair: Pair) -> str:
    """A pair as `--pairs` names it and plans print it."""
    return f"{pair.teacher}->{pair.student}"


def pair_names(pair: Pair) -> set[str]:
    """The names by which `--pairs` knows a pair: that of the paper, and of the networks that run at full scale."""
    own = {pair_name(pair)}
    return own | {f"{pair.networks.teacher}->{pair.networks.student}"} if pair.networks else own


def networks_at(pair: Pair, scale: Scale) -> tuple[str, str]:
    """The names of the networks that a pair runs at a scale: teacher, student.

    Where the library of `pair.networks` is missing, networks of the pair's own names are used instead.
    """
    proxy = pair.mini if scale == "mini" else pair.networks
    if proxy is None or (scale == "full" and networks.unavailable(proxy.student) and has_substitute(pair)):
        return pair.teacher, pair.student
    return proxy.teacher, proxy.student


def has_substitute(pair: Pair) -> bool:
    """Whether networks of the pair's own names can be used instead of those of an optional library."""
    optional = pair.networks is not None and networks.library(pair.networks.student) == "detectron2"
    return optional and {pair.teacher, pair.student} <= set(networks.names())


def unsupported(pair: Pair, scale: Scale) -> str:
    """Why a pair cannot run at a scale on any machine; empty when it can."""
    if scale == "full":
        return pair.skip
    return "" if pair.mini else (pair.skip or "the table names no small networks for this pair")


def skip_reason(pair: Pair, scale: Scale) -> str:
    """Why a pair cannot run at a scale on this machine; empty when it can."""
    reasons = (networks.unavailable(name) for name in networks_at(pair, scale))
    return unsupported(pair, scale) or next(filter(None, reasons), "")


def substitution(pair: Pair, scale: Scale) -> tuple[str, str] | None:
    """The pair whose library is missing and the reason, where other networks are used instead; else None."""
    wanted = pair.networks
    if scale == "mini" or wanted is None or networks_at(pair, scale) == (wanted.teacher, wanted.student):
        return None
    reason = f"{networks.unavailable(wanted.student)}; {networks.library(pair.student)}'s detectors run instead"
    return f"{wanted.teacher} -> {wanted.student}", reason
