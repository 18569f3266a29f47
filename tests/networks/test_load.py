"""Weights of other programs: found under any key and prefix, loaded whole, and refused where a value would change."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import resnet18

from kdbench import networks
from kdbench.errors import CheckpointError
from kdbench.networks.load import load_network, try_networks

CLASSES = ("cat", "dog", "fox")
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return {name: value.clone() for name, value in networks.build("resnet8", len(CLASSES)).state_dict().items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "teacher.pth"


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def loaded(file: Path, content: Any, name: str = "resnet8") -> tuple[State, str]:
    """The state that a network has after loading, and what was said about the file."""
    if content is not None:
        torch.save(content, file)
    notices = "; ".join(try_networks(file, [name], CLASSES).notices[name])
    return load_network(file, name, CLASSES, torch.device("cpu")).state_dict(), notices


def same(state: State, other: State) -> bool:
    return state.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in state.items())


@pytest.mark.parametrize(
    "prefix",
    ["module.", "model.", "_orig_mod.", "module.student.", "backbone.", "module._orig_mod.", "_orig_mod.module.model."],
)
def test_a_common_prefix_is_taken_off_and_said(prefix: str, state: State, file: Path) -> None:
    for content in (prefixed(state, prefix), {"state_dict": prefixed(state, prefix), "epoch": 3}):
        found, notices = loaded(file, content)
        assert same(found, state) and f"the prefix {prefix}" in notices


@pytest.mark.parametrize(
    "key", ["net", "state", "params", "state_dict", "model", "model_state_dict", "ema", "student", "weights"]
)
def test_a_state_dict_is_found_under_any_key_and_said(key: str, state: State, file: Path) -> None:
    found, notices = loaded(file, {key: state, "acc": 72.3})
    assert same(found, state)
    assert key == "state" or notices == f"weights under the key {key} (the file also has acc)"


def of_lightning(state: State) -> Any:
    return {
        "state_dict": prefixed(state, "model.") | {"criterion.weight": torch.ones(3)},
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {},
    }


def of_mmpretrain(state: State) -> Any:
    parted = {("head." if name.startswith("fc.") else "backbone.") + name: value for name, value in state.items()}
    return {"meta": {"epoch": 3, "CLASSES": list(CLASSES)}, "state_dict": parted}


def of_repdistiller(state: State) -> Any:
    return {"opt": argparse.Namespace(lr=0.05), "model": state, "best_acc": np.float64(72.3), "top5": np.float32(9)}


def of_averaged_model(state: State) -> Any:
    return {"n_averaged": torch.tensor(7)} | prefixed(state, "module.")


def of_mdistiller(state: State) -> Any:
    student = networks.build("vgg8", len(CLASSES)).state_dict()
    return {"model": prefixed(state, "module.teacher.") | prefixed(student, "module.student."), "epoch": 3}


def with_optimizer(state: State) -> Any:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))]).state_dict()
    return {"net": state, "optimizer": optimizer, "scheduler": {"step": 3}, "classes": 3}


def with_profile(state: State) -> Any:
    return state | {"total_ops": torch.ones(1), "conv1.total_params": torch.ones(1)}


def before_counters(state: State) -> Any:
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def beside_ema(state: State) -> Any:
    return {"model": state, "model_ema": {name: value + 1 for name, value in state.items()}}


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (of_lightning, "1 tensor without that prefix is left out, such as criterion.weight"),
        (of_mmpretrain, "the prefix backbone. and head."),
        (of_repdistiller, "weights under the key model (the file also has opt, best_acc, top5)"),
        (of_averaged_model, "such as n_averaged"),
        (of_mdistiller, "the prefix module.teacher."),
        (with_optimizer, "the file also has optimizer, scheduler, classes"),
        (with_profile, "2 tensors that the network does not use are left out"),
        (before_counters, "no num_batches_tracked"),
        (beside_ema, "those under the key model_ema are left out"),
    ],
)
def test_checkpoints_of_other_programs_are_loaded_whole(
    form: Callable[[State], Any], words: str, state: State, file: Path
) -> None:
    found, notices = loaded(file, form(state))
    assert words in notices and notices.count("weights under") <= 1
    assert all(torch.equal(value, state[name]) for name, value in found.items() if not name.endswith("tracked"))


def test_torchvisions_own_names_fit_the_imagenet_network(file: Path) -> None:
    published = resnet18(num_classes=len(CLASSES)).state_dict()
    for content in (published, {"state_dict": prefixed(published, "module.")}):
        found, notices = loaded(file, content, "resnet18")
        assert same(found, prefixed(published, "model.")) and "names of the network's library" in notices


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_converted_and_said(dtype: torch.dtype, state: State, file: Path) -> None:
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    found, notices = loaded(file, cast)
    assert all(torch.equal(value, cast[name].to(value.dtype)) for name, value in found.items())
    assert f"converted from {str(dtype).removeprefix('torch.')}" in notices


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool, torch.int8, torch.int64, torch.float8_e4m3fn])
def test_weights_of_another_kind_are_refused_by_name(dtype: torch.dtype, state: State, file: Path) -> None:
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=rf"fc\.weight is {name} and the network has float32"):
        loaded(file, state | {"fc.weight": state["fc.weight"].to(dtype)})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, state: State, file: Path) -> None:
    damaged = state["conv1.weight"].clone()
    damaged[0, 0, 0, 0] = value
    with pytest.raises(CheckpointError, match=rf"^{file}: conv1\.weight is not finite: 1 of its 432 values"):
        loaded(file, state | {"conv1.weight": damaged})
    with pytest.raises(CheckpointError, match="bn1.running_var has negative variances"):
        loaded(file, state | {"bn1.running_var": -torch.ones(16)})


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_tensors_without_plain_values_are_refused_by_name(kind: str, state: State, file: Path) -> None:
    value = state["fc.weight"].to_sparse() if kind == "sparse" else state["fc.weight"].to("meta")
    with pytest.raises(CheckpointError, match=r"fc\.weight is no plain tensor"):
        loaded(file, state | {"fc.weight": value})


def test_shapes_are_compared_before_any_value_is_read(state: State, file: Path) -> None:
    huge = torch.ones(1).expand(10**6, 10**6)  # 4 bytes in the file
    torch.save(state | {"fc.weight": huge}, file)
    with pytest.raises(CheckpointError, match=r"fc\.weight is \(1000000, 1000000\) there"):
        load_network(file, "resnet8", CLASSES, torch.device("cpu"))


def test_several_state_dicts_that_fit_are_refused_unless_they_are_equal(state: State, file: Path) -> None:
    changed = {name: value + 1 for name, value in state.items()}
    with pytest.raises(CheckpointError, match="holds 2 state dicts that fit: under the key first and under"):
        loaded(file, {"first": state, "second": changed})
    found, _ = loaded(file, {"first": state, "second": {name: value.clone() for name, value in state.items()}})
    assert same(found, state)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, r"holds no state dict of tensors \(nothing\)"),
        ({"epoch": 3, "acc": 1.5}, r"holds no state dict of tensors \(epoch \(int\), acc \(float\)\)"),
        ({"model": {"a": torch.ones(2), "b": torch.ones(3)}}, r"It has model \(2 entries\); the first tensor is a \(2"),
    ],
)
def test_a_file_without_fitting_weights_says_what_it_holds(content: Any, words: str, file: Path) -> None:
    torch.save(content, file)
    assert_refused(file, words)


def assert_refused(file: Path, words: str) -> None:
    import re

    assert re.search(words, try_networks(file, ["resnet8"], CLASSES).refusals["resnet8"])


def test_extra_tensors_without_a_prefix_are_not_left_out(state: State, file: Path) -> None:
    torch.save(state | {"fc2.weight": torch.ones(2)}, file)
    assert_refused(file, r"1 name is unknown, such as fc2\.weight")


def test_a_safetensors_file_and_a_pickle_of_arrays_are_read(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "teacher.safetensors")
    assert same(loaded(tmp_path / "teacher.safetensors", None)[0], state)
    content = {"model": {name: value.numpy() for name, value in state.items()}, "__author__": "somebody"}
    for protocol in (2, 4, 5):
        (tmp_path / "teacher.pkl").write_bytes(pickle.dumps(content, protocol))
        assert same(loaded(tmp_path / "teacher.pkl", None)[0], state)
