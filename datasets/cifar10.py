"""CIFAR-10: 50,000 + 10,000 images of 32x32 pixels in ten classes; `_cifar.py` describes its files."""

from __future__ import annotations

from pathlib import Path

from ._cifar import Cifar
from .base import ImageSet

CIFAR10 = Cifar(
    name="cifar10",
    title="CIFAR-10",
    reader="CIFAR10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)


def present(root: Path) -> Path | None:
    """`root/cifar10.npz`, else torchvision's folder or archive; None if all are missing."""
    return CIFAR10.present(root)


def open_images(root: Path) -> ImageSet:
    """CIFAR-10 under `root`, downloaded if missing.

    Raises:
        DataError: it is missing and cannot be downloaded, or is broken.
    """
    return CIFAR10.open(root)
