"""Checkpoints: written atomically, read as tensors and plain values only, loaded strictly."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .store import write_atomically


def write(path: Path, content: Mapping[str, Any]) -> str:
    """Save tensors and plain values; returns the file's sha256."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_atomically(path, buffer.getvalue())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, or of a `.pkl` of arrays as detectron2 publishes them, as tensors.

    Only tensors, arrays and plain values are unpickled.

    Raises:
        CheckpointError: the file is missing, truncated, or holds code or objects.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats
            if path.suffix == ".pkl" and not zipfile.is_zipfile(path):
                content = _tensors(_ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load())
            else:
                content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; give the path of a checkpoint file") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors and plain values and was not loaded, because unpickling "
            f"it could run code; save the state dict alone ({_first_line(error)})"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # on damaged files an unpickler raises any exception
        raise CheckpointError(
            f"{path} is truncated or not a checkpoint ({_first_line(error)}); delete it, or fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict; save a state dict")
    return content


def state_of(content: dict[str, Any], source: Path) -> dict[str, Tensor]:
    """The state dict in a file's content: the content itself, or its `state`, `model` or `state_dict`.

    Raises:
        CheckpointError: it has none.
    """
    for key in ("state", "model", "state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{source} holds no state dict of tensors; give the file of a network's weights")
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
        raise CheckpointError(
            f"{source} is another network's: {len(missing)} names are missing (such as {missing[:2]}) and "
            f"{len(surplus)} are unknown (such as {surplus[:2]}); give the checkpoint of this very network"
        )
    if shapes:
        key = min(shapes)
        raise CheckpointError(
            f"{source} does not fit: {key} is {tuple(state[key].shape)} there and {tuple(expected[key].shape)} here "
            f"({len(shapes)} such); it was made for another number of classes or another width"
        )
    network.load_state_dict(dict(state))


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain values and numpy arrays only."""

    def find_class(self, module: str, name: str) -> Any:
        known = {"_reconstruct", "ndarray", "dtype", "scalar", "encode", "OrderedDict"}
        if module.split(".")[0] in ("numpy", "_codecs", "collections") and name in known:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not an array")


def _tensors(value: Any) -> Any:
    """The value with its arrays as tensors, inside dicts too."""
    if isinstance(value, dict):
        return {name: _tensors(inner) for name, inner in value.items()}
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
