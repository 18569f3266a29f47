"""Networks that do not come with kdbench: timm's, torchvision's and those of users' files."""

from __future__ import annotations

import copy
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from kdbench import networks
from kdbench.errors import CheckpointError, SpecError
from kdbench.networks.hooked import HookedNetwork
from kdbench.networks.load import load_network, try_networks
from kdbench.records.checkpoint import load_strictly
from kdbench.spec import network_name

VIT = "timm:vit_tiny_patch16_224:patch_size=8:depth=4:embed_dim=24:img_size=32"

FILE = """
from torch import nn

from kdbench.networks.base import Network

def build(num_classes, width=4):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(2 * width, num_classes),
    )

def sized(num_classes, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size ** 2, num_classes))

def fails(num_classes):
    raise ValueError("no width")

def no_module(num_classes):
    return "resnet"

def other_outputs(num_classes):
    return nn.Flatten()

class Reads(nn.Sequential):
    def forward(self, x):
        return super().forward(x) if x.sum().item() < 1 else super().forward(x / 2)

def reads(num_classes):
    return Reads(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))

def exits(num_classes):
    raise SystemExit(3)

def compiled(num_classes):
    import torch
    return torch.compile(nn.Linear(3, num_classes))

def half(num_classes):
    return build(num_classes).half()

def network(num_classes):
    from kdbench import networks
    return networks.build("resnet8", num_classes)
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name under which the networks of a file are given."""
    monkeypatch.setattr(network_name, "_files", {})
    path = tmp_path / "net.py"
    path.write_text(FILE)
    network_name.register(path)
    return "net.py"


@pytest.mark.parametrize(
    ("name", "size", "features", "strides", "pooled"),
    [
        (VIT, 32, [(24, 4)] * 4, (8,) * 4, 24),
        ("timm:convnext_atto", 64, [(40, 16), (40, 16), (80, 8), (160, 4), (320, 2)], (4, 4, 8, 16, 32), 320),
        ("timm:resnet10t", 64, [(64, 16), (64, 16), (128, 8), (256, 4), (512, 2)], (4, 4, 8, 16, 32), 512),
        (
            "torchvision:regnet_y_400mf",
            64,
            [(32, 32), (48, 16), (104, 8), (208, 4), (440, 2)],
            (2, 4, 8, 16, 32),
            440,
        ),
        ("torchvision:resnet18", 64, [(64, 16), (64, 16), (128, 8), (256, 4), (512, 2)], (4, 4, 8, 16, 32), 512),
        ("timm:resnet10t:layers=[layer2,layer4]:classifier=fc", 64, [(128, 8), (512, 2)], (8, 32), 512),
    ],
)
def test_a_library_s_network_has_the_outputs_of_every_network(
    name: str, size: int, features: list[tuple[int, int]], strides: tuple[int, ...], pooled: int
) -> None:
    assert networks.task(name) == "classification" and networks.family(name) == "classifier"
    assert name not in networks.names() and networks.is_outside(name)
    network = networks.build(name, 5)
    outputs = network(torch.randn(2, 3, size, size))
    assert [(f.shape[1], f.shape[2]) for f in outputs.features] == features
    assert network.info.channels == tuple(channels for channels, _ in features) and network.info.strides == strides
    assert outputs.pooled is not None and outputs.pooled.shape == (2, pooled) and network.info.pooled_dim == pooled
    assert isinstance(network.info.classifier, nn.Linear)
    torch.testing.assert_close(network.info.classifier(outputs.pooled), outputs.logits)
    sum(f.sum() for f in outputs.features).backward()
    assert not any(
        hooks for module in network.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks)
    )


