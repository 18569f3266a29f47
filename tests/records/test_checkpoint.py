"""Checkpoint files: what was written comes back, and nothing else is believed or run."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdbench import networks
from kdbench.errors import CheckpointError, StoreError
from kdbench.records import checkpoint as checkpoints

CONTENT = {
    "state": {"weight": torch.arange(600.0).reshape(20, 30), "count": torch.tensor(3)},
    "epoch": 2,
    "history": [{"lr": 0.1, "name": "é", "none": None}],
    "done": True,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "some.pt"
    checkpoints.write(path, CONTENT)
    return path


def test_what_was_written_comes_back_with_the_sha256_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "some.pt"
    digest = checkpoints.write(path, CONTENT)
    assert digest == checkpoints.sha256(path) and len(digest) == 64
    content = checkpoints.read(path)
    assert torch.equal(content["state"].pop("weight"), CONTENT["state"]["weight"])  # type: ignore[index]
    assert content == CONTENT | {"state": {"count": torch.tensor(3)}}


def test_equal_contents_make_equal_files(tmp_path: Path) -> None:
    assert checkpoints.write(tmp_path / "a.pt", CONTENT) == checkpoints.write(tmp_path / "b.pt", CONTENT)
    assert checkpoints.write(tmp_path / "b.pt", CONTENT | {"epoch": 3}) != checkpoints.sha256(tmp_path / "a.pt")


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=rf"cannot write {file}.*free some space"):
        checkpoints.write(file, CONTENT | {"epoch": 3})
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("part", [0, 1, 3, 10, 0.1, 0.5, 0.9, 0.99, -1])
def test_a_truncated_file_is_refused_and_named(part: float, file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole)) if 0 < part < 1 else int(part)])
    with pytest.raises(CheckpointError, match=rf"^{file} is (truncated|damaged)"):
        checkpoints.read(file)


@pytest.mark.parametrize("content", [b"hello", b"<html>404</html>", b"\x80\x02", b"\x00" * 1000, b"PK\x03\x04", b"\n"])
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{path} is "):
        checkpoints.read(path)


def test_damage_anywhere_is_refused_or_harmless_and_never_another_error(file: Path) -> None:
    whole, draw, refused = file.read_bytes(), random.Random(0), 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 20))):
            damaged[draw.randrange(len(whole))] = draw.randrange(256)
        file.write_bytes(bytes(damaged))
        try:
            checkpoints.read(file)
        except CheckpointError:
            refused += 1
    assert refused > 30


def test_random_pickles_are_refused_and_never_another_error(tmp_path: Path) -> None:
    path, draw, refused = tmp_path / "some.pt", random.Random(1), 0
    opcodes = b"(.0123NSVX]}asuebdhjqrtlcRoI\x80\x81\x85\x86\x87\x88\x89\x8aK\x94\x95"
    for _ in range(400):
        path.write_bytes(b"\x80\x02" + bytes(draw.choice(opcodes) for _ in range(draw.randrange(1, 12))) + b".")
        try:
            assert checkpoints.read(path) == {}  # of the empty dict, which a few of them are
        except CheckpointError:
            refused += 1
    assert refused > 350


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_of_arrays_is_read_as_tensors(tmp_path: Path) -> None:
    path, weight = tmp_path / "model_final.pkl", torch.arange(6.0).reshape(2, 3)
    written = pickle.dumps({"model": {"weight": weight.numpy()}, "__author__": "somebody"}, protocol=2)
    path.write_bytes(written.replace(b"numpy._core", b"numpy.core"))  # as numpy 1 called it, and the zoo's files do
    content = checkpoints.read(path)
    assert content["__author__"] == "somebody" and torch.equal(content["model"]["weight"], weight)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=f"^{path} is (truncated|damaged)"):
        checkpoints.read(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("numpy.save", "holds objects beside tensors"),
        ("numpy.f2py.main", "holds objects beside tensors"),
        ("numpy.f2py._reconstruct", "holds objects beside tensors"),
        ("numpy.core.multiarray.frombuffer", "holds objects beside tensors"),
        ("collections.Counter", "holds objects beside tensors"),
        ("os.mkdir", "could do harm; it was not run"),
        ("builtins.eval", "could do harm; it was not run"),
    ],
)
def test_a_pickle_that_names_anything_but_arrays_is_refused(name: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model_final.pkl"
    module, function = name.rsplit(".", 1)
    path.write_bytes(f"c{module}\n{function}\n(S'made'\nI1\ntR.".encode())
    with pytest.raises(CheckpointError) as caught:
        checkpoints.read(path)
    assert str(caught.value).startswith(f"{path} holds ") and name in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle", "inside"])
def test_a_pickle_payload_is_refused_and_does_not_run(form: str, tmp_path: Path) -> None:
    path, made = tmp_path / "some.pt", tmp_path / "made"
    payload = Payload(made)
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(payload))
    elif form == "inside":
        torch.save({"state": {"weight": torch.zeros(2)}, "note": payload}, path)
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=f"^{path} holds posix.mkdir, .* it was not run"):
        checkpoints.read(path)
    assert not made.exists()
    torch.load(path, weights_only=False) if form != "bare pickle" else pickle.loads(path.read_bytes())  # noqa: S301
    assert made.exists()  # it would have


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), "text", None, 3])
def test_a_file_that_holds_no_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "some.pt")
    with pytest.raises(CheckpointError, match=f"holds a {type(content).__name__}, not a dict; save a state dict"):
        checkpoints.read(tmp_path / "some.pt")


def test_a_whole_network_is_refused_by_name_with_the_line_that_saves_its_state_dict(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "some.pt")
    with pytest.raises(
        CheckpointError, match=r"Linear\) and was not loaded.* save the state dict alone .*c\['model'\]"
    ):
        checkpoints.read(tmp_path / "some.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "some.pt")
    with pytest.raises(CheckpointError, match=r"c\.state_dict\(\)"):
        checkpoints.read(tmp_path / "some.pt")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt does not exist"):
        checkpoints.read(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=f"^{tmp_path} cannot be used: is a folder"):
        checkpoints.read(tmp_path)


def test_a_file_in_the_old_format_is_read(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert checkpoints.read(tmp_path / "old.pt")["epoch"] == 2


def a_network(inputs: int = 4, outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs))


def test_a_state_that_fits_is_loaded_whole() -> None:
    source, target = a_network(), a_network()
    source(torch.randn(5, 4))  # moves the running statistics
    checkpoints.load_strictly(target, source.state_dict(), Path("some.pt"))
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("0.bias"), r"1 name is missing \(such as \['0\.bias'\]\) and 0 are unknown"),
        (lambda s: s.update(head=torch.zeros(1)), r"0 names are missing .* and 1 is unknown \(such as \['head'\]\)"),
        (lambda s: s.update(o=s.pop("0.bias")), r"1 name is missing .*0\.bias.* 1 is unknown \(such as \['o'\]\)"),
        (
            lambda s: s.update({"0.weight": torch.zeros(5, 4)}),
            r"0\.weight is \(5, 4\) there and \(3, 4\) here \(1 such\)",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change: Any, words: str) -> None:
    target = a_network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = a_network().state_dict()
    change(state)
    with pytest.raises(CheckpointError, match=rf"^some\.pt .*{words}"):
        checkpoints.load_strictly(target, state, Path("some.pt"))
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_a_detector_for_other_classes_is_refused_in_words() -> None:
    state = networks.build("fcos_mini_student", 7).state_dict()
    with pytest.raises(CheckpointError, match=r"\(7\b.*\(10\b.*made for another number of classes"):
        checkpoints.load_strictly(networks.build("fcos_mini_student", 10), state, Path("some.pt"))


def test_a_detector_of_another_family_is_refused_in_words() -> None:
    state = networks.build("retinanet_mini_student", 10).state_dict()
    with pytest.raises(CheckpointError, match="is another network's"):
        checkpoints.load_strictly(networks.build("fcos_mini_student", 10), state, Path("some.pt"))
