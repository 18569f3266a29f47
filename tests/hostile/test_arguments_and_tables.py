"""Arguments, tables and reported numbers, and what is no file in place of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kdbench.spec.reported import Reported
from tests.helpers.hostile import DEEP, DIGITS, EXPLAIN, SPECIAL, assert_refused, command

pytestmark = pytest.mark.timeout(300)  # an input that hangs is a fault

# Arguments

ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "unknown table": (["run", "dist/cifar10"], "dist/cifar100"),
    "long table": (["run", "x" * 5000], "File name too long"),
    "path out": (["run", "../../../etc/passwd"], "../../../etc/passwd"),
    "no folder": (["run", "nowhere/my.yaml"], "nowhere/my.yaml"),
    "long path": (["run", f"{'x' * 5000}.yaml"], "File name too long"),
    "scale": (["run", "dist/cifar100", "--scale", "huge"], "huge"),
    "seeds": (["run", "dist/cifar100", "--seeds", "1000000"], "1000000"),
    "seeds word": (["run", "dist/cifar100", "--seeds", "three"], "three"),
    "seeds twice": (["run", "dist/cifar100", "--seeds", "1,1"], "each seed once"),
    "seeds digits": (["run", "dist/cifar100", "--seeds", DIGITS], "nine digits"),
    "timeout": (["run", "dist/cifar100", "--timeout", "inf"], "--timeout"),
    "memory": (["run", "dist/cifar100", "--memory", "inf"], "--memory"),
    "methods": (["run", "dist/cifar100", "--methods", "dsit"], "dist"),
    "device": (["run", "dist/cifar100", "--device", "gpu"], "gpu"),
    "data": (["run", "dist/cifar100", "--data", "nowhere"], "nowhere"),
    "data twice long": (["run", "dist/cifar100", "--data", "x" * 5000], "x"),
    "teacher": (["run", "dist/cifar100", "--teacher", "nowhere.pt"], "nowhere.pt"),
    "results": (
        ["run", "dist/cifar100", "--scale", "mini", "--results", "/dev/null"],
        "/dev/null",
    ),
    "undecodable": (["table", "data-\udce9"], "is not text"),
    "escape": (["table", "\x1b[31mdist"], "\\x1b[31mdist"),
    "set": (["run", "dist/cifar100", "--scale", "mini", "--set", "lr"], "FIELD=VALUE"),
    "set field": (["run", "dist/cifar100", "--scale", "mini", "--set", "epoch=1"], "epochs"),
    "set twice": (["run", "dist/cifar100", "--scale", "mini", "--set", "lr=1", "--set", "lr=2"], "twice"),
}
ARGUMENTS |= {
    f"set lr={value[:12]}": (["run", "dist/cifar100", *EXPLAIN, "--set", f"lr={value}"], "lr")
    for value in ("nan", ".inf", "-1", "x", "[[", "{a: 1", "null", DIGITS, DEEP, "&a [*a]", "2020-99-99", "!!binary a")
}
ARGUMENTS |= {
    f"set epochs={value[:12]}": (["run", "dist/cifar100", *EXPLAIN, "--set", f"epochs={value}"], "epochs")
    for value in ("1.5", "1e30", "-1", "'3'", "true", "[1]", str(10**30))
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str, tmp_path: Path, embedded_data: Path) -> None:
    words, expected = ARGUMENTS[name]
    assert_refused(command(tmp_path, embedded_data, *words), expected)


# Tables and reported numbers

TABLE: dict[str, Any] = {
    "paper": "mine",
    "title": "A table",
    "citation": "none",
    "task": "classification",
    "dataset": {"full": "cifar100", "mini": "digits"},
    "data_size": {"train_images": 50000, "val_images": 10000, "classes": 100},
    "metric": "top1",
    "recipe": {"full": "cifar_240", "mini": "cifar_mini"},
    "teacher_recipe": {"full": "cifar_240", "mini": "cifar_mini"},
    "pairs": [{"teacher": "resnet56", "student": "resnet20", "mini": {"teacher": "resnet20", "student": "resnet8"}}],
    "methods": [{"method": "none"}, {"method": "kd", "options": {"temperature": 4.0}}],
}
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


def with_values(**values: Any) -> str:
    return yaml.safe_dump(TABLE | values)


def with_kd(**options: Any) -> str:
    return with_values(methods=[{"method": "none"}, {"method": "kd", "options": options}])


TABLES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "mapping"),
    "binary": (b"\xff\xfe\x00", "UTF-8"),
    "nul": (b"a: \x00", "not valid YAML"),
    "list": ("- 1", "mapping"),
    "twice": (with_values() + "task: detection\n", "second time"),
    "bomb": (BOMB, "values"),
    "deep": (DEEP, "levels deep"),
    "digits": (f"seeds: [{DIGITS}]", "no plain data"),
    "circle": ("pairs: &a [*a]", "contains itself"),
    "object": ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
    "date": (with_values() + "title2: 2020-01-01", "would be read as a date"),
    "unknown key": (with_values(metod="x"), "metod"),
    "type": (with_values(seeds="0"), "seeds"),
    "task": (with_values(task="clasification"), "classification"),
    "metric": (with_values(metric="top2"), "top1"),
    "dataset": (with_values(dataset={"full": "cifar1000", "mini": "digits"}), "cifar100"),
    "recipe": (with_values(recipe={"full": "cifar_240", "mini": "../../x"}), "../../x"),
    "network": (with_values(pairs=[TABLE["pairs"][0] | {"mini": {"teacher": "resnet21", "student": "x"}}]), "resnet2"),
    "method": (with_values(methods=[{"method": "none"}, {"method": "kdd"}]), "kd"),
    "option": (with_kd(temprature=1), "temperature"),
    "value": (with_kd(temperature=[1]), "temperature"),
    "infinite": (with_kd(temperature=float("inf")), "temperature"),
    "reported": (with_values(reported=[{"file": "nowhere", "table": "x"}]), "nowhere"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str, tmp_path: Path, embedded_data: Path) -> None:
    content, expected = TABLES[name]
    (tmp_path / "mine.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused(command(tmp_path, embedded_data, "run", "mine.yaml", *EXPLAIN), expected)


COLUMNS = ",".join(Reported.model_fields)
LINE = "mine,t,cifar100,,a,70,b,60,kd,top1,71,0.1,last,p. 1,primary,"
NUMBERS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "columns"),
    "columns": ("a,b\n", "columns"),
    "binary": (b"\xff\xfe", "UTF-8"),
    "fields": (f"{COLUMNS}\nmine,t\n", "fields"),
    "not a number": (f"{COLUMNS}\n{LINE.replace('0.1', 'nan')}\n", "std"),
    "above 100": (f"{COLUMNS}\n{LINE.replace(',71,', ',171,')}\n", "value"),
    "quote": (f'{COLUMNS}\n"{LINE}\n', "n.csv"),
    "long field": (f"{COLUMNS}\n{LINE}{'x' * 200_000}\n", "n.csv"),
    "twice": (f"{COLUMNS}\n{LINE}\n{LINE}\n", "repeats line 2"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_reported_numbers(name: str, tmp_path: Path, embedded_data: Path) -> None:
    content, expected = NUMBERS[name]
    (tmp_path / "n.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "mine.yaml").write_text(with_values(reported=[{"file": "n.csv", "table": "t"}]))
    assert_refused(command(tmp_path, embedded_data, "table", "mine.yaml"), "n.csv", expected)


PLACES = {
    "table": ("mine.yaml", ["table", "mine.yaml"]),
    "arrays": ("mine.npz", ["run", "dist/cifar100", *EXPLAIN, "--data", "mine.npz"]),
    "teacher": ("t.pt", ["run", "dist/cifar100", *EXPLAIN, "--methods", "kd", "--teacher", "t.pt"]),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file(place: str, kind: str, tmp_path: Path, embedded_data: Path) -> None:
    name, words = PLACES[place]
    SPECIAL[kind](tmp_path / name)
    assert_refused(command(tmp_path, embedded_data, *words), name)
