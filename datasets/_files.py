"""Reading of files from outside: regular files alone, and JSON within limits.

A pipe or a device in place of a file would wait or go on for ever, and a parser without limits can take any time and
memory, so every reader opens its files here. What goes wrong with a file is an `OSError` whose `strerror` is a reason
to print; what goes wrong with a text is a `JsonError`.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

MAX_BYTES = 4 * 2**30
"""Most bytes of a file that is read as a whole; COCO 2017's largest annotation file has 0.45e9."""

_MEMORY_SHARE = 0.5  # of the machine's memory, for arrays of one data set

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class JsonError(ValueError):
    """A text is not JSON, or is nested deeper or has longer numbers than any data; the message says where."""


@contextmanager
def written_whole(file: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes become `file` when the block ends, so that no other process sees a part of them.

    Raises:
        OSError: it cannot be written; `file` stays as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        os.replace(temporary, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def open_regular(file: Path, limit: int | None = None) -> BinaryIO:
    """`file` opened for reading bytes.

    Args:
        file: a regular file, or a link to one.
        limit: most bytes that it may have; None for any size.

    Raises:
        OSError: it cannot be opened, is a folder, pipe, device or socket, or is too large; `strerror` says which.
    """
    try:
        _reject_special(file, os.stat(file).st_mode)  # before opening, which some devices act upon
        # Without O_NONBLOCK, opening a pipe that took the file's place in between would wait for its other end.
        stream = os.fdopen(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    except ValueError as error:  # a null character or a lone surrogate
        raise OSError(errno.EINVAL, f"no file can have this name ({error})", str(file)) from error
    try:
        found = os.fstat(stream.fileno())
        _reject_special(file, found.st_mode)
        if limit is not None:
            _reject_large(file, found.st_size, limit)
    except OSError:
        stream.close()
        raise
    return stream


def read_bytes(file: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        OSError: as in `open_regular`.
    """
    try:
        with open_regular(file, limit) as stream:
            content = stream.read(limit + 1)  # a file that grows, or one of /proc, has more than it says
    except MemoryError as error:
        raise OSError(errno.ENOMEM, "takes more memory than there is", str(file)) from error
    _reject_large(file, len(content), limit)
    return content


def memory_budget() -> int:
    """Bytes that the arrays of a data set may take: a share of the machine's memory."""
    return int(_MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def parse_json(text: str | bytes, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value of a JSON text; bytes are UTF-8, with or without a byte order mark.

    Raises:
        JsonError: it is not JSON, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise JsonError(f"not text at byte {error.start} of {len(text)}") from error
    try:
        return json.loads(decoded, object_hook=object_hook)
    except json.JSONDecodeError as error:
        position, size = len(decoded[: error.pos].encode(errors="replace")), len(decoded.encode(errors="replace"))
        raise JsonError(f"not valid JSON at byte {position} of {size} ({error.msg})") from error
    except MemoryError as error:
        raise JsonError("takes more memory than there is") from error
    except RecursionError as error:
        raise JsonError("not usable JSON: lists or objects are nested too deeply") from error
    except ValueError as error:  # Python's limit of digits
        raise JsonError("not usable JSON: a number has thousands of digits") from error


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8, which lone surrogates cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def name_of(path: Path) -> str:
    """The name of a folder or file, without suffix, as text: bytes that are not UTF-8 are written as escapes."""
    name = path.resolve().name if path.is_dir() else path.stem
    return name.encode(errors="backslashreplace").decode()


def _reject_special(file: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", str(file))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "special")
        raise OSError(errno.EINVAL, f"is {kind}, not a file", str(file))


def _reject_large(file: Path, size: int, limit: int) -> None:
    if size > limit:
        raise OSError(errno.EFBIG, f"has more than the {limit / 2**30:.3g} GiB that are read", str(file))
