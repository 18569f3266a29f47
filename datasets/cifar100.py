"""CIFAR-100: 50,000 + 10,000 images of 32x32 pixels, with the fine labels; `_cifar.py` describes its files."""

from __future__ import annotations

from pathlib import Path

from ._cifar import Cifar
from .base import ImageSet

_FINE = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
    shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR100 = Cifar(
    name="cifar100",
    title="CIFAR-100",
    reader="CIFAR100",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    classes=tuple(_FINE.split()),
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
)


def present(root: Path) -> Path | None:
    """`root/cifar100.npz`, else torchvision's folder or archive; None if all are missing."""
    return CIFAR100.present(root)


def open_images(root: Path) -> ImageSet:
    """CIFAR-100 under `root`, downloaded if missing.

    Raises:
        DataError: it is missing and cannot be downloaded, or is broken.
    """
    return CIFAR100.open(root)
