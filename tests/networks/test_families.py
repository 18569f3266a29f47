"""Network families: discovered by their files, listed without large imports, unknown names refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kdbench import networks
from kdbench.errors import SpecError

FAMILY = """
from kdbench.networks import Family

def build(name, num_classes, init="random", width=4):
    from torch import nn
    from kdbench.methods.base import NetworkInfo, Outputs
    from kdbench.networks.base import Network

    class Tiny(Network):
        def __init__(self):
            super().__init__()
            self.num_classes, self.fc = num_classes, nn.Linear(3, num_classes)
            self.info = NetworkInfo(channels=(3,), strides=(1,), pooled_dim=3, classifier=self.fc)

        def forward(self, x, targets=None):
            pooled = x.mean((2, 3))
            return Outputs(logits=self.fc(pooled), features=(x,), pooled=pooled)

    network = Tiny()
    network.width, network.init = width, init
    return network

FAMILY = Family(
    task="classification",
    names=lambda: ("tiny_net", "{second}"),
    head=lambda name: "classifier",
    build=build,
    inits=lambda name: ("random", "published"),
    options=lambda name: ("width",),
    pattern="{pattern}",
    library="mine",
    unavailable=lambda name: "no licence" if name == "{second}" else "",
    report=lambda: ("mine: version 2", False),
)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder beside the package's, whose files are searched for families too."""
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(tmp_path)])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("kdbench.networks.a_family")]:
        del sys.modules[name]


def add(folder: Path, file: str = "a_family.py", pattern: str = "", second: str = "tiny_net_2") -> None:
    (folder / file).write_text(FAMILY.replace("{pattern}", pattern).replace("{second}", second))


def test_a_file_is_a_family_whose_networks_are_listed_checked_and_built(folder: Path) -> None:
    add(folder)
    assert {"tiny_net", "tiny_net_2", "resnet20"} <= set(networks.names())
    assert networks.task("tiny_net") == "classification" and networks.family("tiny_net") == "classifier"
    assert networks.library("tiny_net") == "mine"
    assert (networks.unavailable("tiny_net"), networks.unavailable("tiny_net_2")) == ("", "no licence")
    assert ("mine: version 2", False) in networks.reports()
    network = networks.build("tiny_net", 5, init="published", width=8)
    assert network(torch.zeros(2, 3, 4, 4)).logits.shape == (2, 5)
    assert (network.width, network.init) == (8, "published")
    with pytest.raises(SpecError, match="tiny_net has no weights 'imagenet' to start from; set init .* published or r"):
        networks.build("tiny_net", 5, init="imagenet")
    with pytest.raises(SpecError, match="unknown option of tiny_net: 'wiidth'. Did you mean 'width'"):
        networks.build("tiny_net", 5, wiidth=8)
    with pytest.raises(SpecError, match="unknown network: 'tiny_nte'. Did you mean 'tiny_net"):
        networks.build("tiny_nte", 5)


def test_names_with_the_pattern_of_a_family_belong_to_it_without_being_listed(folder: Path) -> None:
    add(folder, pattern="mine:")
    assert networks.library("mine:anything") == "mine" and "mine:anything" not in networks.names()
    assert networks.build("mine:anything", 5).num_classes == 5


def test_a_file_with_a_leading_underscore_is_no_family(folder: Path) -> None:
    add(folder, file="_a_family.py")
    assert "tiny_net" not in networks.names()


def test_a_file_without_a_declaration_is_refused_by_name(folder: Path) -> None:
    (folder / "a_family.py").write_text("")
    with pytest.raises(ImportError, match=r"networks/a_family\.py declares no FAMILY"):
        networks.names()


def test_a_name_in_two_families_is_refused(folder: Path) -> None:
    add(folder, second="resnet20")
    with pytest.raises(SpecError, match="a_family and cifar each have a network resnet20; rename"):
        networks.build("resnet20", 10)


def test_every_name_belongs_to_a_single_family() -> None:
    assert len(networks.names()) == len(set(networks.names()))
    assert {networks.task(name) for name in networks.names()} == {"classification", "detection", "segmentation"}


@pytest.mark.parametrize("ask", [networks.task, networks.family, networks.library, networks.unavailable])
def test_an_unknown_name_is_refused_whatever_is_asked(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(SpecError, match="unknown network: 'resnet32x5'. Did you mean 'resnet32x4'"):
        ask("resnet32x5")


def test_listing_imports_no_large_library() -> None:
    code = (
        "import sys; from kdbench import networks; [networks.family(name) for name in networks.names()];"
        "large = {'torch', 'torchvision', 'timm', 'segmentation_models_pytorch', 'detectron2'} & sys.modules.keys();"
        "sys.exit(', '.join(large) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
