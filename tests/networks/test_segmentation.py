"""Segmenters: CIRKD's sizes, smp's logits, outputs in their documented shapes, weights loaded strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from kdbench import networks
from kdbench.errors import CheckpointError, SpecError
from kdbench.networks import segmenters
from kdbench.records.checkpoint import load_strictly
from tests.helpers.tensors import buffers, equal

K = 7
# Parameters with 19 classes, and multiply-adds in units of 10^9 for an image of 1024x2048, mini 128x256.
SIZES = {
    "deeplabv3_r101": (60_995_174, 2006.707),
    "deeplabv3_r18": (13_459_494, 457.634),
    "deeplabv3_mbv2": (3_233_171, 106.540),
    "pspnet_r18": (12_770_854, 428.646),
    "pspnet_r101": (67_948_390, 2114.292),
    "segmenter_mini_teacher": (1_342_766, 0.70656),
    "segmenter_mini_student": (130_510, 0.07618),
}

MINI = tuple(name for name in SIZES if "_mini_" in name)
LIGHT = tuple(name for name in SIZES if not name.endswith("_r101"))

# Parameters, counted in CIRKD's networks as hunto/DIST_KD@2418f18 has them.
CIRKD = {
    "deeplabv3_r101": 61_118_950,
    "deeplabv3_r18": 13_607_974,
    "deeplabv3_mbv2": 3_233_171,
    "pspnet_r18": 12_919_334,
}
# What three 3x3 convolutions up to 128 channels, and a first block that reads them, hold more than torchvision's stem.
DEEP_STEM = {"resnet101": 123_776, "resnet18": 148_480, "mobilenet_v2": 0}

FILES = {
    "deeplabv3_r18": "resnet18-f37072fd.pth",
    "deeplabv3_mbv2": "mobilenet_v2-b0353104.pth",
    "pspnet_r18": "resnet18-f37072fd.pth",
}

FEATURE_MODULES = {  # smp's modules whose outputs the stem and the stages are
    "deeplabv3_r18": ("relu", "layer1", "layer2", "layer3", "layer4"),
    "deeplabv3_mbv2": ("features.1", "features.3", "features.6", "features.13", "features.17"),
    "segmenter_mini_student": ("stem", "stages.0", "stages.1", "stages.2", "stages.3"),
}

every = pytest.mark.parametrize("name", SIZES)
paper_size = pytest.mark.parametrize("name", CIRKD)
light = pytest.mark.parametrize("name", LIGHT)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights, on a machine without a network."""

    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def build(name: str, seed: int = 0) -> Any:
    """A network whose norms have moved from their initial values, so that every branch contributes."""
    torch.manual_seed(seed)
    network = networks.build(name, K)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network


def on_meta(name: str, num_classes: int = K) -> Any:
    with torch.device("meta"):
        return networks.build(name, num_classes)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 128, generator=torch.Generator().manual_seed(1))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def architecture(name: str) -> str:
    return segmenters.ENCODERS[name.split("_")[1]]


@every
def test_task_and_family(name: str) -> None:
    assert name in networks.names()
    assert networks.task(name) == "segmentation" and networks.family(name) == "segmenter"


@every
def test_size_is_the_recorded_one(name: str) -> None:
    network = on_meta(name, 19).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.empty(1, 3, *((128, 256) if name in MINI else (1024, 2048)), device="meta"))
    count, multiply_adds = SIZES[name]
    assert parameters(network) == count
    assert counter.get_total_flops() / 2e9 == pytest.approx(multiply_adds, rel=1e-4)


@paper_size
def test_all_but_the_stem_holds_what_cirkd_s_networks_hold(name: str) -> None:
    assert SIZES[name][0] == CIRKD[name] - DEEP_STEM[architecture(name)]


