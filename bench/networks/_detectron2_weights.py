"""Weights that detectron2 publishes: read from its cache, downloaded where that is possible, loaded strictly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.utils.file_io import PathManager
from torch import Tensor, nn

from ..errors import CheckpointError
from ..records.checkpoint import read
from ._state_dicts import load_weights

COUNTER = ".num_batches_tracked"  # no BatchNorm with a momentum reads it, and a FrozenBN has none
UNUSED = ("pixel_mean", "pixel_std", "roi_heads.mask_head.")  # the config has the first two; masks are not trained


def convert_state_dict(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of detectron2's model, or of a network saved here -> under the names of `network`."""
    present = network.state_dict()
    if not any(name.startswith("model.") for name in state):
        used = [name for name in state if not name.startswith(UNUSED) and "cell_anchors" not in name]
        state = {f"model.{name}": state[name] for name in used}
        state |= {name: value for name, value in present.items() if not name.startswith("model.")}
    return {name: value for name, value in present.items() if name.endswith(COUNTER)} | state


def load_published(network: nn.Module, config: str) -> None:
    """Load the weights that the zoo has for a config into a whole network.

    Raises:
        CheckpointError: there are none, they cannot be downloaded, or they are for other classes.
    """
    try:
        from detectron2 import model_zoo  # needs pkg_resources, which newer setuptools lacks
    except ImportError as error:
        raise CheckpointError(
            f"detectron2's zoo cannot be searched for the weights of {config} ({error}); install setuptools below 81, "
            "or give the weights as a file with --teacher"
        ) from error
    try:
        url = model_zoo.get_checkpoint_url(f"{config}.yaml")
    except RuntimeError as error:
        raise CheckpointError(
            f"detectron2's zoo has no weights for {config}; set init to imagenet or random, or give a file with "
            "--teacher"
        ) from error
    path = find(url)
    load_weights(network, read(path), path, lambda state: convert_state_dict(network, state))


def load_backbone(model: Any, origin: str) -> None:
    """Load the ImageNet weights that a config names into the backbone of its model.

    Raises:
        CheckpointError: they cannot be downloaded, or are another backbone's.
    """
    path = find(origin)
    content = read(path)
    caffe2 = content.get("__author__", "Caffe2") == "Caffe2"
    published = {name: value for name, value in _weights(content).items() if not name.endswith("_momentum")}
    body = model.backbone.bottom_up
    matched = align_and_update_state_dicts(body.state_dict(), published, c2_conversion=caffe2)
    # Statistics were folded into scale and shift; the offsets of deformable convolutions start at zero.
    missing = [n for n in body.state_dict() if n not in matched and "running_" not in n and "offset" not in n]
    if missing:
        raise CheckpointError(
            f"{path} is another backbone's: {len(missing)} of its {len(body.state_dict())} names missing, such as "
            f"{missing[0]}; fetch {origin} again"
        )
    body.load_state_dict(body.state_dict() | matched)


def find(origin: str) -> Path:
    """The file at a URL of detectron2, in its cache or downloaded into it.

    Raises:
        CheckpointError: it cannot be downloaded; names the place to put it.
    """
    try:
        return Path(PathManager.get_local_path(origin))
    except (OSError, RuntimeError, ValueError) as error:
        cache = os.environ.get("FVCORE_CACHE", "~/.torch/iopath_cache")
        raise CheckpointError(
            f"{origin} is not in detectron2's cache ({cache}) and cannot be downloaded ({error}); fetch it elsewhere "
            "and put it there, set FVCORE_CACHE to the folder that holds it, or start from random weights with --set "
            "init=random (a teacher's: --set teacher.init=random)"
        ) from error


def _weights(content: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a backbone's file: under "model" (detectron2), under "blobs" (Detectron) or top-level (Caffe2)."""
    inner = content.get("model", content.get("blobs", content))
    return {name: value for name, value in inner.items() if isinstance(value, Tensor)}
