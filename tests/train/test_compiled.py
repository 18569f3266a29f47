"""Networks that are compiled for training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench.errors import SpecError
from kdbench.methods.base import NetworkInfo, Outputs
from kdbench.networks.base import Network
from kdbench.records.store import read_row
from kdbench.spec.recipe import load_recipe
from kdbench.train import compiled
from kdbench.train.compiled import compile_networks, eager
from kdbench.train.events import Event, WarningEvent
from kdbench.train.job import execute
from tests.helpers.pictures import Pictures, done, short, state_of

pytestmark = pytest.mark.integration

COMPILED: dict[str, Any] = {"compile": True}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.set_stance("default")
    torch.compiler.reset()


class Small(Network):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.info, self.num_classes = NetworkInfo((4,)), 5

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        features = self.norm(self.conv(x)).relu()
        return Outputs(self.linear(features.mean((2, 3))), (features,))


class Branching(Small):
    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        outputs = super().forward(x)
        return outputs if outputs.logits.sum().item() > 0 else super().forward(x)  # type: ignore[union-attr]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_a_compiled_network_computes_what_it_computes_eagerly() -> None:
    recipe, x = short(**COMPILED), torch.randn(4, 3, 8, 8)
    network = Small()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    assert compile_networks([(network.train(), x)], recipe) == ""
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    results = []
    for context in (eager(short()), eager(recipe)):
        network.load_state_dict(state)
        with context:
            outputs = network(x)
            loss = outputs.logits.square().sum() + outputs.features[0].sum()
            loss.backward()
        buffers = {name: value.clone() for name, value in network.named_buffers()}
        results.append([loss.detach(), *(p.grad for p in network.parameters()), *buffers.values()])
        network.zero_grad(set_to_none=True)
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_batchnorm_of_a_frozen_teacher_is_folded_into_its_convolutions() -> None:
    from torch._dynamo.utils import counters

    teacher, x = Small().eval().requires_grad_(False), torch.randn(4, 3, 8, 8)
    teacher.norm.running_mean.normal_()
    teacher.norm.running_var.uniform_(0.5, 2.0)
    expected = teacher(x)
    assert compile_networks([(teacher, x)], short(**COMPILED)) == ""
    assert counters["inductor"]["binary_folding_conv"] > 0
    with torch.no_grad():
        outputs = teacher(x)
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.features, expected.features, rtol=1e-4, atol=1e-5)


def test_a_cohort_is_compiled_once_for_each_network_and_trains_as_without(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", backend)
    rows = {}
    for name, changes in (("eager", {}), ("compiled", COMPILED)):
        runs = [pictures.run(method, recipe=short(**changes)) for method in ("kd", "dml", "none")]
        rows[name] = done(execute(pictures.job(tmp_path / name, *runs), lambda _: None))
    assert len(graphs) == 3  # the frozen teacher in eval mode, the students, and the online teacher
    for before, after in zip(*rows.values(), strict=True):
        assert before.id != after.id
        assert (before.environment.compiled, after.environment.compiled) == (None, True)
        weights = [state_of(tmp_path / name, row.run) for name, row in (("eager", before), ("compiled", after))]
        for name, value in weights[0].items():
            torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_a_network_that_cannot_be_compiled_trains_eagerly_and_the_row_has_it(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(_graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(compiled, "BACKEND", backend)
    events: list[Event] = []
    run = pictures.run("kd", recipe=short(**COMPILED))
    done(execute(pictures.job(tmp_path, run), events.append))
    (warning,) = [e.text for e in events if isinstance(e, WarningEvent) and "torch.compile fails for" in e.text]
    assert "no kernel for this" in warning
    assert warning.endswith("the networks of this job train eagerly")
    kept = read_row(tmp_path / run.id / "row.json")
    assert kept.environment.compiled is False
    assert kept.environment.machine.endswith(", not compiled")


def test_code_that_depends_on_values_is_named() -> None:
    problem = compile_networks([(Branching().train(), torch.randn(2, 3, 8, 8))], short(**COMPILED))
    assert problem.startswith("torch.compile fails for Branching: ")


def test_detectors_refuse_to_be_compiled() -> None:
    with pytest.raises(SpecError, match="compile is for classification and segmentation"):
        load_recipe("coco_mini", COMPILED)
