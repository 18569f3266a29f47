"""The guide to readings: its network family, and that every reading says so where methods are listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kdbench import methods, networks
from kdbench.records import checkpoint
from tests.helpers.pages import PAGES, block
from tests.helpers.tensors import equal

READINGS = ("bdkd", "bpkd", "cmkd", "dual_students", "ekd", "sftn")


def test_the_family_of_a_second_teacher_starts_from_the_first_students_weights(tmp_path: Path) -> None:
    example = block("docs/readings.md", "STUDENTS = ")
    small = {"results/runs/RUN/student.pt": str(tmp_path / "student.pt"), "retinanet_r50_fpn": "retinanet_mini_student"}
    for text, replacement in small.items():
        assert text in example
        example = example.replace(text, replacement)
    torch.manual_seed(0)
    first = networks.build("retinanet_mini_student", 3)
    checkpoint.write(tmp_path / "student.pt", {"state": first.state_dict()})
    defined: dict[str, Any] = {}
    exec(example, defined)
    family = defined["FAMILY"]
    (name,) = family.names()
    assert isinstance(family, networks.Family) and family.head(name) == "retinanet"
    torch.manual_seed(1)
    assert equal(family.build(name, 3, "published").state_dict(), first.state_dict())
    assert not equal(family.build(name, 3).state_dict(), first.state_dict())


def test_every_reading_says_so_and_is_on_the_page() -> None:
    page = PAGES["docs/readings.md"].read_text()
    for name in READINGS:
        assert f"| `{name}` |" in page
        assert "reading" in str(methods.method_class(name).__doc__)
