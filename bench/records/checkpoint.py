"""Checkpoints: written atomically, read as tensors and plain values only, loaded strictly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import CheckpointError
from ..text import counted
from .atomic import write_stream, writing
from .checksum import ChecksumWriter, is_intact
from .tensor_files import read_content


def write(path: Path, content: Mapping[str, Any]) -> str:
    """Save tensors and plain values, with a checksum; returns the file's sha256.

    Raises:
        StoreError: the folder cannot be written or the disk is full; an earlier file is untouched.
    """
    sha256 = hashlib.sha256()
    write_stream(path, lambda file: ChecksumWriter(file, sha256.update).save(content))
    return sha256.hexdigest()


def replace(path: Path, previous: Path, content: Mapping[str, Any]) -> None:
    """Save tensors and plain values, with a checksum; an earlier file at `path` becomes `previous`.

    It does not wait until the disk has it all: where the machine fails before, the checksum tells and `previous` is
    left.

    Raises:
        StoreError: the folder cannot be written or the disk is full; an earlier file is untouched.
    """

    def keep() -> None:
        if path.exists():
            with writing(path):
                path.replace(previous)

    write_stream(path, lambda file: ChecksumWriter(file).save(content), before=keep, sync=False)


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, or of weights that another program wrote (see `tensor_files.read_content`).

    Raises:
        CheckpointError: the file is missing, damaged, of another format, holds objects, or no dict.
    """
    content = read_content(path)
    if is_intact(path) is False:
        raise CheckpointError(
            f"{path} is damaged (its content differs from its checksum); copy it again from its source"
        )
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict; save a state dict")
    return content


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Load `state`, whose names and shapes must be the network's.

    Raises:
        CheckpointError: it is of another network, or for another number of classes.
    """
    expected = network.state_dict()
    missing, surplus = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    shapes = [key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape]
    if missing or surplus:
        lacks, has = counted(len(missing), "name is", "names are"), counted(len(surplus), "is", "are")
        raise CheckpointError(
            f"{source} is another network's: {lacks} missing (such as {missing[:2]}) and {has} unknown (such as "
            f"{surplus[:2]}); give the checkpoint of this very network"
        )
    if shapes:
        key = min(shapes)
        raise CheckpointError(
            f"{source} does not fit: {key} is {tuple(state[key].shape)} there and {tuple(expected[key].shape)} here "
            f"({len(shapes)} such); it was made for another number of classes or another width"
        )
    expected.update(state)  # with the versions of its modules, which some cannot load without
    network.load_state_dict(expected)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
