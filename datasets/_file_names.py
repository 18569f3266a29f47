"""Names of image files as labeling tools write them, matched with the files that exist.

Tools write absolute paths of another machine, URLs, `./`, backslashes, `%20`, the name of the split, and names in
another letter case or Unicode normal form.
"""

from __future__ import annotations

import difflib
import posixpath
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

_LOCAL = "/local-files/?d="  # Label Studio's address of a file on its own disk
_COMPARED = 10_000  # existing names among which the nearest is searched


@dataclass(frozen=True)
class Resolved:
    """File names relative to the image folder, and which of the given names were replaced.

    Attributes:
        names: a name for each image; that of a missing file is as given.
        replaced: (given, existing) names that differ.
        missing: given names without a file.
        repeated: positions of the first two names of one file; None where every name has a file of its own.
    """

    names: tuple[str, ...]
    replaced: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    repeated: tuple[int, int] | None = None


def resolve(names: Sequence[str], present: Iterable[str]) -> Resolved:
    """The existing file of each name.

    A name that does not exist is replaced where exactly one file fits it, and no other name has that file. A file fits
    if one of the two paths, in lower case, with forward slashes and without escapes, ends in the other.

    Args:
        names: N names from an annotation file.
        present: files that exist, relative with forward slashes.
    """
    existing = set(present)
    if all(name in existing for name in names):
        return Resolved(tuple(names), (), (), _repeated(names))
    endings = _endings(existing)
    found = [name if name in existing else _only(name, endings) for name in names]
    counts: dict[str, int] = {}
    for each in found:
        if each is not None:
            counts[each] = counts.get(each, 0) + 1
    # A file that several different names fit is not known to be the image of any.
    kept = [
        each if each is not None and (each == name or counts[each] == 1) else None
        for name, each in zip(names, found, strict=True)
    ]
    pairs = list(zip(names, kept, strict=True))
    return Resolved(
        names=tuple(name if each is None else each for name, each in pairs),
        replaced=tuple((name, each) for name, each in pairs if each is not None and each != name),
        missing=tuple(name for name, each in pairs if each is None),
        # Of a file in a folder that only one of the names has, it is not known that both mean it.
        repeated=_repeated(
            [
                each if each is not None and _key(unquote(name)) == _key(each) else f"{i}\0"
                for i, (name, each) in enumerate(zip(names, found, strict=True))
            ]
        ),
    )


def _repeated(files: Sequence[str]) -> tuple[int, int] | None:
    """Positions of the first file that occurs twice."""
    first: dict[str, int] = {}
    for i, file in enumerate(files):
        if (known := first.setdefault(file, i)) != i:
            return known, i
    return None


def nearest(name: str, present: Iterable[str]) -> str | None:
    """The existing file whose name is most like `name`; None if none is like it."""
    existing = sorted(present)[:_COMPARED]
    by_base = {posixpath.basename(file): file for file in reversed(existing)}
    base = posixpath.basename(_key(name))[:255]
    like = difflib.get_close_matches(base, by_base, n=1, cutoff=0.6)
    return by_base[like[0]] if like else None


def _only(name: str, endings: dict[str, set[str]]) -> str | None:
    """The only existing file that fits `name`."""
    local = name.rpartition(_LOCAL)[2]
    for key in dict.fromkeys((_key(local), _key(unquote(local)))):
        parts = key.split("/")
        for start in range(len(parts)):
            ending = "/".join(parts[start:])
            fitting = endings.get(ending, set())
            same = {file for file in fitting if _key(file) == ending}
            # A file deeper in the folder than its name says fits the whole name alone.
            if fitting := same or (fitting if start == 0 else set()):
                return next(iter(fitting)) if len(fitting) == 1 else None
    return None


def _endings(existing: set[str]) -> dict[str, set[str]]:
    """Existing files by every ending of their path."""
    endings: dict[str, set[str]] = {}
    for file in existing:
        parts = _key(file).split("/")
        for start in range(len(parts)):
            endings.setdefault("/".join(parts[start:]), set()).add(file)
    return endings


def _key(name: str) -> str:
    """`name` with forward slashes, without `.` and `..` where they can be resolved, in one case and normal form."""
    path = posixpath.normpath(name.replace("\\", "/")).lstrip("/")
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
