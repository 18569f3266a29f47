"""The code of a run: a hash of the source of its method, and of its networks where they are in a user's file."""

from __future__ import annotations

from kdbench import methods

from ..spec import network_name
from ..spec.run import Run
from ..spec.schema import digest


def code_of(run: Run) -> str | None:
    """The hash; None where the method or a network's file is not known here."""
    code = methods.code(run.method)
    networks = [name for name in (run.student, run.online_teacher) if name and network_name.is_in_file(name)]
    if code is None or not networks:
        return code
    sources = [network_name.code(name) for name in networks]
    return None if None in sources else digest([code, *sources])
