"""torchvision's published weights: read from a local folder, downloaded where that is possible, loaded strictly."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch
from torch import nn
from torchvision.models import get_model_weights

from ..errors import CheckpointError
from ..records.checkpoint import read
from ._family import PublishedFile
from ._state_dicts import load_weights

IMAGENET = "IMAGENET1K_V1"  # of the ResNets, the weights that the papers started from


def folder() -> Path:
    """The folder of published weight files, `$KDBENCH_DATA/weights`."""
    return Path(os.environ.get("KDBENCH_DATA", "data")) / "weights"


def load_imagenet(body: nn.Module, architecture: str, without: tuple[str, ...] = ()) -> None:
    """Load torchvision's ImageNet weights into a network.

    Args:
        body: the network, under torchvision's state-dict names.
        architecture: torchvision's name for it.
        without: prefixes of the names of a classifier that `body` lacks.

    Raises:
        CheckpointError: the file is neither on this machine nor downloadable, or another network's.
    """
    path = find(get_model_weights(architecture)[IMAGENET].url)
    load_weights(body, {name: value for name, value in read(path).items() if not name.startswith(without)}, path)


def find(url: str) -> Path:
    """The weight file that `url` names, downloaded once if it is not in the folder.

    Raises:
        CheckpointError: it cannot be downloaded; names the file and the place to put it.
    """
    path = folder() / url.rsplit("/", 1)[1]
    return path if path.exists() else download(url, path, path.stem.rsplit("-", 1)[-1])


def download(url: str, path: Path, hash_prefix: str | None = None) -> Path:
    """The file at `url`, downloaded to `path`.

    Args:
        url: of a file of weights.
        path: where it is put.
        hash_prefix: beginning of its sha256, which is checked.

    Raises:
        CheckpointError: it cannot be downloaded; names the file and the place to put it.
    """
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(part), hash_prefix=hash_prefix, progress=False)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} is missing and cannot be downloaded ({error}); fetch {url} elsewhere and save it there, "
            "set KDBENCH_DATA to the folder that holds weights/, or start from random weights with --set init=random "
            "(a teacher's: --set teacher.init=random)"
        ) from error
    return path


def published(architecture: str, sha256: str) -> PublishedFile | None:
    """What torchvision states of one of its ImageNet files, whose names end in the beginning of their sha256."""
    for weights in get_model_weights(architecture):
        if sha256.startswith(Path(weights.url).stem.rsplit("-", 1)[-1]):
            stated, images = weights.meta["_metrics"]["ImageNet-1K"], weights.transforms()
            return PublishedFile(
                metrics={"top1": stated["acc@1"], "top5": stated["acc@5"]},
                mean=tuple(images.mean),
                std=tuple(images.std),
                size=images.crop_size[0],
                val_resize=images.resize_size[0],
                interpolation=images.interpolation.value,
                source=f"torchvision {architecture} {weights.name}",
                licence="BSD-3-Clause",
            )
    return None
