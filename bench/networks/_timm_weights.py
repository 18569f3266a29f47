"""timm's published weights, read from local files and never downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import CheckpointError
from ..records.checkpoint import load_strictly, read, state_of
from ._torchvision_weights import folder

RECOMPUTED = (".relative_position_index", ".attn_mask")
"""Swin's tables of positions, which some files hold and every model computes."""


def load(body: nn.Module, model_id: str) -> None:
    """Load a timm model's weights from `$KDBENCH_DATA/weights/<model_id>.safetensors` or `.pth`.

    Args:
        body: the model that timm builds under the part of `model_id` before the dot.
        model_id: timm's architecture and tag, such as "resnet50.a1_in1k".

    Raises:
        CheckpointError: the file is missing, damaged or another network's; names the file and the place to put it.
    """
    path = find(model_id)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read(path)
    state = {name: value for name, value in state_of(content, path).items() if not name.endswith(RECOMPUTED)}
    # Files from before PyTorch 0.4.1 lack these counters, which no BatchNorm with a momentum reads.
    counters = {name: value for name, value in body.state_dict().items() if name.endswith(".num_batches_tracked")}
    load_strictly(body, counters | state, path)


def find(model_id: str) -> Path:
    """The local file of a timm model; safetensors before pickles.

    Raises:
        CheckpointError: there is none.
    """
    candidates = [folder() / f"{model_id}{suffix}" for suffix in (".safetensors", ".pth")]
    for path in candidates:
        if path.exists():
            return path
    raise CheckpointError(
        f"{candidates[0]} is missing; download model.safetensors from https://huggingface.co/timm/{model_id} and save "
        f"it under that name (or its pickled state dict as {candidates[1].name}), set KDBENCH_DATA to the folder that "
        "holds weights/, or choose a recipe that starts from random weights"
    )


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error}); fetch it again") from error
    return content
