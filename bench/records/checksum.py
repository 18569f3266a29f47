"""The checksum of a checkpoint file: CRC-32, in the comment of the zip archive that torch.save writes."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

COMMENT = re.compile(rb"\x16\x00kdbench crc32:([0-9a-f]{8})")
"""At the end of the archive: the comment's length, which is the archive's last field, and the comment."""

LENGTH = 24  # bytes of COMMENT
CHUNK = 2**22  # bytes


class ChecksumWriter:
    """Writes a checkpoint with its checksum, which is computed while it is written.

    Args:
        file: receives the bytes.
        also: is called with all bytes, too.
    """

    def __init__(self, file: IO[bytes], also: Callable[[bytes], object] = lambda _: None) -> None:
        self.file, self.also = file, also
        self.checksum, self.last = 0, b""

    def save(self, content: Mapping[str, Any]) -> None:
        torch.save(dict(content), self)  # type: ignore[arg-type]
        assert self.last == b"\0\0", "an archive without a comment ends in its length"
        self._pass_on(b"\x16\x00kdbench crc32:%08x" % self.checksum)

    def write(self, data: bytes) -> int:
        """All but the last two bytes so far: these are the length of the comment."""
        if len(data) >= 2:
            self._count(self.last)
            view = memoryview(data)
            self._count(view[:-2])
            self.last = bytes(view[-2:])
        else:
            joined = self.last + data
            self._count(joined[:-2])
            self.last = joined[-2:]
        return len(data)

    def flush(self) -> None:
        self.file.flush()

    def _count(self, data: bytes | memoryview) -> None:
        self.checksum = zlib.crc32(data, self.checksum)
        self._pass_on(data)

    def _pass_on(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self.also(data)  # type: ignore[arg-type]


def is_intact(path: Path) -> bool | None:
    """Whether a file is as it was written; None for one without a checksum, which an earlier version or another
    program wrote.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - LENGTH))
        tail = file.read()
        found = COMMENT.fullmatch(tail)
        if found is None:
            return False if b"kdbench crc32:" in tail else None  # False: its end is missing
        file.seek(0)
        checksum, left = 0, size - LENGTH
        while left:
            data = file.read(min(CHUNK, left))
            if not data:
                return False
            checksum, left = zlib.crc32(data, checksum), left - len(data)
    return checksum == int(found[1], 16)
