"""The precision that a request asks for, or lets the device decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..engines.precision_probe import FASTER, speedup
from ..errors import SpecError
from ..spec.request import RunRequest
from .site import Site

FIELDS = ("precision", "teacher.precision")


def with_precision(request: RunRequest, site: Site, log: Callable[[str], None]) -> RunRequest:
    """The request with `--precision` as changes of the recipes of students and teachers.

    Args:
        request: of a run.
        site: where its jobs run; for "auto" its first device is timed.
        log: receives what "auto" has chosen, and why.

    Raises:
        SpecError: `--set` has a precision, too, or "auto" would have to time a device that is not here.
    """
    if request.precision is None:
        return request
    if both := next((name for name in FIELDS if name in request.changes), None):
        raise SpecError(f"--precision {request.precision} and --set {both} are both given; leave one out")
    precision = _faster(request, site, log) if request.precision == "auto" else request.precision
    return replace(request, changes=request.changes | dict.fromkeys(FIELDS, precision))


def _faster(request: RunRequest, site: Site, log: Callable[[str], None]) -> str:
    """`bfloat16` where the site's first device trains faster with it, else `ieee`."""
    if request.on or not site.here:
        where = f"--on {request.on}" if request.on else f"--engine {request.engine}"
        raise SpecError(f"--precision auto times a device of this machine, and {where} names others; name a precision")
    device = site.devices[0]
    try:
        ratio = speedup(device)
    except OSError as error:
        raise SpecError(f"--precision auto: {error}; name a precision") from error
    chosen = "bfloat16" if ratio >= FASTER else "ieee"
    log(f"precision {chosen}, because {device} takes {1 / ratio:.2g} times as long a step in bfloat16 as in float32")
    return chosen