def test_the_logits_are_those_of_the_library_and_a_copy_has_its_own_features() -> None:
    network: Any = networks.build("timm:convnext_atto", 5).eval()
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(network(x).logits, network.model(x))
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert other(x).features[-1].abs().sum() < network(x).features[-1].abs().sum()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:convnext_ato", "unknown network of timm: 'convnext_ato'. Did you mean 'convnext_atto'"),
        ("timm:resnet18.a1_in2k", "unknown weights of timm's resnet18: 'a1_in2k'. Did you mean 'a1_in1k'"),
        ("timm:convnext_atto:img_size=32", "timm cannot build it: TypeError"),
        ("timm:convnext_atto:num_classes=3", "num_classes is decided by the run"),
        ("timm:convnext_atto:layers=[stages.9]", r"has no module 'stages\.9'; it has stem"),
        ("torchvision:regnet_y_400", "unknown network of torchvision: 'regnet_y_400'. Did you mean"),
        ("torchvision:resnet18.IMAGENET1K_V3", "unknown weights of torchvision's resnet18: 'IMAGENET1K_V3'"),
        ("torchvision:retinanet_resnet50_fpn", "detectors of torchvision have names of their own"),
        ("torchvision:vgg11:widthh=2", "torchvision cannot build it: TypeError"),
        ("nowhere.py:build", r"nowhere\.py is not known here; give its path, as in \./nowhere\.py:build"),
    ],
)
def test_what_a_library_does_not_have_is_refused(name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        networks.build(name, 5)


def test_images_of_another_size_change_the_name_where_the_architecture_has_one_size() -> None:
    assert networks.for_images("timm:vit_tiny_patch16_224", (224, 224)) == "timm:vit_tiny_patch16_224"
    assert networks.for_images("timm:vit_tiny_patch16_224:depth=1", (32, 32)).endswith(":depth=1:img_size=32")
    assert networks.for_images("timm:vit_tiny_patch16_224:depth=1", (32, 64)).endswith(":depth=1:img_size=[32,64]")
    assert networks.for_images(VIT, (64, 64)) == VIT
    assert networks.for_images("timm:convnext_atto", (32, 32)) == "timm:convnext_atto"
    assert networks.for_images("torchvision:vit_b_16", (32, 32)) == "torchvision:vit_b_16:image_size=32"
    assert networks.for_images("resnet20", (32, 32)) == "resnet20"
    with pytest.raises(SpecError, match="reads images of 224x224 pixels and is given 30x30"):
        networks.for_images("timm:levit_128s", (30, 30))


def test_any_module_of_a_file_is_a_network(file: str) -> None:
    network: Any = networks.build(f"{file}:build:width=8", 5)
    outputs = network(torch.randn(2, 3, 32, 32))
    assert list(network.layers) == ["2", "4"]
    assert [tuple(f.shape[1:]) for f in outputs.features] == [(8, 16, 16), (16, 8, 8)] and network.info.strides == (
        2,
        4,
    )
    assert outputs.pooled.shape == (2, 16) and outputs.logits.shape == (2, 5)
    assert networks.for_images(f"{file}:sized", (16, 16)) == f"{file}:sized:image_size=16"
    assert networks.build(f"{file}:sized:image_size=16", 5)(torch.zeros(1, 3, 16, 16)).features == ()
    assert type(networks.build(f"{file}:network", 5)) is type(networks.build("resnet8", 5))


def test_a_file_fits_a_network_whose_forward_reads_values(file: str, tmp_path: Path) -> None:
    name = f"{file}:reads"
    torch.save(networks.build(name, 2).state_dict(), tmp_path / "a.pt")
    assert list(try_networks(tmp_path / "a.pt", [name], ("a", "b")).notices) == [name]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", r"net\.py: fails fails: ValueError: no width"),
        ("no_module", "no_module returns str, and must return an nn.Module"),
        ("other_outputs", r"a network returns logits \[N, 5\]"),
        ("build:widthh=3", r"build\(num_classes, width=4\): got an unexpected keyword argument 'widthh'"),
        ("build:layers=[7.9]", "has no module '7.9'"),
        ("build:layers=[1]", "the output of layer 1 is changed in place by a later layer"),
        ("build:layers=[6]", r"the output of layer 6 has the shape \(2, 8\)"),
        ("exits", r"net\.py: exits fails: SystemExit: 3"),
        (
            "compiled",
            "returns a compiled module, which has no layers that hooks can read; return the module",
        ),
        ("half", r"fails on a batch of 2 images: 224x224: RuntimeError: [^\[]*;"),
        ("network:layers=[layer1]", "returns a Network, so leave layers out"),
        ("sized", "missing a required argument: 'image_size'"),
    ],
)
def test_a_file_s_network_that_cannot_be_used_says_why(file: str, function: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        networks.build(f"{file}:{function}", 5)


def test_the_task_and_head_of_a_file_s_networks_are_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_name, "_files", {})
    path = tmp_path / "det.py"
    path.write_text('TASK = "detection"\nHEAD = "retinanet"\n\ndef build(num_classes):\n    ...\n')
    name = network_name.resolve(f"{path}:build")
    assert (networks.task(name), networks.family(name)) == ("detection", "retinanet")
    other = tmp_path / "wrong.py"
    other.write_text('TASK = "detecting"\n\ndef build(num_classes):\n    ...\n')
    with pytest.raises(SpecError, match=r"unknown TASK of wrong\.py: 'detecting'\. Did you mean 'detection'"):
        networks.task(network_name.resolve(f"{other}:build"))


