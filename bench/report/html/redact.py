"""Leaves paths of this machine and its name out of what is published."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

Clean = Callable[[Any], Any]
"""Maps JSON values."""

PART = r"""[^\s/\\:;,'"`()<>\[\]{}|=]+"""
USER = re.compile(rf"(?<![\w.-])/(?:home|Users)/{PART}")
POSIX = re.compile(rf"(?:file:/*|(?<![\w.:/~-])~?)/(?:{PART}/)+({PART})")
WINDOWS = re.compile(rf"(?<!\w)[A-Za-z]:\\+(?:{PART}\\+)*({PART})")
PACKED = ("at", "floats")
"""Fields of the packed table that are no text, but base64."""

HOST = "(host)"


def unchanged(value: Any) -> Any:
    return value


def redactor(home: Path | None = None, folder: Path | None = None, host: str | None = None) -> Clean:
    """What cleans values before they are published: of absolute paths only the last name stays, the host is `(host)`.

    Args:
        home, folder: whose paths are known to the letter, spaces included; by default the user's, and this one.
        host: name of this machine; by default as it has it.
    """
    folders = sorted({str(home or Path.home()), str(folder or Path.cwd())} - {"/"}, key=len, reverse=True)
    known = re.compile(rf"(?:{'|'.join(map(re.escape, folders))})(?![\w-])")
    name = host or socket.gethostname()
    named = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])") if len(name) > 2 and name != "localhost" else None

    def text(value: str) -> str:
        value = USER.sub("~", known.sub("~", value))
        value = WINDOWS.sub(r"…/\1", POSIX.sub(r"…/\1", value))
        return value if named is None or value == name else named.sub(HOST, value)

    return lambda value: _mapped(value, text)


def _mapped(value: Any, text: Callable[[str], str]) -> Any:
    """The value with every text in it mapped, but those of packed numbers."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return {name: each if name in PACKED else _mapped(each, text) for name, each in value.items()}
    return [_mapped(each, text) for each in value] if isinstance(value, list | tuple) else value
