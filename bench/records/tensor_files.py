"""Files of tensors, whatever program wrote them: opened within a budget, read as tensors and plain values only."""

from __future__ import annotations

import os
import pickle
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from kdbench.datasets._files import open_regular

from ..errors import CheckpointError
from ..text import one_line
from ._plain_pickle import (
    CALLS_CODE,
    OF_TENSORS,
    SAFE_GLOBALS,
    ArrayUnpickler,
    RefusedError,
    as_tensors,
    refused_globals,
)

LARGEST_FILE = 16 * 2**30
"""Bytes; several times the largest published network with the state of its optimizer."""

LARGEST_INDEX = 64 * 2**20
"""Bytes of the pickle in a torch file, which lists its tensors; a hundred thousand of them take 20 MB."""

MOST_OPCODES = 4_000_000
"""Of a pickle: each may make an object of a hundred bytes."""

LEGACY = re.compile(rb"\x80.\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)
"""The magic number that files of torch.save begin with where they are no zip archives."""

STATE_KEYS = ("state_dict", "model", "net", "state", "model_state_dict", "weights", "params")

OTHER_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    (b"<", "a web page or XML, not a checkpoint; download the file itself"),
    (b"\x89HDF\r\n", "an HDF5 file (Keras); save the weights from PyTorch as a state dict"),
    (b"\x1f\x8b", "compressed with gzip; unpack it and give the file inside"),
    (b"\x93NUMPY", "a NumPy array; save the weights from PyTorch as a state dict"),
)


class DamagedError(ValueError):
    """What a file holds contradicts its format; the message says what it is."""


def read_content(path: Path) -> Any:
    """What a file of torch.save, a safetensors file or a `.pkl` of arrays holds, its tensors on the CPU.

    Plain values, NumPy arrays (as tensors) and scalars (as numbers) are read; no other object is, because reading it
    could run code.

    Raises:
        CheckpointError: the file is missing, no regular file, too large, damaged, of another format, or holds objects;
            names the file and the fix.
    """
    try:
        with open_regular(path, LARGEST_FILE) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats
            return _read(stream, path)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(_not_opened(path, error)) from error
    except RefusedError as error:
        raise CheckpointError(_objects(path, error)) from error
    except MemoryError as error:
        raise CheckpointError(
            f"{path} asks for more memory than is free: it is damaged, or too large for this machine; copy or download "
            "it again, or save its state dict alone"
        ) from error
    except DamagedError as error:
        raise CheckpointError(f"{path} {error}; copy or download it again") from error
    except Exception as error:  # on damaged files an unpickler raises any exception, in words about itself
        raise CheckpointError(f"{path} is damaged, truncated or no checkpoint; copy or download it again") from error


def check_regular(path: Path) -> None:
    """Refuse what is no regular file that can be read, or a file above the budget.

    Raises:
        CheckpointError: names the path and the reason.
    """
    try:
        open_regular(path, LARGEST_FILE).close()
    except OSError as error:
        raise CheckpointError(_not_opened(path, error)) from error


