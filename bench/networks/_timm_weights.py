"""timm's published weights: read from a local folder, downloaded where that is possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..records.checkpoint import read
from ._family import PublishedFile
from ._state_dicts import load_weights
from ._torchvision_weights import download, folder


def load(body: nn.Module, model_id: str) -> None:
    """Load a timm model's weights from `$KDBENCH_DATA/weights/<model_id>.safetensors` or `.pth`, which `find` finds.

    Args:
        body: the model that timm builds under the part of `model_id` before the dot.
        model_id: timm's architecture and tag, such as "resnet50.a1_in1k".

    Raises:
        CheckpointError: the file is neither there nor downloadable, damaged or another network's; names it.
    """
    path = find(model_id)
    load_weights(body, read(path), path)


def find(model_id: str) -> Path:
    """The local file of a timm model, safetensors before pickles; downloaded once if there is none.

    Raises:
        CheckpointError: it cannot be downloaded; names the file and the place to put it.
    """
    candidates = [folder() / f"{model_id}{suffix}" for suffix in (".safetensors", ".pth")]
    for path in candidates:
        if path.exists():
            return path
    return download(f"https://huggingface.co/timm/{model_id}/resolve/main/model.safetensors", candidates[0])


def published(architecture: str, file: Path, sha256: str) -> PublishedFile | None:
    """What timm states of one of its ImageNet files, without metrics, which the library does not hold.

    A file is known by its name, `<architecture>.<tag>`, by a folder of that name, as Hugging Face's hub has it
    (`models--timm--<architecture>.<tag>`), or by its sha256 where timm's link ends in the beginning of it.
    """
    import timm

    names = {file.stem, *(part.removeprefix("models--timm--") for part in file.absolute().parts)}
    for model_id in timm.list_pretrained(f"{architecture}.*"):
        config: Any = timm.get_pretrained_cfg(model_id)
        link = Path(config.url or "").stem.rsplit("-", 1)[-1]
        if config.num_classes == 1000 and (model_id in names or (len(link) == 8 and sha256.startswith(link))):
            size = config.input_size[-1]
            return PublishedFile(
                metrics={},
                mean=config.mean,
                std=config.std,
                size=size,
                val_resize=int(size / config.crop_pct),
                interpolation=config.interpolation,
                source=f"timm {model_id}",
                licence=config.license or "",
            )
    return None
