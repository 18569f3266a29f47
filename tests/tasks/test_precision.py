"""The precision of float32 tensors in a process: set for every library, checked, and exact in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from kdbench.errors import SpecError
from kdbench.spec.recipe import load_recipe
from kdbench.tasks import precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    precision.use(load_recipe("cifar_mini"), CPU)


def flags() -> set[str]:
    """What torch's libraries make of float32; also reads the older flags, which fails where they contradict it."""
    backends = torch.backends
    assert backends.cudnn.allow_tf32 == backends.cuda.matmul.allow_tf32
    parts: tuple[Any, ...] = (backends, backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    return {part.fp32_precision for part in (*parts, backends.mkldnn.matmul, backends.mkldnn.conv)}


@pytest.mark.parametrize("name", ["ieee", "bfloat16"])
def test_nothing_depends_on_torchs_default(name: str) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    precision.use(load_recipe("cifar_mini", {"precision": name}), CPU)
    assert flags() == {"ieee"} and not torch.backends.cudnn.benchmark
    precision.use(load_recipe("cifar_mini", {"cudnn_benchmark": True}), CPU)
    assert torch.backends.cudnn.benchmark


def test_tf32_is_of_every_library_and_evaluation_is_in_ieee(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_without_tf32", lambda device: "")
    precision.use(load_recipe("cifar_mini", {"precision": "tf32"}), CPU)
    assert flags() == {"tf32"}
    inside: list[set[str]] = []

    @precision.evaluation()
    def fails() -> None:
        inside.append(flags())
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fails()
    assert inside == [{"ieee"}] and flags() == {"tf32"}


def test_a_device_without_tf32_is_refused() -> None:
    with pytest.raises(SpecError, match="a processor does not have; train with --set precision=ieee"):
        precision.use(load_recipe("cifar_mini", {"precision": "tf32"}), CPU)


@pytest.mark.parametrize("name", ["matrix products", "convolutions"])
def test_a_device_that_rounds_float32_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = torch.Tensor.__matmul__ if name == "matrix products" else precision.F.conv2d

    def rounded(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = computed(first.bfloat16().float(), second)
        return product

    owner: Any = torch.Tensor if name == "matrix products" else precision.F
    monkeypatch.setattr(owner, "__matmul__" if name == "matrix products" else "conv2d", rounded)
    with pytest.raises(SpecError, match=f"cpu rounds float32 in {name}.*NVIDIA_TF32_OVERRIDE"):
        precision.use(load_recipe("cifar_mini"), CPU)
