"""Published weights: read, downloaded, checked, and named with their place when they are missing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import resnet50

from kdbench import networks
from kdbench.errors import CheckpointError
from kdbench.records import checkpoint as checkpoints
from tests.helpers.tensors import buffers, equal

FILE = "resnet50-0676ba61.pth"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights, on a machine without a network."""

    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    return tmp_path / "weights"


def test_missing_weights_without_a_network_say_which_file_goes_where(weights: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        networks.build("retinanet_r50_fpn", 3, init="imagenet")
    message = str(caught.value)
    assert message.startswith(f"{weights / FILE} is missing and cannot be downloaded (")
    assert f"fetch https://download.pytorch.org/models/{FILE} elsewhere and save it there" in message
    assert "--set init=random" in message
    assert list(weights.iterdir()) == []


def test_a_folder_for_weights_that_cannot_be_made_is_the_same_error(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights.parent.joinpath("file").write_text("in the way")
    monkeypatch.setenv("KDBENCH_DATA", str(weights.parent / "file"))
    with pytest.raises(CheckpointError, match="is missing and cannot be downloaded"):
        networks.build("retinanet_r50_fpn", 3, init="imagenet")


def test_a_download_is_checked_and_takes_its_name_only_when_whole(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench.networks import _torchvision_weights as module

    requested: list[tuple[str, str]] = []

    def download(url: str, target: str, hash_prefix: str, progress: bool) -> None:
        assert not (weights / FILE).exists() and not progress
        requested.append((url, hash_prefix))
        Path(target).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    url = f"https://download.pytorch.org/models/{FILE}"
    assert module.find(url) == module.find(url) == weights / FILE
    assert requested == [(url, "0676ba61")]
    assert [path.name for path in weights.iterdir()] == [FILE]


@pytest.fixture(scope="module")
def resnet_file() -> bytes:
    torch.manual_seed(3)
    buffer = io.BytesIO()
    torch.save(resnet50(weights=None).state_dict(), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("counters", [True, False], ids=["as saved today", "without counters, as before torch 0.4.1"])
def test_local_imagenet_weights_are_loaded_frozen_and_kept_in_eval_mode(
    counters: bool, weights: Path, resnet_file: bytes
) -> None:
    weights.mkdir()
    state = torch.load(io.BytesIO(resnet_file))
    kept = {key: value for key, value in state.items() if counters or not key.endswith("num_batches_tracked")}
    torch.save(kept, weights / FILE)
    network: Any = networks.build("retinanet_r50_fpn", 3, init="imagenet").train()
    body = network.model.backbone.pyramid.body
    assert all(torch.equal(value, state[key]) for key, value in body.state_dict().items())
    frozen = {key.split(".")[0] for key, parameter in body.named_parameters() if not parameter.requires_grad}
    trained = {key.split(".")[0] for key, parameter in body.named_parameters() if parameter.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"} and trained == {"layer2", "layer3", "layer4"}
    assert all(parameter.requires_grad for parameter in network.model.head.parameters())
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 53 and not any(norm.training for norm in norms)
    assert network.training and network.model.head.training
    before = buffers(network)
    network(torch.randn(2, 3, 64, 64))
    assert equal(buffers(network), before)


@pytest.mark.parametrize(
    ("name", "classifier", "file", "frozen"),
    [
        ("fcos_r18_fpn", "resnet18", "resnet18-f37072fd.pth", {"conv1", "bn1", "layer1"}),
        ("retinanet_mobilenet_v3_fpn", "mobilenet_v3_large", "mobilenet_v3_large-8738ca79.pth", {"0", "1", "2", "3"}),
    ],
)
def test_smaller_backbones_start_from_imagenet_by_the_same_rules(
    name: str, classifier: str, file: str, frozen: set[str], weights: Path
) -> None:
    with pytest.raises(CheckpointError, match=rf"{file} is missing .*fetch https://download.pytorch.org/models/{file}"):
        networks.build(name, 3, init="imagenet")
    weights.mkdir(exist_ok=True)
    state = torchvision.models.get_model(classifier, weights=None).state_dict()
    torch.save(state, weights / file)
    network: Any = networks.build(name, 3, init="imagenet").train()
    body = network.model.backbone.pyramid.body
    state = {key.removeprefix("features."): value for key, value in state.items()}
    assert all(torch.equal(value, state[key]) for key, value in body.state_dict().items())
    assert {key.split(".")[0] for key, p in body.named_parameters() if not p.requires_grad} == frozen
    assert not any(module.training for module in body.modules() if isinstance(module, nn.BatchNorm2d))
    assert all(parameter.requires_grad for parameter in network.model.head.parameters())
    before = buffers(network)
    network(torch.randn(2, 3, 64, 64))
    assert equal(buffers(network), before)


@pytest.mark.parametrize("name", ["retinanet_r50_fpn", "retinanet_r18_fpn", "retinanet_mobilenet_v3_fpn"])
def test_random_weights_train_everything(name: str) -> None:
    network = networks.build(name, 3).train()
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())


def test_a_file_of_another_network_is_refused_by_name(weights: Path) -> None:
    checkpoints.write(weights / FILE, networks.build("fcos_mini_student", 3).state_dict())
    with pytest.raises(CheckpointError, match=rf"{FILE} is another network's"):
        networks.build("faster_rcnn_r50_fpn", 3, init="imagenet")


def test_a_broken_file_of_weights_is_refused_by_name(weights: Path, resnet_file: bytes) -> None:
    weights.mkdir()
    (weights / FILE).write_bytes(resnet_file[:100_000])
    with pytest.raises(CheckpointError, match=rf"{FILE} is damaged, truncated or no checkpoint"):
        networks.build("fcos_r50_fpn", 3, init="imagenet")
