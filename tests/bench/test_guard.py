"""A method that is broken on purpose is caught by a comparison with rows of the method as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from bench.comparing.comparison import compare, same
from bench.rows import Row
from bench.run import execute
from methods import kd
from methods.functional import kl_divergence
from tests.bench.pictures import Pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


SURE = 50
"""On the logits of a teacher of three steps, which else are so small that T^2 KL does not depend on T."""


def as_it_is(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return kl_divergence(student, SURE * teacher, temperature)


def sign_flipped(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return -as_it_is(student, teacher, temperature)


def temperature_dropped(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return as_it_is(student, teacher, 1.0)


def square_kept(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return temperature**2 * as_it_is(student, teacher, 1.0)


@pytest.mark.parametrize(
    ("form", "status"), [(as_it_is, 0), (sign_flipped, 1), (temperature_dropped, 1), (square_kept, 1)]
)
def test_a_broken_kd_fails_the_guard(
    form: object, status: int, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(folder: str) -> list[Row]:
        found = execute(pictures.job(tmp_path / folder, pictures.run("none"), pictures.run("kd")), lambda event: None)
        return [row.model_copy(update={"finished": folder}) for row in found]

    monkeypatch.setattr(kd, "kl_divergence", as_it_is)
    base = rows("base")
    monkeypatch.setattr(kd, "kl_divergence", form)
    cells = compare(base, rows("head"))
    assert same(cells) == status
    moved = [cell.run.method for cell in cells if cell.losses.word == "unsure"]
    assert moved == (["kd"] if status else [])