class Tokens(nn.Module):
    """Patches with a class token, maps with channels last, and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.last = nn.Conv2d(3, 6, 8, 8), nn.Identity()
        self.tokens, self.unused, self.head = nn.Identity(), nn.Identity(), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.last(self.patches(x).permute(0, 2, 3, 1))
        tokens = maps.flatten(1, 2)
        tokens = self.tokens(torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1))
        return self.head(tokens[:, 0])


def test_tokens_and_maps_with_channels_last_become_maps() -> None:
    network = HookedNetwork(Tokens(), 5, layers=["patches", "last", "tokens"], size=32)
    first, last, tokens = network(torch.randn(2, 3, 32, 32)).features
    assert first.shape == (2, 6, 4, 4)
    torch.testing.assert_close(first, last)
    torch.testing.assert_close(first, tokens)
    with pytest.raises(SpecError, match="layer unused is not run"):
        HookedNetwork(Tokens(), 5, layers=["unused"], size=32)


class Attention(nn.Module):
    """A map, attention [N, heads, L, L], and a table of positions; pooled to one size for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.table = nn.Conv2d(3, 6, 8, 8), nn.Linear(2, 4)
        self.weights, self.pool, self.head = nn.Softmax(-1), nn.AdaptiveAvgPool2d(4), nn.Linear(96, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.patches(x)
        tokens = maps.flatten(2)
        weights = self.weights(torch.stack([tokens.mT @ tokens] * 2, dim=1))
        tokens = (tokens @ weights.mean(1)).unflatten(2, maps.shape[2:])
        tokens = tokens + self.table(torch.zeros(1, 15, 15, 2)).mean()
        return {"logits": self.head(self.pool(tokens).flatten(1))}


def test_what_is_no_map_of_the_images_is_no_feature() -> None:
    network = HookedNetwork(Attention(), 5, size=64)
    assert list(network.layers) == ["patches"] and network.info.strides == (8,)
    assert network(torch.randn(3, 3, 64, 64)).logits.shape == (3, 5)
    assert networks.build("torchvision:vgg11", 5).info.strides == (1, 2, 4, 8, 16, 32)


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [
        ("timm:pvt_v2_b0", (32, 32, 64, 160, 256), (4, 4, 8, 16, 32)),  # its stem's maps have the channels last
        ("timm:pit_ti_224:img_size=64", (64, 128, 256), (9, 16, 32)),  # its first stage reads a tuple
    ],
)
def test_the_stem_is_read_in_its_own_layout_or_left_out(
    name: str, channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    network = networks.build(name, 5).eval()
    outputs = network(torch.randn(2, 3, 64, 64))
    assert tuple(f.shape[1] for f in outputs.features) == channels == network.info.channels
    assert network.info.strides == strides and all(f.shape[2] == f.shape[3] for f in outputs.features)


def test_a_segmenter_of_torchvision_ends_with_the_map_that_its_classifier_reads() -> None:
    name = "torchvision:lraspp_mobilenet_v3_large"
    assert networks.task(name) == "segmentation" and networks.family(name) == "segmenter"
    network = networks.build(name, 5).eval()
    outputs = network(torch.zeros(1, 3, 64, 64))
    assert outputs.logits.shape == (1, 5, 64, 64) and outputs.pooled is None
    assert [f.shape[1] for f in outputs.features] == list(network.info.channels) == [16, 24, 40, 960, 128]


def test_published_weights_are_found_in_the_folder_or_named_with_their_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    folder = tmp_path / "weights"
    folder.mkdir()
    donor = timm.create_model("resnet10t")
    save_file(donor.state_dict(), folder / "resnet10t.c3_in1k.safetensors")
    assert networks.weights("timm:resnet10t", 1000) == networks.weights("timm:resnet10t.c3_in1k", 1000)
    network: Any = networks.build("timm:resnet10t", 1000, "published")
    torch.testing.assert_close(network.model.state_dict(), donor.state_dict())
    with pytest.raises(SpecError, match="the published weights are for 1000 classes and the data has 5"):
        networks.build("timm:resnet10t", 5, "published")
    with pytest.raises(CheckpointError, match=r"resnet18\.a2_in1k\.safetensors is missing and cannot be downloaded"):
        networks.weights("timm:resnet18.a2_in1k", 1000)
    for name in ("timm:resnet18", "torchvision:resnet34"):  # before any download
        with pytest.raises(SpecError, match="weights are for 1000 classes and the data has 10; train it"):
            networks.weights(name, 10)
    weights = models.get_model_weights("resnet18")
    file = folder / weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]
    torch.save(models.resnet18().state_dict(), file)
    assert networks.weights("torchvision:resnet18.IMAGENET1K_V1", 1000) == file
    with pytest.raises(SpecError, match="resnet20 has no published weights; give a file with --teacher resnet20=FILE"):
        networks.weights("resnet20", 10)


def test_modules_that_load_by_version_are_read_from_plain_tensors(tmp_path: Path) -> None:
    network = networks.build("torchvision:mnasnet0_5", 3)
    plain = dict(networks.build("torchvision:mnasnet0_5", 3).state_dict())
    load_strictly(network, plain, tmp_path / "checkpoint.pt")
    torch.testing.assert_close(dict(network.state_dict()), plain)
    torch.save(plain, tmp_path / "weights.pt")
    loaded = load_network(tmp_path / "weights.pt", "torchvision:mnasnet0_5", ("a", "b", "c"), torch.device("cpu"))
    torch.testing.assert_close(dict(loaded.state_dict()), plain)


def test_a_package_declares_a_family_as_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(group: str) -> list[EntryPoint]:
        return [EntryPoint("packed", "kdbench.networks.cifar:FAMILY", group), EntryPoint("wrong", "math:pi", group)]

    networks._scan.cache_clear()
    monkeypatch.setattr(networks, "entry_points", points)
    with pytest.raises(SpecError, match=r"math:pi is no kdbench\.networks\.Family"):
        networks.names()
    monkeypatch.setattr(networks, "entry_points", lambda group: points(group)[:1])
    assert "packed" in networks._families()
    networks._scan.cache_clear()