@every
@pytest.mark.parametrize(("size", "training"), [((64, 128), True), ((90, 121), False)], ids=["training", "evaluation"])
def test_every_output_has_the_shape_in_info(name: str, size: tuple[int, int], training: bool) -> None:
    network = on_meta(name).train(training)
    outputs = network(torch.empty(2, 3, *size, device="meta"))
    at_8 = tuple(-(-side // 8) for side in size)
    assert network.info.strides == (2, 4, 8, 8, 8, 8)
    assert [tuple(feature.shape) for feature in outputs.features] == [
        (2, channels, *(-(-side // stride) for side in size))
        for channels, stride in zip(network.info.channels, network.info.strides, strict=True)
    ]
    assert outputs.logits.shape == (2, K, *at_8) and network.num_classes == K
    assert {key: tuple(value.shape) for key, value in outputs.extra.items()} == (
        {} if name == "deeplabv3_mbv2" else {"aux_logits": (2, K, *at_8)}
    )
    assert outputs.pooled is None and network.info.classifier is None and network.info.pooled_dim is None


def smp_s_network(name: str, network: Any) -> nn.Module:
    """smp's whole network over the weights of ours, with the layers that CIRKD has and no option of smp gives."""
    options: dict[str, Any] = {"encoder_weights": None, "classes": K}
    theirs: Any
    if name.startswith("pspnet_"):
        options |= {"encoder_depth": 5, "psp_out_channels": network.info.channels[-1], "output_stride": 8}
        theirs = smp.PSPNet(architecture(name), **options)
        theirs.decoder.psp.blocks[0].pool[1] = network.decoder.psp.blocks[0].pool[1]
        theirs.decoder.conv, theirs.segmentation_head[0] = network.decoder.conv, network.segmentation_head[0]
    else:
        theirs = smp.DeepLabV3(architecture(name), decoder_channels=network.info.channels[-1], **options)
    if name == "deeplabv3_mbv2":
        theirs.encoder.features[18] = nn.Identity()
        theirs.decoder = smp.decoders.deeplabv3.decoder.DeepLabV3Decoder(320, 128, (12, 24, 36), False, 0.5)
    for stage, rate in ((16, 1), (32, 2)):
        first = theirs.encoder.get_stages()[stage][0]
        halving = next(module for module in first.modules() if getattr(module, "kernel_size", None) == (3, 3))
        halving.dilation = halving.padding = (rate, rate)
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("auxiliary_head.")}
    theirs.load_state_dict(state, assign=True)
    return theirs


@pytest.mark.parametrize("name", segmenters.PAPER_SIZE)
def test_logits_are_those_of_smp_s_forward_before_its_upsampling(name: str) -> None:
    network = build(name).eval()
    with torch.device("meta"):
        theirs = smp_s_network(name, network).eval()
    x = images()[..., :64]
    with torch.no_grad():
        ours, expected = network(x).logits, theirs(x)
    assert ours.std() > 1e-3
    scale = expected.abs().max()
    upsampled = F.interpolate(ours, scale_factor=8, mode="bilinear", align_corners=True)
    torch.testing.assert_close(upsampled / scale, expected / scale, rtol=1e-5, atol=1e-5)


def test_dilation_doubles_behind_the_convolution_that_would_have_halved_the_map() -> None:
    def rates(layers: nn.Module) -> list[int]:
        return [m.dilation[0] for m in layers.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]

    basic, deep, mobile = (on_meta(name).encoder for name in ("pspnet_r18", "deeplabv3_r101", "deeplabv3_mbv2"))
    assert [rates(basic.layer2), rates(basic.layer3), rates(basic.layer4)] == [[1] * 4, [1, 2, 2, 2], [2, 4, 4, 4]]
    assert [rates(deep.layer3), rates(deep.layer4)] == [[1] + [2] * 22, [2, 4, 4]]
    assert rates(mobile.features) == [1] * 8 + [2] * 6 + [2] + [4] * 3
    torchvision_s = models.resnet101(replace_stride_with_dilation=[False, True, True])
    assert [rates(torchvision_s.layer3), rates(torchvision_s.layer4)] == [rates(deep.layer3), rates(deep.layer4)]


@pytest.mark.parametrize("name", FEATURE_MODULES)
def test_features_are_the_stages_outputs_unaltered_and_what_the_heads_read(name: str) -> None:
    network = build(name).eval()
    maps: list[Tensor] = []
    stem, *stages = (network.encoder.get_submodule(path) for path in FEATURE_MODULES[name])
    for module in (stem, *stages):
        module.register_forward_hook(lambda _m, _i, output: maps.append(output.clone()))
    with torch.no_grad():
        outputs = network(images())
        for feature, value in zip(outputs.features, maps, strict=False):
            assert torch.equal(feature, value)
        torch.testing.assert_close(network.segmentation_head(outputs.features[5]), outputs.logits)
        if outputs.extra:
            torch.testing.assert_close(network.auxiliary_head(outputs.features[3]), outputs.extra["aux_logits"])
    assert len(maps) == 5


@light
def test_a_training_step_reaches_every_parameter(name: str) -> None:
    network = build(name).train()
    before = buffers(network)
    outputs = network(images())
    truth = torch.randint(0, K, (2, 8, 16), generator=torch.Generator().manual_seed(2))
    losses = [F.cross_entropy(logits, truth) for logits in (outputs.logits, *outputs.extra.values())]
    torch.stack(losses).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key
    after = buffers(network)
    assert all(not torch.equal(after[key], before[key]) for key in before if key.endswith("running_mean"))


@pytest.mark.parametrize("name", ["pspnet_r18", "segmenter_mini_teacher"])
def test_evaluation_changes_no_buffer_and_does_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    network = build(name).eval()
    before = buffers(network)
    with torch.no_grad():
        whole, again, alone = network(images(3)), network(images(3)), network(images(3)[1:2])
    assert equal(buffers(network), before)
    assert torch.equal(whole.logits, again.logits)
    for batched, single in ((whole.logits, alone.logits), (whole.extra["aux_logits"], alone.extra["aux_logits"])):
        torch.testing.assert_close(batched[1:2], single, rtol=1e-4, atol=1e-5)


@light
def test_training_on_a_single_image_is_refused_and_the_error_says_what_to_set(name: str) -> None:
    with pytest.raises(SpecError, match=r"cannot train on a batch of 1; set the recipe's batch_size"):
        on_meta(name).train()(torch.empty(1, 3, 64, 128, device="meta"))


@pytest.mark.parametrize("name", MINI)
def test_the_same_seed_builds_the_same_weights_and_another_seed_different_ones(name: str) -> None:
    first, again, different = (build(name, seed).state_dict() for seed in (0, 0, 1))
    assert equal(first, again) and not equal(first, different)


@pytest.mark.parametrize("name", ["deeplabv3_mbv2", "segmenter_mini_student"])
def test_weights_return_from_a_state_dict_and_those_for_other_classes_are_refused(name: str) -> None:
    source, target = build(name).eval(), build(name, seed=1).eval()
    load_strictly(target, source.state_dict(), Path("some.pt"))
    with torch.no_grad():
        assert torch.equal(source(images(1)).logits, target(images(1)).logits)
    with pytest.raises(CheckpointError, match=r"some\.pt does not fit: .*made for another number of classes"):
        load_strictly(networks.build(name, K + 1), source.state_dict(), Path("some.pt"))


@pytest.mark.parametrize("name", ["deeplabv3_r18", "deeplabv3_mbv2", "pspnet_r18"])
def test_imagenet_weights_fill_the_encoder_alone_and_train(name: str, weights: Path) -> None:
    torch.manual_seed(3)
    donor = getattr(models, architecture(name))().state_dict()
    for key, value in donor.items():
        if value.is_floating_point():
            donor[key] = torch.rand_like(value)
    torch.save({key: value for key, value in donor.items() if "num_batches" not in key}, weights / FILES[name])
    network: Any = networks.build(name, K, init="imagenet").train()
    encoder = network.encoder.state_dict()
    left_out = {key for key in donor if key.startswith(("fc.", "classifier.", "features.18."))}
    assert encoder.keys() == donor.keys() - left_out and left_out
    assert equal(encoder, {key: donor[key] for key in encoder})
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())


def test_resnet101_s_weights_would_fill_its_encoder() -> None:
    with torch.device("meta"):
        donor = models.resnet101().state_dict()
    expected = {key: value.shape for key, value in donor.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in on_meta("deeplabv3_r101").encoder.state_dict().items()} == expected


def test_missing_imagenet_weights_say_which_file_goes_where(weights: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        networks.build("deeplabv3_mbv2", K, init="imagenet")
    assert str(caught.value).startswith(f"{weights / FILES['deeplabv3_mbv2']} is missing and cannot be downloaded (")
    assert f"fetch https://download.pytorch.org/models/{FILES['deeplabv3_mbv2']}" in str(caught.value)


def test_a_file_of_another_network_is_refused_by_name(weights: Path) -> None:
    torch.save(models.mobilenet_v2().state_dict(), weights / FILES["pspnet_r18"])
    with pytest.raises(CheckpointError, match=rf"{FILES['pspnet_r18']} is another network's"):
        networks.build("pspnet_r18", K, init="imagenet")


def test_smp_downloads_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("smp asked for weights")

    monkeypatch.setattr(smp.encoders, "hf_hub_download", refuse)
    with pytest.raises(AssertionError, match="asked for weights"):
        smp.encoders.get_encoder("resnet18", weights="imagenet")
    for name in CIRKD:
        on_meta(name)


@pytest.mark.parametrize(
    ("name", "init", "message"),
    [
        ("deeplabv3_r19", "random", "unknown network: 'deeplabv3_r19'. Did you mean 'deeplabv3_r1"),
        ("segmenter_mini_studnt", "random", "Did you mean 'segmenter_mini_student'"),
        (
            "deeplabv3_r18",
            "published",
            "deeplabv3_r18 has no weights 'published' to start from; set init",
        ),
        (
            "segmenter_mini_student",
            "imagenet",
            "no weights 'imagenet' to start from; set init",
        ),
        (
            "fcos_mini_student",
            "imagenet",
            "no weights 'imagenet' to start from; set init",
        ),
    ],
)
def test_what_cannot_be_built_is_one_error(name: str, init: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        networks.build(name, K, init)
    assert message in str(caught.value)
