"""Methods as the command line takes them: names, files, options and sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.errors import SpecError
from kdbench.spec.choice import MethodChoice, parse_methods, parse_sweeps


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, []),
        ("", []),
        ("kd", [MethodChoice("kd")]),
        ("kd, dist+mimic", [MethodChoice("kd"), MethodChoice("dist+mimic")]),
        ("dist:tau=1:weight=2.5", [MethodChoice("dist", {"tau": 1, "weight": 2.5})]),
        ("dist:tau=1e-1", [MethodChoice("dist", {"tau": 0.1})]),
        ("dkd:warmup=true", [MethodChoice("dkd", {"warmup": True})]),
        ("dist+mimic:dist.tau=2", [MethodChoice("dist+mimic", {"dist": {"tau": 2}})]),
        ("./mine.py", [MethodChoice("mine", {}, Path("mine.py"))]),
        ("/a/b/mine.py:tau=2", [MethodChoice("mine", {"tau": 2}, Path("/a/b/mine.py"))]),
        ("C:\\a\\mine.py:tau=2", [MethodChoice(Path("C:\\a\\mine.py").stem, {"tau": 2}, Path("C:\\a\\mine.py"))]),
        ("kd,sdd+kd:grids='1,2'", [MethodChoice("kd"), MethodChoice("sdd+kd", {"grids": "1,2"})]),
        ('sdd+kd:grids="1,2",kd', [MethodChoice("sdd+kd", {"grids": "1,2"}), MethodChoice("kd")]),
        (["kd", Path("mine.py")], [MethodChoice("kd"), MethodChoice("mine", {}, Path("mine.py"))]),
    ],
)
def test_methods(text: object, expected: list[MethodChoice]) -> None:
    assert list(parse_methods(text)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kd,,dist", "a name is missing between two commas"),
        ("dist:tau", "write METHOD:OPTION=VALUE"),
        ("dist:=1", "write METHOD:OPTION=VALUE"),
        ("dist:tau=", "write METHOD:OPTION=VALUE"),
        ("dist:tau=1:tau=2", "tau is given twice"),
        ("dist:tau={", "the value is"),
    ],
)
def test_wrong_methods_are_one_message(text: str, message: str) -> None:
    with pytest.raises(SpecError, match="--methods") as error:
        parse_methods(text)
    assert message in str(error.value)


def test_a_sweep_has_every_combination() -> None:
    found = parse_sweeps(["dist.tau=1,2", "dist.weight=1.5,2", "kd.temperature=3"])
    assert [choice.method + choice.suffix for choice in found] == [
        "dist:tau=1:weight=1.5",
        "dist:tau=1:weight=2",
        "dist:tau=2:weight=1.5",
        "dist:tau=2:weight=2",
        "kd:temperature=3",
    ]
    assert [each.options["grids"] for each in parse_sweeps("sdd+kd.grids='1,2','1,2,4'")] == ["1,2", "1,2,4"]
    [summand] = parse_sweeps("dist+mimic.dist.tau=1")
    assert summand == MethodChoice("dist+mimic", {"dist": {"tau": 1}})


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["dist.tau"], "write METHOD.OPTION=VALUE,VALUE"),
        (["dist=1,2"], "write METHOD.OPTION=VALUE,VALUE"),
        ([".tau=1"], "write METHOD.OPTION=VALUE,VALUE"),
        (["dist.tau=1", "dist.tau=2"], "is given twice"),
        ([f"dist.a={','.join(map(str, range(40)))}", f"dist.b={','.join(map(str, range(40)))}"], "more than 1000"),
    ],
)
def test_wrong_sweeps_are_one_message(texts: list[str], message: str) -> None:
    with pytest.raises(SpecError, match="--sweep") as error:
        parse_sweeps(texts)
    assert message in str(error.value)
