"""`kdbench list`: every name, on any page, and a method with its options."""

from __future__ import annotations

import re

import pytest

from kdbench import methods, networks
from kdbench.errors import SpecError
from kdbench.methods.base import MethodError
from kdbench.report.listing import KINDS, listing
from kdbench.spec.table import table_names


@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_line_fits_the_page(width: int) -> None:
    assert max(len(line) for line in listing(None, None, width)) <= width


def test_every_kind_lists_its_names() -> None:
    found = {kind: set(re.findall(r"[\w/+]+", " ".join(listing(kind, None, 10_000)))) for kind in KINDS}
    assert {name for name in methods.names() if "+" not in name} <= found["methods"]
    assert set(networks.names()) <= found["networks"]
    assert set(table_names()) <= found["tables"]
    text = " ".join(listing("methods", None, 10_000))
    assert "Around: afd, at, crd, fitnet, kd, rkd, sp, vid." in text


def test_methods_are_under_their_tasks() -> None:
    tasks: dict[str, list[str]] = {}
    for line in listing("methods", None, 10_000):
        if re.fullmatch(r"  \w+", line):
            tasks[line.strip()] = names = []
        elif line.startswith("    "):
            names.append(line.split()[0])
    assert "skd" in tasks["segmentation"] and "skd" not in tasks["classification"]
    assert "maskd" in tasks["detection"] and "crd" in tasks["classification"]


@pytest.mark.parametrize("name", ["dist", "mag+kd", "dist+mimic"])
def test_a_method_is_shown_with_every_option_and_its_default(name: str) -> None:
    lines = list(listing("methods", name, 100))
    options = lines[lines.index("options and their defaults:") + 1 :]
    shown = dict(line.split() for line in options)

    def flat(values: dict[str, object], prefix: str = "") -> dict[str, str]:
        found: dict[str, str] = {}
        for option, value in values.items():
            found |= flat(value, f"{option}.") if isinstance(value, dict) else {prefix + option: str(value)}
        return found

    assert shown == flat(methods.resolve(name, {}))
    assert sum("source: " in line for line in lines) == len(name.split("+"))


@pytest.mark.parametrize(("wrapper", "around"), [("sdd", "around: sdd+dkd, sdd+kd, sdd+nkd"), ("dot", "dot+kd")])
def test_a_wrapper_is_shown_by_itself(wrapper: str, around: str) -> None:
    lines = list(listing("methods", wrapper, 100))
    assert lines[0].startswith(f"{wrapper}: ")
    assert any(around in line for line in lines)
    options = [line.split()[0] for line in lines[lines.index("options and their defaults:") + 1 :]]
    assert options == list(methods.defaults(wrapper))


def test_what_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="Did you mean 'methods'"):
        list(listing("method", None))
    with pytest.raises(MethodError, match="Did you mean 'dist'"):
        list(listing("methods", "dits"))
    with pytest.raises(SpecError, match="only methods are shown one by one"):
        list(listing("networks", "resnet20"))
