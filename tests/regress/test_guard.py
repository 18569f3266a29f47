"""The guard passes unchanged code, names the methods that compute something else, and says what it cannot compare."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor
from typer.testing import CliRunner

from kdbench import cli
from kdbench.errors import StoreError
from kdbench.methods import kd
from kdbench.methods.base import MethodError
from kdbench.methods.functional import kl_divergence
from kdbench.regress import first_losses
from kdbench.regress.first_losses import FirstLosses, Losses, compute, differences, read, write

SOME = ("classification/none", "classification/kd", "classification/dkd", "classification/akd+cwd", "detection/maskd")
WITH_KD = ("classification/kd", "classification/cwd+kd", "segmentation/kd", "segmentation/skd+kd")
BROKEN = (*WITH_KD, "classification/none", "classification/dkd", "segmentation/skd")
BEFORE: Losses = {"classification/kd": [{"task": 2.0, "kd": 0.5}, {"task": 1.5, "kd": 0.25}]}


def kept(keys: tuple[str, ...]) -> Losses:
    every = read(cli.FIRST_LOSSES)
    return {key: every[key] for key in keys}


def sign_flipped(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return -kl_divergence(student, teacher, temperature)


def temperature_dropped(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return kl_divergence(student, teacher, 1.0)


def square_kept(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return temperature**2 * kl_divergence(student, teacher, 1.0)


def raised(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    raise MethodError("no such thing")


def test_every_kept_method_is_still_computed() -> None:
    kept = read(cli.FIRST_LOSSES)
    assert len(kept) > 70 and kept.keys() <= set(first_losses.keys())


def test_unchanged_code_computes_what_it_did() -> None:
    found = compute(SOME)
    assert (found.failures, differences(kept(SOME), found.losses)) == ([], [])


@pytest.mark.parametrize("form", [sign_flipped, temperature_dropped, square_kept])
def test_a_broken_kd_is_caught_in_every_method_that_has_it_and_in_no_other(
    form: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kd, "kl_divergence", form)
    before, now = kept(BROKEN), compute(BROKEN).losses
    said = differences(before, now)
    assert {line.partition(":")[0] for line in said} == set(WITH_KD), said
    for key in WITH_KD:  # by far more than what is allowed, at the first step already
        was, found = before[key][0]["kd"], now[key][0]["kd"]
        assert abs(found - was) > 50 * first_losses.TOLERANCE * abs(was), key


def test_a_method_that_fails_is_named_and_the_others_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kd, "kl_divergence", raised)
    found = compute(("classification/kd", "classification/none"))
    assert found.failures == ["classification/kd cannot be computed: no such thing"]
    assert list(found.losses) == ["classification/none"]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (BEFORE, []),
        ({}, ["classification/kd is missing: it was there before"]),
        (BEFORE | {"detection/kd": []}, []),
        ({"classification/kd": BEFORE["classification/kd"][:1]}, ["classification/kd has 1 step, not 2"]),
        (
            {"classification/kd": [{"task": 2.0}, {"task": 1.5, "more": 1.0}]},
            [
                "classification/kd: loss term kd is gone at step 1; it was 0.5",
                "classification/kd: loss term more is new at step 2, 1",
            ],
        ),
        (
            {"classification/kd": [{"task": 2.0019, "kd": 0.50049}, {"task": 1.5, "kd": 0.2503}]},
            ["classification/kd: loss term kd changed from 0.25 to 0.2503 at step 2"],
        ),
        (
            {"classification/kd": [{"task": float("nan"), "kd": 0.5}, {"task": 1.5, "kd": 0.25}]},
            ["classification/kd: loss term task changed from 2 to nan at step 1"],
        ),
    ],
)
def test_every_difference_is_one_sentence(now: Losses, said: list[str]) -> None:
    assert differences(BEFORE, now) == said


def test_what_is_kept_is_read_again_and_lies_a_step_a_line(tmp_path: Path) -> None:
    path = tmp_path / "losses.json"
    write({"b/kd": [{"kd": 1 / 3, "a": 2.0}], "a/none": [{"task": 1e-9}]}, path)
    assert path.read_text() == (
        '{\n "a/none": [\n  {"task": 1e-09}\n ],\n "b/kd": [\n  {"a": 2.0, "kd": 0.3333333}\n ]\n}\n'
    )
    assert read(path) == {"a/none": [{"task": 1e-9}], "b/kd": [{"a": 2.0, "kd": 0.3333333}]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("{", "cannot be read as JSON"),
        ("[]", "holds no loss terms"),
        ('{"a/kd": [{"kd": "much"}]}', "holds no loss terms"),
    ],
)
def test_a_file_that_cannot_be_compared_with_is_one_error(content: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "losses.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StoreError, match=f"losses.json: {said}.*`kdbench guard --update` writes it"):
        read(path)


def test_the_command_says_what_moved_and_keeps_what_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "losses.json"
    monkeypatch.setattr(cli, "FIRST_LOSSES", path)

    def guard(losses: Losses, *words: str, failures: tuple[str, ...] = ()) -> tuple[int, str]:
        monkeypatch.setattr(first_losses, "compute", lambda: FirstLosses(losses, [*failures]))
        done = CliRunner().invoke(cli.app, ["guard", *words])
        return done.exit_code, done.stdout

    assert guard(BEFORE, "--update") == (0, "1 method, 2 loss terms: kept\n")
    assert guard(BEFORE) == (0, "1 method, 2 loss terms: unchanged\n")
    new = "detection/kd is new: `kdbench guard --update` keeps its losses\n2 methods, 2 loss terms: unchanged\n"
    assert guard(BEFORE | {"detection/kd": []}) == (0, new)
    assert guard({}) == (1, "classification/kd is missing: it was there before\n")
    assert guard({}, "--update", failures=("a/kd cannot be computed: why",)) == (1, "a/kd cannot be computed: why\n")
    assert read(path) == BEFORE
