"""The hash of a method's source: what changes it, and what does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kdbench import methods
from kdbench.methods._source import FOLDER, _module, source_hash


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for file in FOLDER.glob("*.py"):
        shutil.copy(file, tmp_path)
    return tmp_path


def changed(folder: Path, file: str, old: str, new: str) -> None:
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    _module.cache_clear()


def test_a_flipped_sign_changes_the_code_of_the_method_and_of_what_imports_it(folder: Path) -> None:
    (folder / "one.py").write_text('"""A loss."""\nfrom .two import square\n\n\ndef loss(x):\n    return -square(x)\n')
    (folder / "two.py").write_text('def square(x):\n    """x squared."""\n    return x * x  # of course\n')
    (folder / "three.py").write_text("from . import two\nfrom torch import nn\n")
    before = {name: source_hash((name,), folder=folder) for name in ("one", "two", "three", "kd")}
    assert len(set(before.values())) == 4
    changed(folder, "one.py", "-square", "square")
    assert source_hash(("one",), folder=folder) != before["one"]
    changed(folder, "two.py", "x * x", "x + x")
    after = {name: source_hash((name,), folder=folder) for name in before}
    assert [name for name in before if before[name] == after[name]] == ["kd"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from __future__", "# a comment\nfrom __future__"),
        ('"""', '"""Another docstring. '),
        ("\n\n\n", "\n\n\n\n\n"),
        ("import annotations\n", "import annotations  # noqa\n"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(old: str, new: str, folder: Path) -> None:
    _module.cache_clear()
    before = source_hash(("kd",), folder=folder)
    for file in ("kd.py", "base.py"):
        changed(folder, file, old, new)
    assert source_hash(("kd",), folder=folder) == before


def test_the_base_of_all_methods_counts_for_each(folder: Path) -> None:
    _module.cache_clear()
    before = source_hash(("none",), folder=folder)
    changed(folder, "base.py", "import annotations\n", "import annotations\n\nX = 1\n")
    assert source_hash(("none",), folder=folder) != before


def test_every_method_has_code_and_sums_have_that_of_their_terms() -> None:
    codes = {name: methods.code(name) for name in methods.names()}
    assert all(code and len(code) == 16 for code in codes.values())
    assert len({codes["kd"], codes["cwd"], codes["cwd+kd"]}) == 3
    assert methods.code("of_yesterday") is None
