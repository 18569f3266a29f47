"""What libraries state of their files of ImageNet weights, by which a file is recognized."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench import networks
from kdbench.networks import imagenet

UNKNOWN = "0" * 64


def test_a_file_of_torchvision_is_known_by_its_sha256() -> None:
    stated = networks.published("resnet50", Path("renamed.pth"), "11ad3fa6" + "0" * 56)
    assert stated is not None and stated.metrics == {"top1": 80.858, "top5": 95.434}
    assert (stated.size, stated.val_resize, stated.interpolation) == (224, 232, "bilinear")
    assert stated.source == "torchvision resnet50 IMAGENET1K_V2" and stated.mean == (0.485, 0.456, 0.406)
    assert networks.published("resnet18", Path("resnet50-11ad3fa6.pth"), "11ad3fa6" + "0" * 56) is None


@pytest.mark.parametrize(
    "file",
    [
        "weights/swin_tiny_patch4_window7_224.ms_in1k.safetensors",
        "models--timm--swin_tiny_patch4_window7_224.ms_in1k/snapshots/1a/model.safetensors",
    ],
)
def test_a_file_of_timm_is_known_by_its_name(file: str) -> None:
    stated = networks.published("swin_t", Path(file), UNKNOWN)
    assert stated is not None and stated.metrics == {"top1": 81.388} and stated.licence == "mit"
    assert (stated.size, stated.val_resize, stated.interpolation) == (224, 248, "bicubic")


def test_a_file_of_timm_is_known_by_its_sha256_and_images_are_prepared_as_its_accuracy_was_measured() -> None:
    stated = networks.published("resnet50_sb", Path("model.pth"), "14fe96d1" + "0" * 56)
    assert stated is not None and stated.metrics == {"top1": 80.382}
    assert (stated.val_resize, stated.interpolation) == (235, "bicubic")


def test_other_weights_of_an_architecture_have_its_preparation_and_no_accuracy() -> None:
    stated = networks.published("resnet18", Path("resnet18.a1_in1k.safetensors"), UNKNOWN)
    assert stated is not None and not stated.metrics and stated.source == "timm resnet18.a1_in1k"
    assert stated.interpolation == "bicubic"


def test_every_accuracy_that_weights_start_from_is_found_again() -> None:
    for name, known in imagenet.CLAIMED.items():
        if known.library == "timm":
            stated = networks.published(name, Path(f"{known.weights}.pth"), UNKNOWN)
            assert stated is not None and stated.metrics == {"top1": known.top1}, name


@pytest.mark.parametrize("name", ["mobilenet_v1", "resnet20", "fcos_mini_student", "swin_t"])
def test_other_files_are_unknown(name: str) -> None:
    assert networks.published(name, Path("mine.pth"), UNKNOWN) is None