def _not_opened(path: Path, error: OSError) -> str:
    """The message about a file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return f"{path} does not exist; give the path of a checkpoint file"
    if isinstance(error, PermissionError):
        return f"{path} cannot be read: permission denied; allow reading it"
    return f"{str(path)[:200]} cannot be used: {error.strerror or error}; give the path of a checkpoint file"


def _read(stream: BinaryIO, path: Path) -> Any:
    """The content by the reader of the file's format, which its first bytes tell.

    Raises:
        CheckpointError: it is of a format that holds no tensors of PyTorch.
    """
    head = stream.read(64)
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if not head:
        raise CheckpointError(f"{path} is truncated: it is empty; copy or download it again")
    if head.startswith(b"PK"):
        return _read_zip(stream, path, size)
    if LEGACY.match(head):
        return _read_legacy(stream)
    named = path.suffix == ".safetensors"
    if head[8:9] == b"{" and (named or int.from_bytes(head[:8], "little") <= size - 8):
        return _read_safetensors(path)
    if head.startswith(b"\x80") or path.suffix == ".pkl":
        return _read_pickle(stream)
    for start, words in OTHER_FORMATS:
        if head.lstrip().startswith(start):
            raise CheckpointError(f"{path} is {words}")
    if re.fullmatch(rb"[\t\n\r -~]{16,}", head):
        raise CheckpointError(f"{path} is a text file, not a checkpoint; give the file of a network's weights")
    if named:
        return _read_safetensors(path)
    return _load(stream, Names(set(), set()))  # a tar archive of the first versions of torch, or nothing that it knows


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DamagedError("is a damaged or truncated safetensors file") from error


def _read_zip(stream: BinaryIO, path: Path, size: int) -> Any:
    """A file of torch.save, whose checksums are compared: torch.load does not."""
    with zipfile.ZipFile(stream) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        index = next((name for name in entries if name.endswith("data.pkl")), None)
        if index is None or any(name.endswith("/constants.pkl") for name in entries):
            raise CheckpointError(f"{path} is {_other_archive(list(entries))}")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise CheckpointError(f"{path} was compressed after it was saved; unpack it, or save the state dict again")
        if sum(entry.file_size for entry in archive.infolist()) > size:
            raise CheckpointError(f"{path} is damaged: its entries are larger than the file; copy or download it again")
        if entries[index].file_size > LARGEST_INDEX:
            raise CheckpointError(f"{path} lists too many objects to be a checkpoint; save the state dict alone")
        if (damaged := archive.testzip()) is not None:
            raise CheckpointError(f"{path} is damaged (checksum of {one_line(damaged)}); copy or download it again")
        with archive.open(index) as listed:
            names = _scan(listed)
    stream.seek(0)
    return _load(stream, names)


def _other_archive(names: list[str]) -> str:
    if any(name.endswith("constants.pkl") for name in names):
        return "a TorchScript program; save torch.jit.load(FILE).state_dict() with torch.save and give that file"
    if any(name.endswith(".npy") for name in names):
        return "an .npz of NumPy arrays; save the weights from PyTorch as a state dict"
    first = one_line(", ".join(names[:3])) or "none"
    return f"an archive of other files ({first}); unpack it and give the checkpoint inside"


def _read_legacy(stream: BinaryIO) -> Any:
    """A file of torch.save from before version 1.6."""
    names = Names(set(), set())
    for _ in range(5):  # magic number, version, machine, content, names of storages
        names = names.union(_scan(stream))
    stream.seek(0)
    return _load(stream, names)


def _load(stream: BinaryIO, names: Names) -> Any:
    """The content by torch's own safe unpickler."""
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return as_tensors(torch.load(stream, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        if refused := refused_globals(names.objects):
            key = next((key for key in STATE_KEYS if key in names.texts), None)
            raise RefusedError(refused, key) from error
        raise


def _read_pickle(stream: BinaryIO) -> Any:
    """A pickle of arrays, as detectron2 and Caffe2 publish them."""
    _scan(stream)
    stream.seek(0)
    return as_tensors(ArrayUnpickler(stream, encoding="latin1").load())


class Names(NamedTuple):
    """What a pickle names.

    Attributes:
        objects: classes and functions.
        texts: keys and other short text.
    """

    objects: set[str]
    texts: set[str]

    def union(self, other: Names) -> Names:
        return Names(self.objects | other.objects, self.texts | other.texts)


def _scan(stream: IO[bytes]) -> Names:
    """The names in a pickle, which is not run.

    Raises:
        ValueError: it is damaged.
        DamagedError: it has more objects than any checkpoint.
    """
    names = Names(set(), set())
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        memo = argument if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") else 0
        if max(count, memo or 0) > MOST_OPCODES:
            raise DamagedError("is damaged or no checkpoint: it has more objects than any checkpoint")
        if opcode.name in ("GLOBAL", "INST"):
            names.objects.add(str(argument).replace(" ", "."))
        elif opcode.name == "BINUNICODE" and argument in STATE_KEYS:
            names.texts.add(str(argument))
    return names


def _objects(path: Path, error: RefusedError) -> str:
    """The message about a file with objects."""
    names, key = error.names, error.key
    if not all(part.isidentifier() for name in names for part in name.split(".")):
        return f"{path} is damaged, truncated or no checkpoint; copy or download it again"
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if any(CALLS_CODE.fullmatch(name) for name in names):
        return (
            f"{path} holds {listed}, which weights never need and which could do harm; it was not run. Do not open the "
            "file with another program; get the weights from a source that you trust"
        )
    if OF_TENSORS.fullmatch(names[0]):
        return f"{path} was written by pickle.dump; write its state dict with torch.save"
    state = f"c[{key!r}]" if key else "c.state_dict()"
    command = f"import torch; c = torch.load({str(path)!r}, weights_only=False); torch.save({state}, 'weights.pth')"
    return (
        f"{path} holds objects beside tensors and plain values ({listed}) and was not loaded, because reading them can "
        "run code; if you made the file or trust its source, save the state dict alone where these libraries are "
        f'installed: python -c "{command}"'
    )
