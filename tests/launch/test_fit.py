"""Networks and methods that a request put together, tried before any training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kdbench import methods
from kdbench.errors import SpecError
from kdbench.launch.fit import misfit
from kdbench.methods.base import MethodError
from kdbench.spec import network_name
from kdbench.spec.recipe import load_recipe
from kdbench.spec.run import Data, Run
from kdbench.tasks.base import Shapes

SHAPES = Shapes("classification", 10, 2_000, 64, 32, 32, "float32")
DATA = Data(name="digits", fingerprint="0" * 16, train_images=2_000, val_images=100, classes=10)
VIT = "timm:vit_tiny_patch16_224:patch_size=8:depth=4:embed_dim=24:img_size=32"


def run(method: str, student: str, teacher: str = "resnet20", **options: Any) -> Run:
    recipe = load_recipe("cifar_mini")
    common = {"task": "classification", "scale": "mini", "data": DATA, "recipe": recipe, "seed": 0}
    taught = Run(**common, student=teacher, method="none", options={}) if method != "none" else None
    return Run(**common, student=student, teacher=taught, method=method, options=methods.resolve(method, options))


@pytest.mark.parametrize("method", ["none", "kd", "dist"])
@pytest.mark.parametrize("student", [VIT, "timm:convnext_atto"])
def test_what_compares_logits_fits_any_classifier(method: str, student: str) -> None:
    assert misfit(run(method, student), SHAPES) == ""


def test_a_method_that_fake_tensors_cannot_run_is_computed() -> None:
    assert misfit(run("crd", "timm:convnext_atto", negatives=64), SHAPES) == ""


def test_an_option_that_overflows_is_not_blamed_on_the_networks() -> None:
    with pytest.raises(MethodError, match=r"kd: an option is too large to compute with .*temperature.*1e.300"):
        misfit(run("kd", "resnet8", temperature=1e300), SHAPES)


def test_an_option_that_fits_no_networks_is_an_error() -> None:
    with pytest.raises(MethodError, match="negatives is 16384 and the training set has 2000 samples"):
        misfit(run("crd", "timm:convnext_atto"), SHAPES)


@pytest.mark.parametrize(
    ("method", "student", "reason"),
    [
        ("fitnet", "timm:convnext_atto", r"fitnet cannot be used for resnet20 -> timm:convnext_atto: .*stride 8"),
        ("fitnet", VIT, "fitnet cannot be used for resnet20 -> timm:vit"),
        ("ofd", "timm:convnext_atto", "ofd cannot be used for"),
        ("none", "timm:vit_tiny_patch16_224:depth=1", "cannot read images of 32x32 pixels: AssertionError: Input"),
    ],
)
def test_what_compares_maps_says_what_it_cannot_do(method: str, student: str, reason: str) -> None:
    assert re.match(reason if method != "none" else f".*{reason}", misfit(run(method, student), SHAPES))


def test_a_file_s_network_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_name, "_files", {})
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\n\n\ndef build(num_classes):\n"
        "    maps = [nn.Conv2d(3, 4, 3, 2, 1), *(nn.Conv2d(4, 4, 3, 2, 1) for _ in range(1))]\n"
        "    return nn.Sequential(*maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    name = network_name.resolve(f"{path}:build")
    reason = misfit(run("at", name), SHAPES)
    assert "at cannot be used for resnet20 -> net.py:build: " in reason


def test_a_method_without_a_teacher_is_tried_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_name, "_files", {})
    path = tmp_path / "flat.py"
    path.write_text(
        "from torch import nn\n\n\ndef build(num_classes):\n"
        "    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)]\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), *pooled)\n"
    )
    flat = run("uskd", network_name.resolve(f"{path}:build")).model_copy(update={"teacher": None})
    assert misfit(flat, SHAPES) == (
        "uskd cannot be used for flat.py:build: uskd: it reads the last feature but one, and the student has 1"
    )
    assert misfit(run("uskd", "resnet8").model_copy(update={"teacher": None}), SHAPES) == ""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("frozen", r"network net\.py:frozen cannot be trained: its logits have no gradient"),
        ("other_classes", r"network net\.py:other_classes: a network returns logits \[N, 10\]"),
    ],
)
def test_a_network_that_no_run_can_train_is_an_error(
    function: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_name, "_files", {})
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\n\n\ndef frozen(num_classes):\n"
        "    layers = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes)\n"
        "    return nn.Sequential(*layers).requires_grad_(False)\n"
        "\n\ndef other_classes(num_classes):\n    return frozen(7).requires_grad_()\n"
    )
    with pytest.raises(SpecError, match=message):
        misfit(run("kd", network_name.resolve(f"{path}:{function}")), SHAPES)


def test_fake_tensors_that_do_not_fit_print_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(network_name, "_files", {})
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\n\n\ndef large(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, num_classes))\n"
    )
    assert "cannot read images of 32x32 pixels" in misfit(run("kd", network_name.resolve(f"{path}:large")), SHAPES)
    assert not caplog.records
