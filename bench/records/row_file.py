"""The file of a row: JSON with its epochs and a checksum at the end; rows of earlier versions have no checksum."""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from kdbench.datasets._files import read_bytes

from ..spec.run import Run, hashed_spec
from ..spec.schema import canonical_json
from .contradictions import contradiction
from .history import History
from .row import SCHEMA, Result, Row

MAX_BYTES = 256 * 2**20
"""Most bytes of a row; one of 300 epochs has half a million."""

EAGER = 4096
"""Bytes of a history that is parsed with its row."""

CHECKSUM = re.compile(rb',\n "checksum": "crc32:([0-9a-f]{8})"\n}\n?')
STEPS = re.compile(rb'"steps":\s*(\d{1,18})\b')
SEED = re.compile(rb'\n  "seed": (\d{1,18})(?=,|\n)')
RUN = b'\n "run": {'
ANY_SEED = "\0"


@dataclass(frozen=True)
class InvalidRow:
    """A file that is not a valid result row.

    Attributes:
        path: the file.
        reason: names the field.
        damaged: its run can be done again; not so for a file that cannot be read or is of another version.
    """

    path: Path
    reason: str
    damaged: bool = True

    @property
    def advice(self) -> str:
        """What to do about one that is not damaged: it is never replaced."""
        return f"{self.path} is no result row ({self.reason}); move it away and its run is done again"


class Spec(NamedTuple):
    """The specs of runs that differ in their seed.

    Attributes:
        run: with any seed.
        hashed: the JSON that their ids are hashes of, before and after the seed.
        current: whether that is the JSON which `Run.id` hashes now.
    """

    run: Run
    hashed: tuple[str, str]
    current: bool

    def of_seed(self, seed: int) -> tuple[Run, str]:
        """The run of a seed, and its id as it was written."""
        run = self.run if self.run.seed == seed else self.run.model_copy(update={"seed": seed})
        run_id = _hash(self.hashed, seed)
        if self.current:
            run.__dict__["id"] = run_id  # a cached property, which takes longer to compute than all else of a row
        return run, run_id


class RowReader:
    """Reads rows; those that differ in their seed share the rest of their spec, and equal parts are one object."""

    def __init__(self) -> None:
        self._specs: dict[bytes, Spec] = {}
        self._parts: dict[str, Any] = {}

    def read(self, path: Path, run_id: str | None = None) -> Row | InvalidRow:
        """The row in a file, of this or an earlier version of kdbench.

        Its id must be the hash of its spec as it was written; fields that specs got later have their defaults.

        Args:
            path: the file.
            run_id: the run whose row it should be; None for any.
        """
        try:
            content = read_bytes(path, MAX_BYTES)
        except OSError as error:
            return InvalidRow(path, f"cannot be read: {error.strerror or error}", damaged=False)
        end = CHECKSUM.search(content, max(0, len(content) - 64))
        body = content[: end.start()] if end else content
        checksum = zlib.crc32(body)
        try:
            row, expected = self._parse(path, content, body + b"}" if end else body, checksum)
        except ValidationError as error:
            return invalid_row(path, content, error)
        if row.schema_version != SCHEMA:
            return other_version(path, row.schema_version)
        if expected != row.id:
            return InvalidRow(path, f"id {row.id} is not the hash of its spec ({expected}); edited by hand?")
        if end and (int(end[1], 16) != checksum or end.end() != len(content)):
            return InvalidRow(path, "checksum: differs from the file's content, which is damaged or was edited by hand")
        if not end and row.code is not None:
            return InvalidRow(path, "checksum: is missing, and rows with a code have one; damaged or edited by hand")
        if wrong := contradiction(row.run, row):
            return InvalidRow(path, wrong)
        if run_id is not None and row.id != run_id:
            return InvalidRow(path, f"id: is {row.id}, the result of another run than {run_id}, in whose folder it is")
        return row

    def _parse(self, path: Path, content: bytes, plain: bytes, checksum: int) -> tuple[Row, str]:
        """A row, and the hash of its spec as it was written; a long history is left in the file.

        Raises:
            ValidationError: it is no row.
        """
        short, history = plain, None
        if span := _history_span(plain):
            begin, stop = span
            if steps := STEPS.search(plain, plain.rfind(b'"steps"', begin, stop), stop):
                whole = zlib.crc32(content[len(plain) - 1 :], checksum) if len(content) > len(plain) else checksum
                history = History(path, whole, span, int(steps[1]))
                short = plain[:begin] + b"[]" + plain[stop:]
        try:
            return self._parse_short(short, history)
        except ValidationError:
            # Where the parts were not what they seemed, the whole is valid; else its error names the right place.
            row = Row.model_validate_json(plain)
            return row, _spec(_WrittenRow.model_validate_json(plain).run, row.run).of_seed(row.run.seed)[1]

    def _parse_short(self, content: bytes, history: History | None) -> tuple[Row, str]:
        key = content.find(RUN)
        begin, end = key + len(RUN) - 1, content.find(b"\n },", key) + 3
        seeds = SEED.findall(content, begin, end) if 0 <= key < end else []
        if len(seeds) != 1:
            row = Row.model_validate_json(content, context=history)
            spec = _spec(_WrittenRow.model_validate_json(content).run, row.run)
            return row.model_copy(update={"run": self.share(row.run)}), spec.of_seed(row.run.seed)[1]
        text = content[begin:end]
        without_seed = SEED.sub(b"", text)
        if without_seed not in self._specs:
            any_run = Run.model_validate_json(text)
            self._specs[without_seed] = _spec(from_json(text), self.share(any_run))
        run, run_id = self._specs[without_seed].of_seed(int(seeds[0]))
        result = Result.model_validate_json(content[:key] + content[end + 1 :], context=history)
        return Row.model_construct(run=run, **result.__dict__), run_id

    def share(self, run: Run) -> Run:
        """The run with one object for equal data, recipes and teachers, so that comparing these is fast."""
        parts = {"data": run.data, "recipe": run.recipe, "teacher": run.teacher}
        update = {name: self._parts.setdefault(part.model_dump_json(), part) for name, part in parts.items() if part}
        return run.model_copy(update=update)


