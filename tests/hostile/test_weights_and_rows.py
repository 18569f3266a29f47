"""Weights and rows, through the command line."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.hostile import DEEP, DIGITS, EXPLAIN, SPECIAL, Make, assert_refused, command

pytestmark = pytest.mark.timeout(300)  # an input that hangs is a fault

# Weights


class Command:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch unpickled",)


def weights(change: Callable[[torch.Tensor], Any]) -> Make:
    """A checkpoint of resnet20 with its first tensor changed."""

    def make(path: Path) -> None:
        from kdbench import networks

        state = networks.build("resnet20", 10).state_dict()
        first = next(iter(state))
        torch.save(state | {first: change(state[first])}, path)

    return make


def bomb_of_zeros(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(64 * 2**20))
        archive.writestr("archive/version", "3")


def truncated(path: Path) -> None:
    weights(lambda tensor: tensor)(path)
    path.write_bytes(path.read_bytes()[:-2000])


WEIGHTS: dict[str, Make] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>404</html>"),
    "truncated": truncated,
    "bomb": bomb_of_zeros,
    "command": lambda path: path.write_bytes(pickle.dumps(Command())),
    "command in zip": lambda path: torch.save({"state_dict": Command()}, path),
    "nothing": lambda path: torch.save({}, path),
    "list": lambda path: torch.save([1, 2], path),
    "nan": weights(lambda tensor: tensor * float("nan")),
    "infinite": weights(lambda tensor: tensor + float("inf")),
    "complex": weights(lambda tensor: tensor.to(torch.complex64)),
    "bool": weights(lambda tensor: tensor > 0),
    "int8": weights(lambda tensor: tensor.to(torch.int8)),
    "shape": weights(lambda tensor: tensor[:1]),
    "no tensor": weights(lambda tensor: "weights"),
}


@pytest.mark.filterwarnings("ignore:Casting complex")
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name: str, tmp_path: Path, embedded_data: Path) -> None:
    WEIGHTS[name](tmp_path / "t.pt")
    words = ["run", "dist/cifar100", *EXPLAIN, "--methods", "kd", "--teacher", "t.pt"]
    assert_refused(command(tmp_path, embedded_data, *words), "t.pt")
    assert not (tmp_path / "unpickled").exists()


# Rows

ROWS: dict[str, Make] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no row"),
    "binary": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "deep": lambda path: path.write_text(DEEP),
    "digits": lambda path: path.write_text(f'{{"id": {DIGITS}}}'),
    "null": lambda path: path.write_text("null"),
    "escape": lambda path: path.write_text('{"\\u001b[31m": 1}'),
    **SPECIAL,
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("verb", [["table", "dist/cifar100"], ["check"]], ids=["table", "check"])
@pytest.mark.usefixtures("no_shipped_tables")
def test_rows(name: str, verb: list[str], tmp_path: Path, embedded_data: Path) -> None:
    folder = tmp_path / "runs" / "0123456789abcdef"
    folder.mkdir(parents=True)
    ROWS[name](folder / "row.json")
    done = command(tmp_path, embedded_data, *verb, "--results", "runs")
    assert done.returncode == (1 if verb == ["check"] else 0) and "Traceback" not in done.stderr, done.stderr
    assert "0123456789abcdef/row.json" in done.stdout.replace("\n", "")
    assert "\x1b[31m" not in done.stdout
