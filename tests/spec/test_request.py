"""A request is what the command line says; every option is one field."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from kdbench.errors import SpecError
from kdbench.spec.choice import MethodChoice
from kdbench.spec.request import RunRequest, TeacherFile, parse_changes, parse_seeds, takes_request


def request_of(*words: str) -> RunRequest:
    """The request that a command with these words gets."""
    app = typer.Typer()
    requests: list[RunRequest] = []

    @app.command()
    @takes_request
    def command(names: list[str] | None = None, *, request: RunRequest) -> None:
        """Keep the request."""
        requests.append(request)

    done = CliRunner().invoke(app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return requests[0]


def test_without_options_a_request_is_the_default() -> None:
    assert request_of() == RunRequest()


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (("--scale", "mini"), "scale", "mini"),
        (("--seeds", "3"), "seeds", (0, 1, 2)),
        (("--seeds", "0,4"), "seeds", (0, 4)),
        (("--methods", "kd, dist"), "methods", (MethodChoice("kd"), MethodChoice("dist"))),
        (("--data", "mine.npz"), "data", Path("mine.npz")),
        (("--ignore-index", "11"), "ignore_index", 11),
        (("--set", "lr=1e-2", "--set", "teacher.milestones=[1, 2]"), "changes", {"lr": 0.01, "teacher.milestones": [1, 2]}),  # noqa: E501
        (("--teacher", "t.pt"), "teacher", (TeacherFile(None, Path("t.pt")),)),
        (
            ("--teacher", "resnet56=t.pt", "--teacher", "u.pt"),
            "teacher",
            (TeacherFile("resnet56", Path("t.pt")), TeacherFile(None, Path("u.pt"))),
        ),
        (("--pairs", "resnet56->resnet20, a -> b"), "pairs", ("resnet56->resnet20", "a -> b")),
        (("--cohort", "3"), "cohort", 3),
        (("--jobs", "2"), "jobs", 2),
        (("--workers", "0"), "workers", 0),
        (("--device", "cuda:0,cuda:1"), "devices", ("cuda:0", "cuda:1")),
        (("--memory", "1.5"), "memory", 1.5),
        (("--timeout", "2"), "timeout", 2.0),
        (("--equal-cost",), "equal_cost", True),
        (("--results", "elsewhere"), "results", Path("elsewhere")),
        (("--explain",), "explain", True),
    ],
)  # fmt: skip
def test_an_option_sets_its_field_and_no_other(words: tuple[str, ...], field: str, value: Any) -> None:
    assert request_of(*words) == dataclasses.replace(RunRequest(), **{field: value})


def test_every_field_but_the_environments_is_an_option() -> None:
    options = {parameter.name for parameter in RunRequest.parameters()}
    assert {field.name for field in dataclasses.fields(RunRequest)} - options == {"data_root", "reading"}
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in RunRequest.parameters())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--scale", "huge"), "unknown scale: 'huge'"),
        (("--seeds", "many"), "--seeds many: give how many"),
        (("--seeds", "0,-1"), "--seeds 0,-1: give how many"),
        (("--set", "lr"), "--set lr: write FIELD=VALUE"),
        (("--set", "lr=[1"), r"--set lr=\[1: the value is not valid YAML"),
        (("--set", "lr=1:30"), "--set lr=1:30: the value is line 1: 1:30 would be read as a number to base 60"),
        (("--set", "lr=1:30.5"), "1:30.5 would be read as a number to base 60"),
        (("--set", "image.padding=010"), "010 would be read to base 8; write it without leading zeros"),
        (("--set", "milestones=[1, 010]"), "010 would be read to base 8"),
        (("--set", "image.padding=2020-01-01"), "2020-01-01 would be read as a date"),
    ],
)
def test_what_cannot_be_read_is_one_error_that_names_the_option(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        request_of(*words)


def test_values_are_yaml_and_numbers_may_be_written_as_people_do() -> None:
    assert parse_changes(["lr=1e-2", "nesterov=true", "init=random"]) == {
        "lr": 0.01,
        "nesterov": True,
        "init": "random",
    }
    assert parse_changes(["a=0", "b=-0.5", "c=007x", "d=1_000", "e='1:30'"]) == {
        **{"a": 0, "b": -0.5, "c": "007x", "d": 1000, "e": "1:30"},
    }
    assert parse_changes(None) == {}
    assert parse_seeds(None) is None