def read_row(path: Path, run_id: str | None = None) -> Row | InvalidRow:
    """`RowReader.read` for one file."""
    return RowReader().read(path, run_id)


def encode(row: Row) -> bytes:
    """The content of a row's file."""
    head = row.model_dump_json(indent=1, exclude={"history"}).removesuffix("\n}")
    epochs = ",\n".join(f"  {epoch.model_dump_json()}" for epoch in row.history)
    content = f'{head},\n "history": [\n{epochs}\n ]' if epochs else f'{head},\n "history": []'
    return with_checksum(content.encode())


def with_checksum(body: bytes) -> bytes:
    """The content of a JSON file with a checksum at its end; `body` is an object without its closing bracket."""
    return body + b',\n "checksum": "crc32:%08x"\n}' % zlib.crc32(body)


def _history_span(content: bytes) -> tuple[int, int] | None:
    """Where a long list of epochs is; None where it is short or not found.

    Epochs hold no lists, so the list ends at the first bracket. Where that is not so, the rest is no row.
    """
    key = content.rfind(b'\n "history": [')  # of the row itself, by its indentation
    if key >= 0:
        begin, end = content.index(b"[", key), content.find(b"\n ]", key) + 2
    else:
        key = content.find(b'"history":')
        begin = content.find(b"[", key) if key >= 0 else -1
        end = content.find(b"]", begin) if begin >= 0 else -1
    return (begin, end + 1) if end - begin >= EAGER else None


def invalid_row(path: Path, content: bytes, error: ValidationError) -> InvalidRow:
    try:
        found = from_json(content)
    except ValueError:
        found = None
    if isinstance(found, dict) and found.get("schema_version", SCHEMA) != SCHEMA:
        return other_version(path, found["schema_version"])
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if where == "checksum":
        return InvalidRow(path, "checksum: is not at the end of the file, which is damaged or was edited by hand")
    return InvalidRow(path, f"{where}: {first['msg']}" if where else str(first["msg"]))


def other_version(path: Path, version: Any) -> InvalidRow:
    reason = f"schema_version: {str(version)[:20]} is not {SCHEMA}, which this version reads"
    return InvalidRow(path, reason, damaged=False)


class _WrittenRow(BaseModel):
    """A row's spec with the keys of the file; the rest is skipped, which is faster than `json.loads`."""

    run: dict[str, Any]


def _spec(written: dict[str, Any], run: Run) -> Spec:
    """`Run.id` hashes this JSON, of a spec as it was written."""
    hashed = hashed_spec(written) | {"seed": ANY_SEED}
    before, _, after = canonical_json(hashed).partition(canonical_json(ANY_SEED))
    return Spec(run, (before, after), _hash((before, after), run.seed) == run.id)


def _hash(hashed: tuple[str, str], seed: int) -> str:
    return hashlib.sha256(str(seed).join(hashed).encode()).hexdigest()[:16]
