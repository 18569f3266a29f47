"""ImageNet classifiers: the libraries' logits, unaltered features, and published weights loaded strictly."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from kdbench import networks
from kdbench.errors import CheckpointError, SpecError
from kdbench.networks import _imagenet_networks, _timm_weights, imagenet

K = 7
TORCHVISION = [name for name, published in imagenet.PUBLISHED.items() if published.library == "torchvision"]
TIMM = [name for name, published in imagenet.PUBLISHED.items() if published.library == "timm"]

# Parameters, and multiply-adds at 224 pixels in units of 10^9: torchvision's metadata, and the papers of MobileNetV1
# (569 million), EfficientNet (0.39) and Swin (4.5 and 34.5).
SIZES = {
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "resnet50_sb": (25_557_032, 4.089),
    "mobilenet_v1": (4_231_976, 0.569),
    "mobilenet_v2": (3_504_872, 0.301),
    "efficientnet_b0": (5_288_548, 0.39),
    "swin_t": (28_288_354, 4.5),
    "swin_l": (196_532_476, 34.5),
}

RESNET = ("maxpool", "layer1", "layer2", "layer3", "layer4")
FEATURE_MODULES = {  # the library's modules whose outputs the features are
    "resnet18": RESNET,
    "resnet50": RESNET,
    "resnet50_sb": RESNET,
    "mobilenet_v1": ("model.0", "model.3", "model.5", "model.11", "model.13"),
    "mobilenet_v2": ("features.0", "features.3", "features.6", "features.13", "features.17"),
    "efficientnet_b0": ("bn1", "blocks.1", "blocks.2", "blocks.4", "blocks.6"),
    "swin_t": ("patch_embed", "layers.0", "layers.1", "layers.2", "layers.3"),
}
WITH_PRE_ACTIVATIONS = {"resnet18", "resnet50", "resnet50_sb", "mobilenet_v1"}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder, and no way to download."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise URLError("no network here")

    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def build(name: str) -> Any:
    """A network whose norms have moved from their initial values, so that every branch contributes."""
    torch.manual_seed(0)
    network = networks.build(name, K)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return network


def images(name: str) -> Tensor:
    shape = (1, 3, 224, 224) if name.startswith("swin") else (2, 3, 64, 64)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def on_meta(name: str, num_classes: int = 1000) -> Any:
    with torch.device("meta"):
        return networks.build(name, num_classes)


@pytest.mark.parametrize("name", SIZES)
def test_size_and_shapes_at_224_are_the_published_ones_and_those_in_info(name: str) -> None:
    network = on_meta(name).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        outputs = network(torch.empty(1, 3, 224, 224, device="meta"))
    parameters, multiply_adds = SIZES[name]
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(multiply_adds, rel=0.015)
    info = network.info
    assert len(outputs.features) == 5
    for feature, channels, stride in zip(outputs.features, info.channels, info.strides, strict=True):
        assert feature.shape == (1, channels, 224 // stride, 224 // stride)
    assert outputs.pooled.shape == (1, info.pooled_dim)
    assert (
        info.classifier.in_features == info.pooled_dim and info.classifier.out_features == network.num_classes == 1000
    )
    before = outputs.extra.get("pre_activations", ())
    assert [norm.num_features for norm in info.norms] == [feature.shape[1] for feature in before]


@pytest.mark.parametrize("name", FEATURE_MODULES)
def test_logits_are_the_library_s_and_features_its_modules_outputs_unaltered(name: str) -> None:
    network = build(name)
    library = copy.deepcopy(network.model)
    expected_features: list[Tensor] = []
    for module in FEATURE_MODULES[name]:
        library.get_submodule(module).register_forward_hook(
            lambda _m, _i, output: expected_features.append(output.clone())
        )
    x = images(name)
    with torch.no_grad():
        outputs, expected = network.eval()(x), library.eval()(x)
    torch.testing.assert_close(outputs.logits, expected)
    assert expected.std() > 1e-3
    for feature, value in zip(outputs.features, expected_features, strict=True):
        torch.testing.assert_close(feature, value.permute(0, 3, 1, 2) if name == "swin_t" else value)
    torch.testing.assert_close(network.info.classifier(outputs.pooled), outputs.logits)


@pytest.mark.parametrize("name", ["resnet18", "resnet50_sb", "mobilenet_v1", "mobilenet_v2", "efficientnet_b0"])
def test_training_forward_is_the_library_s_dropout_and_statistics_included(name: str) -> None:
    network = build(name).train()
    library = copy.deepcopy(network.model)
    x = images(name)
    torch.manual_seed(3)
    logits = network(x).logits
    torch.manual_seed(3)
    torch.testing.assert_close(logits, library(x))
    torch.testing.assert_close(network.model.state_dict(), library.state_dict())


@pytest.mark.parametrize("name", FEATURE_MODULES)
def test_pre_activations_are_the_stages_before_a_relu_that_left_them_alone(name: str) -> None:
    if name not in WITH_PRE_ACTIVATIONS:
        assert "pre_activations" not in on_meta(name)(torch.empty(2, 3, 224, 224, device="meta")).extra
        return
    outputs = build(name)(images(name))
    for feature, before in zip(outputs.features[1:], outputs.extra["pre_activations"], strict=True):
        assert before.min() < 0
        assert torch.equal(before.relu(), feature)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v1", "mobilenet_v2", "efficientnet_b0", "swin_t"])
def test_gradients_reach_every_parameter_through_every_output(name: str) -> None:
    network = build(name)
    outputs = network(images(name))
    returned = [*outputs.features, *outputs.extra.get("pre_activations", ()), outputs.pooled, outputs.logits]
    torch.stack([value.square().mean() for value in returned]).sum().backward()
    for parameter, value in network.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all(), parameter


def test_mobilenet_v1_agrees_with_timm_s_over_the_same_weights() -> None:
    network = build("mobilenet_v1").eval()
    reference = timm.create_model("mobilenetv1_100", num_classes=K, act_layer=nn.ReLU).eval()
    reference.load_state_dict(dict(zip(reference.state_dict(), network.state_dict().values(), strict=True)))
    with torch.no_grad():
        torch.testing.assert_close(network(images("mobilenet_v1")).logits, reference(images("mobilenet_v1")))


def test_mobilenet_v1_starts_as_in_dist_s_code() -> None:
    torch.manual_seed(0)
    network: Any = networks.build("mobilenet_v1", 100)
    depthwise = network.model.model[13][0].weight
    assert depthwise.std().item() == pytest.approx((2 / (9 * 1024)) ** 0.5, rel=0.05)
    assert 0.099 < network.model.fc.weight.abs().max() <= 0.1
    assert not network.model.fc.bias.any()


def test_dropout_is_where_dist_trained_with_it() -> None:
    rates = {
        name: [module.p for module in on_meta(name).modules() if isinstance(module, nn.Dropout) and module.p]
        for name in ("resnet50", "mobilenet_v1", "mobilenet_v2", "efficientnet_b0")
    }
    assert rates == {"resnet50": [], "mobilenet_v1": [], "mobilenet_v2": [0.2], "efficientnet_b0": []}
    assert on_meta("efficientnet_b0").model.drop_rate == 0


@pytest.mark.parametrize(("options", "rate"), [({}, 0.2), ({"drop_path": 0.1}, 0.1), ({"drop_path": 0}, 0.0)])
def test_stochastic_depth_of_swin_grows_to_the_option(options: dict[str, float], rate: float) -> None:
    with torch.device("meta"):
        network: Any = networks.build("swin_t", K, **options)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for stage in network.model.layers for block in stage.blocks]
    assert rates == pytest.approx([rate * i / 11 for i in range(12)])


def test_swin_refuses_other_sizes_and_says_what_to_set() -> None:
    with pytest.raises(SpecError, match=r"224x224 pixels and was given 64x96; set the recipe's image size"):
        on_meta("swin_t")(torch.empty(1, 3, 64, 96, device="meta"))


@pytest.mark.parametrize(
    ("name", "classes", "init", "options", "message"),
    [
        ("resnet19", 10, "random", {}, "unknown network: 'resnet19'. Did you mean 'resnet1"),
        (
            "resnet18",
            10,
            "imagenet",
            {},
            "no weights 'imagenet' to start from; set init (a teacher's: teacher.init) to published or random",
        ),
        ("resnet18", 10, "random", {"drop_path": 0.1}, "unknown option of resnet18: 'drop_path'"),
        ("swin_t", 10, "random", {"droppath": 0.1}, "Did you mean 'drop_path'"),
        ("swin_t", 10, "random", {"drop_path": 1.0}, "drop_path is 1.0; use a number from 0 to below 1"),
        ("swin_t", 10, "random", {"drop_path": "0.1"}, "drop_path is '0.1'; use a number"),
        ("mobilenet_v1", 1000, "published", {}, "mobilenet_v1 has no published weights; set init to random"),
        ("resnet18", 100, "published", {}, "for 1000 classes and the data has 100; set init to random"),
    ],
)
def test_what_cannot_be_built_is_one_error(
    name: str, classes: int, init: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        networks.build(name, classes, init, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_s_accuracies_and_state_dict_names_are_those_of_its_weights(name: str) -> None:
    published = imagenet.PUBLISHED[name]
    meta = models.get_model_weights(name)[published.weights].meta
    assert meta["_metrics"]["ImageNet-1K"]["acc@1"] == published.top1
    with torch.device("meta"):
        library = models.get_model(name)
    assert on_meta(name).model.state_dict().keys() == library.state_dict().keys()


@pytest.mark.parametrize("name", TIMM)
def test_timm_s_tags_exist_for_our_architectures_and_normalisation(name: str) -> None:
    published = imagenet.PUBLISHED[name]
    cfg = timm.get_pretrained_cfg(published.weights, allow_unregistered=False)
    assert cfg is not None and cfg.num_classes == 1000 and cfg.input_size == (3, 224, 224)
    assert cfg.mean == (0.485, 0.456, 0.406) and cfg.std == (0.229, 0.224, 0.225)
    assert published.weights.split(".")[0] == _imagenet_networks.TIMM[name]


def test_torchvision_s_weights_load_from_the_folder(weights: Path) -> None:
    donor = models.resnet18()
    state = {key: value for key, value in donor.state_dict().items() if "num_batches" not in key}
    torch.save(state, weights / "resnet18-f37072fd.pth")
    network: Any = networks.build("resnet18", 1000, "published")
    torch.testing.assert_close(network.model.state_dict(), donor.state_dict())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_timm_s_weights_load_from_the_folder(weights: Path, suffix: str) -> None:
    donor = timm.create_model("tf_efficientnet_b0")
    path = weights / f"tf_efficientnet_b0.aa_in1k{suffix}"
    save_file(donor.state_dict(), path) if suffix == ".safetensors" else torch.save(donor.state_dict(), path)
    network: Any = networks.build("efficientnet_b0", 1000, "published")
    torch.testing.assert_close(network.model.state_dict(), donor.state_dict())


def test_swin_s_tables_of_positions_are_allowed_in_a_file(weights: Path) -> None:
    def small() -> SwinTransformer:
        return SwinTransformer(img_size=56, embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=3)

    donor, body = small(), small()
    tables = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64)}
    save_file(donor.state_dict() | tables, weights / "swin.tag.safetensors")
    _timm_weights.load(body, "swin.tag")
    torch.testing.assert_close(body.state_dict(), donor.state_dict())


def test_a_missing_file_is_named_with_its_place_and_source(weights: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        networks.build("efficientnet_b0", 1000, "published")
    assert str(weights / "tf_efficientnet_b0.aa_in1k.safetensors") in str(caught.value)
    assert "https://huggingface.co/timm/tf_efficientnet_b0.aa_in1k" in str(caught.value)
    with pytest.raises(CheckpointError) as caught:
        networks.build("mobilenet_v2", 1000, "published")
    assert str(weights / "mobilenet_v2-b0353104.pth") in str(caught.value)
    assert not list(weights.iterdir())


def test_a_damaged_file_and_another_network_s_are_refused(weights: Path) -> None:
    path = weights / "tf_efficientnet_b0.aa_in1k.safetensors"
    path.write_bytes(b"\x08\x00\x00")
    with pytest.raises(CheckpointError, match=r"aa_in1k\.safetensors is a damaged or truncated safetensors file"):
        networks.build("efficientnet_b0", 1000, "published")
    save_file({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"aa_in1k\.safetensors is another network's"):
        networks.build("efficientnet_b0", 1000, "published")
