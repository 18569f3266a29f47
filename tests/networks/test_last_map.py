"""`extra["last_map"]`: the map whose mean over space is the classifier's input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import networks
from kdbench.networks import cifar, imagenet
from kdbench.networks.hooked import HookedNetwork

SIZES = {"swin_t": 224, "swin_l": 224}
LARGE = ("resnet101", "resnet152", "swin_l")  # other depths and widths of the same code
HERE = [*cifar.NAMES, *(name for name in imagenet.NAMES if name not in LARGE)]
LIBRARIES = {
    "timm:resnet10t": 512,
    "timm:mobilenetv2_050": 1280,
    "timm:resnet10t:layers=[layer2,layer4]:classifier=fc": 512,
    "torchvision:resnet18": 512,
    "torchvision:regnet_y_400mf": 440,
    "torchvision:swin_t": 768,  # its map has channels last and is permuted before it is pooled
    "torchvision:densenet121": 1024,  # changed in place after the last module
}
OTHER_POOLINGS = (
    "timm:convnext_atto",  # normalizes after pooling
    "timm:vit_tiny_patch16_224:patch_size=8:depth=1:embed_dim=24:img_size=32",
    "torchvision:mobilenet_v3_small",  # a layer follows
    "torchvision:squeezenet1_0",
)


def outputs(name: str, size: int = 32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    network = networks.build(name, 5).eval()
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network(x)
    last_map = found.extra["last_map"]
    assert isinstance(last_map, Tensor) and found.pooled is not None
    assert found.pooled.abs().sum() > 0
    return last_map, found.pooled


@pytest.mark.parametrize("name", HERE)
def test_its_mean_is_pooled(name: str) -> None:
    last_map, pooled = outputs(name, SIZES.get(name, 32))
    torch.testing.assert_close(last_map.mean(dim=(2, 3)), pooled)


@pytest.mark.parametrize(("name", "channels"), LIBRARIES.items())
def test_is_found_in_libraries_networks_without_their_values(name: str, channels: int) -> None:
    last_map, pooled = outputs(name, 64)
    assert last_map.shape[:2] == (2, channels) and last_map.shape[2] > 1
    torch.testing.assert_close(last_map.mean(dim=(2, 3)), pooled)
    with torch.device("meta"):
        on_meta = networks.build(name, 5)(torch.empty(2, 3, 64, 64)).extra["last_map"]
    assert isinstance(on_meta, Tensor) and on_meta.shape == last_map.shape


@pytest.mark.parametrize("name", OTHER_POOLINGS)
def test_is_absent_where_pooled_is_no_mean_of_a_map(name: str) -> None:
    found = networks.build(name, 5)(torch.randn(2, 3, 32, 32))
    assert "last_map" not in found.extra


class Pools(nn.Module):
    """A convolution and a linear layer, with any pooling between them."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        self.layer, self.head, self.pooling = nn.Conv2d(3, 6, 3, 8), nn.Linear(6, 5), pooling

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        pooled = x.amax((2, 3)) if self.pooling == "max" else x.mean((2, 3))
        return self.head(F.relu_(pooled) if self.pooling == "mean, relu in place" else pooled)


@pytest.mark.parametrize(
    ("pooling", "known"), [("mean", True), ("mean, relu in place", False), ("max", False)], ids=str
)
def test_a_module_s_map_is_known_where_its_mean_is_the_classifier_s_input(pooling: str, known: bool) -> None:
    assert ("last_map" in HookedNetwork(Pools(pooling), 5)(torch.randn(2, 3, 32, 32)).extra) == known


def test_the_student_gets_gradients_through_it() -> None:
    network = networks.build("torchvision:densenet121", 5)
    last_map = network(torch.randn(2, 3, 64, 64)).extra["last_map"]
    assert isinstance(last_map, Tensor)
    last_map.square().sum().backward()
    assert all(p.grad is not None for name, p in network.named_parameters() if "classifier" not in name)
