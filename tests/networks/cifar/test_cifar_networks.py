"""The CIFAR networks are those of RepDistiller: sizes, names, and outputs under a given fill.

Golden values come from RepDistiller's modules. Under the fill every weight follows from the name of its state-dict
key. Multiply-adds are those of convolutions and linear layers for a 32x32 image: biases, BatchNorm, pooling and
additions do not count.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdbench import networks
from kdbench.errors import SpecError
from kdbench.methods.base import Outputs
from kdbench.networks.base import Network
from kdbench.networks.cifar.resnet import Block
from kdbench.networks.cifar.shufflenet import shuffle

GOLDEN = Path(__file__).parents[2] / "golden"
K = 100
FACTS: dict[str, Any] = json.loads((GOLDEN / "cifar_networks.json").read_text())
REPDISTILLER = {
    "cifar_mobilenet_v2": "MobileNetV2",
    "cifar_shufflenet_v1": "ShuffleV1",
    "cifar_shufflenet_v2": "ShuffleV2",
    "cifar_resnet50": "ResNet50",
    "cifar_resnet50_4stage": "ResNet50",  # the same network under other names
}
NAMES = (*(FACTS.keys() - REPDISTILLER.values()), *REPDISTILLER, "cifar_resnet18_4stage")
NO_NORMS = ("cifar_shufflenet_v1", "cifar_shufflenet_v2")


@dataclass
class Case:
    """A network under the fill, in eval mode, and its outputs for the golden images."""

    name: str
    network: Network
    outputs: Outputs
    multiply_adds: int
    initial: dict[str, Tensor]  # the first values of each parameter before the fill

    @property
    def golden(self) -> str:
        """Its name in the golden files."""
        return REPDISTILLER.get(self.name, self.name)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray[Any, Any]]:
    with np.load(GOLDEN / "cifar_networks.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module", params=sorted(NAMES))
def case(request: pytest.FixtureRequest, arrays: dict[str, Any]) -> Case:
    """Each network is built and filled once; pytest runs all its tests before it builds the next."""
    torch.manual_seed(0)
    network = networks.build(request.param, K).eval()
    initial = {name: value.detach().flatten()[:20_000].clone() for name, value in network.named_parameters()}
    fill(network, "ResNet50" if request.param == "cifar_resnet50_4stage" else "")
    images = torch.from_numpy(arrays["input"])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = network(images)
    return Case(request.param, network, outputs, counter.get_total_flops() // 2 // len(images), initial)


def fill(network: Network, names_of: str) -> None:
    """Weights drawn from their names; for `names_of` "ResNet50", mmcls's names become those of RepDistiller's."""
    for key, value in network.state_dict().items():
        name = key.replace("downsample", "shortcut").replace("fc.", "linear.") if names_of else key
        draw = np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
        if name.endswith("num_batches_tracked"):
            drawn = np.zeros(())
        elif name.endswith(("running_mean", "bias")):
            drawn = draw.standard_normal(value.shape) * 0.1
        elif value.ndim == 1:  # running_var, and scales
            drawn = draw.uniform(0.5, 1.5, value.shape)
        else:
            drawn = draw.standard_normal(value.shape) / math.sqrt(math.prod(value.shape[1:]))
        value.copy_(torch.from_numpy(np.asarray(drawn)))


def small(images: int = 2) -> Tensor:
    """Images of 16x16, enough for what does not depend on the size."""
    return torch.randn(images, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def close(measured: Tensor, expected: Tensor, relative: float = 1e-4) -> None:
    """Equal to within a part of the largest value."""
    torch.testing.assert_close(measured, expected, rtol=0, atol=relative * float(expected.abs().max()))


def test_size_is_that_of_repdistiller(case: Case) -> None:
    parameters = sum(p.numel() for p in case.network.parameters())
    if case.name == "cifar_resnet18_4stage":
        assert parameters == 11_220_132  # mmcls's 11.17 million at K=10, and 90 more rows of 513
        assert case.multiply_adds == sum(conv_multiply_adds(case.network))
        return
    assert parameters == FACTS[case.golden]["parameters"]
    assert case.multiply_adds == FACTS[case.golden]["multiply_adds_per_image"]


def test_shufflenet_at_width_1_5_is_simkds() -> None:
    network = networks.build("cifar_shufflenet_v2_x1_5", K).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = network(torch.zeros(1, 3, 32, 32))
    # Both sums are those of the layer sizes in SimKD's code.
    assert sum(p.numel() for p in network.parameters()) == 2_580_548
    assert counter.get_total_flops() // 2 == 93_762_048
    assert tuple(x.shape[1] for x in outputs.features) == network.info.channels == (24, 176, 352, 704)


def conv_multiply_adds(network: Network) -> Iterator[int]:
    """Of a four-stage ResNet-18 at 32x32: map size by stage, counted from the weights."""
    sides = {"conv1": 32, "layer1": 32, "layer2": 16, "layer3": 8, "layer4": 4, "fc": 1}
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            yield weight.numel() * sides[name.split(".")[0]] ** 2


def test_state_dict_has_repdistillers_names_and_shapes(case: Case) -> None:
    shapes = {name: list(value.shape) for name, value in case.network.state_dict().items()}
    if not case.name.endswith("_4stage"):
        assert shapes == FACTS[case.golden]["state"]
        return
    with torch.device("meta"):
        imagenet = getattr(torchvision.models, case.name.split("_")[1])(num_classes=K)  # mmcls has torchvision's names
    expected = {name: list(value.shape) for name, value in imagenet.state_dict().items()}
    assert shapes == expected | {"conv1.weight": [64, 3, 3, 3]}


def test_logits_and_features_are_repdistillers(case: Case, arrays: dict[str, Any]) -> None:
    maps = [*case.outputs.features, case.outputs.pooled]
    if case.name == "cifar_resnet18_4stage":
        shapes = [[64, 32, 32], [64, 32, 32], [128, 16, 16], [256, 8, 8], [512, 4, 4], [512]]
        assert [list(x.shape[1:]) for x in maps] == shapes
        close(case.outputs.logits, as_torchvision(case.network, torch.from_numpy(arrays["input"])))
        return
    assert [list(x.shape[1:]) for x in maps] == FACTS[case.golden]["feature_shapes"]
    close(case.outputs.logits, torch.from_numpy(arrays[f"{case.golden}_logits"]))
    means, stds = (torch.from_numpy(arrays[f"{case.golden}_feature_{kind}"]) for kind in ("means", "stds"))
    torch.testing.assert_close(torch.stack([x.mean() for x in maps]), means, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.stack([x.std() for x in maps]), stds, rtol=1e-4, atol=1e-6)


def as_torchvision(network: Network, images: Tensor) -> Tensor:
    """The logits of torchvision's ResNet-18 with the network's weights, its stem changed to 3x3 and no max-pooling."""
    reference = torchvision.models.resnet18(num_classes=K)
    reference.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    reference.maxpool = nn.Identity()
    reference.load_state_dict(network.state_dict())
    with torch.no_grad():
        logits: Tensor = reference.eval()(images)
    return logits


def test_info_describes_the_outputs(case: Case) -> None:
    info, outputs = case.network.info, case.outputs
    assert info.channels == tuple(x.shape[1] for x in outputs.features)
    assert info.strides == tuple(32 // x.shape[2] for x in outputs.features)
    assert outputs.pooled is not None and info.classifier is not None
    assert outputs.pooled.shape == (2, info.pooled_dim)
    close(info.classifier(outputs.pooled), outputs.logits, 1e-6)
    before = outputs.extra["pre_activations"]
    assert [x.shape for x in before] == [x.shape for x in outputs.features[1:]]
    assert len(info.norms) == (0 if case.name in NO_NORMS else len(before))


def test_pre_activations_are_the_stages_before_their_last_relu(case: Case) -> None:
    before, stages = case.outputs.extra["pre_activations"], case.outputs.features[1:]
    assert all((x < 0).any() for x in before)
    for x, norm, stage in zip(before, case.network.info.norms or [None] * len(stages), stages, strict=True):
        if case.name.startswith("wrn"):  # the BatchNorm that follows the stage
            assert isinstance(norm, nn.BatchNorm2d)
            close(x, norm(stage).detach(), 1e-6)
        elif case.name == "cifar_mobilenet_v2":  # no ReLU at all
            assert x is stage
        elif case.name == "cifar_shufflenet_v2":
            assert torch.equal(torch.channel_shuffle(x.relu(), 2), stage)
        else:
            assert torch.equal(x.relu(), stage)


def test_norms_are_the_last_to_act_on_the_pre_activations(case: Case) -> None:
    def pre_activations() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(case.network(small(1)).extra["pre_activations"])

    start = pre_activations()
    for i, norm in enumerate(case.network.info.norms):
        assert isinstance(norm, nn.BatchNorm2d)
        step = start[i].abs().max()
        bias = norm.bias.detach().clone()
        norm.bias.data += step
        moved = pre_activations()
        norm.bias.data = bias
        close(moved[i], start[i] + step)
        assert all(torch.equal(*pair) for pair in zip(moved[:i], start[:i], strict=True))


def test_one_training_step_reaches_every_parameter_of_a_copy_and_moves_statistics_once(case: Case) -> None:
    network = copy.deepcopy(case.network).train()
    network(small()).logits.logsumexp(1).sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert all(p.grad is None for p in case.network.parameters())
    assert isinstance(network.info.classifier, nn.Linear) and network.info.classifier.weight.grad is not None
    assert {int(m.num_batches_tracked) for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {1}


def test_saved_weights_load_strictly_into_a_new_network(case: Case) -> None:
    with torch.device("meta"):
        new = networks.build(case.name, K).eval()
    new.load_state_dict(case.network.state_dict(), assign=True)
    with torch.no_grad():
        assert torch.equal(new(small(1)).logits, case.network(small(1)).logits)


def test_number_of_classes_is_free(case: Case) -> None:
    with torch.device("meta"):
        network = networks.build(case.name, 7)
    head = network.info.classifier
    assert (network.num_classes, case.network.num_classes) == (7, K)
    assert isinstance(head, nn.Linear) and head.out_features == 7
    changed = {
        id(new)
        for new, old in zip(network.parameters(), case.network.parameters(), strict=True)
        if new.shape != old.shape
    }
    assert changed == {id(head.weight), id(head.bias)}


def test_channels_last_and_bfloat16(case: Case) -> None:
    network = copy.deepcopy(case.network).to(memory_format=torch.channels_last)
    images = small(1).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected, outputs = case.network(small(1)), network(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(images)
    close(outputs.logits, expected.logits)
    for x in (*outputs.features, *outputs.extra["pre_activations"]):
        assert x.is_contiguous(memory_format=torch.channels_last)
    assert half.logits.dtype == torch.bfloat16
    close(half.float().logits, expected.logits, 0.2)
    assert {x.dtype for x in (*half.features, *half.extra["pre_activations"])} == {torch.bfloat16}


def test_initial_weights_are_the_authors(case: Case) -> None:
    he = "shufflenet" not in case.name
    for name, weight in case.network.named_parameters():
        if weight.ndim == 4 and weight.numel() > 4000:
            outputs, inputs, size, _ = weight.shape
            expected = math.sqrt(2 / (outputs * size * size)) if he else math.sqrt(1 / (3 * inputs * size * size))
            assert float(case.initial[name].std()) == pytest.approx(expected, rel=0.05)
            assert float(case.initial[name].mean()) == pytest.approx(0, abs=0.1 * expected)
    assert zeroed(case, "weight") == {
        f"{name}.{'bn3' if '50' in case.name else 'bn2'}.weight"
        for name, module in case.network.named_modules()
        if isinstance(module, Block) and case.name.endswith("_4stage")
    }
    head = next(name for name, module in case.network.named_modules() if isinstance(module, nn.Linear))
    normal = case.name.startswith("vgg") or case.name.endswith(("_4stage", "mobilenet_v2"))
    linear_std = 0.01 if normal else math.sqrt(1 / (3 * int(case.network.info.pooled_dim or 0)))
    assert float(case.initial[f"{head}.weight"].std()) == pytest.approx(linear_std, rel=0.05)
    assert (f"{head}.bias" in zeroed(case, "bias")) == (normal or case.name.startswith("wrn"))


def zeroed(case: Case, kind: str) -> set[str]:
    """Parameters of this kind that start at zero."""
    return {name for name, start in case.initial.items() if name.endswith(f".{kind}") and not start.any()}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_shuffle_interleaves_groups_and_keeps_the_layout(layout: torch.memory_format) -> None:
    x = torch.randn(2, 12, 3, 5).contiguous(memory_format=layout)
    shuffled = shuffle(x, 3)
    assert torch.equal(shuffled, torch.channel_shuffle(x, 3))
    assert shuffled.is_contiguous(memory_format=layout)


def test_vgg_halves_once_more_where_images_are_64_pixels_high() -> None:
    with torch.device("meta"):
        features = networks.build("vgg8", K)(torch.empty(2, 3, 64, 64)).features
    assert [x.shape[2] for x in features] == [64, 32, 16, 8, 4]


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"unknown network: 'resnet32x5'. Did you mean 'resnet32x4'\?"):
        networks.build("resnet32x5", K)
