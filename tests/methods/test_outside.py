"""Methods in users' files and installed packages: found, built, hashed, and refused in words."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdbench import methods
from kdbench.methods import _outside, _source
from kdbench.methods.base import MethodError
from tests.helpers.user_methods import METHOD


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What one test registers, no other sees."""
    monkeypatch.setattr(_outside, "_files", {})
    yield
    _outside._declared_by_packages.cache_clear()
    methods._parameters.cache_clear()


def write(folder: Path, name: str, text: str = METHOD) -> Path:
    file = folder / f"{name}.py"
    file.write_text(text.format(name=name) if text is METHOD else text)
    return file


def test_a_users_method_is_known_built_and_hashed(tmp_path: Path) -> None:
    assert methods.register(write(tmp_path, "own1")) == "own1"
    assert "own1" in methods.names() and methods.known("own1")
    assert methods.resolve("own1", {"tau": 2}) == {"tau": 2.0}
    assert methods.teacher_mode("own1", {"tau": 2.0}) == "frozen"
    assert methods.files("own1") == (tmp_path / "own1.py",)
    assert methods.register(tmp_path / "own1.py") == "own1", "twice is once"
    assert methods.code("own1") is not None
    assert methods.resolve("own1+kd", {"own1": {"tau": 3}})["own1"] == {"tau": 3.0}


def test_its_code_is_that_of_the_file_and_of_what_it_imports(tmp_path: Path) -> None:
    write(tmp_path, "helping", "FACTOR = 2.0\n")
    text = METHOD.format(name="own2").replace("from torch", "from helping import FACTOR\nfrom torch")
    file = write(tmp_path, "own2", text)
    methods.register(file)

    def code() -> str | None:
        _source._module.cache_clear()
        return methods.code("own2")

    before = code()
    file.write_text("# a comment\n" + text)
    assert code() == before
    file.write_text(text.replace("mse_loss", "l1_loss"))
    assert code() != before
    file.write_text(text)
    write(tmp_path, "helping", "FACTOR = 3.0\n")
    assert code() != before


def test_its_code_holds_the_shipped_method_that_it_builds_on(tmp_path: Path) -> None:
    alone = write(tmp_path, "own3")
    above = write(tmp_path, "own4", "from kdbench.methods.kd import KD\n" + METHOD.format(name="own4"))
    assert _source.source_hash((), (above,)) != _source.source_hash((), (alone,))
    assert set(_source._outside((above,), {})) == {"base", "kd"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone", None, "no such file"),
        ("two words", METHOD, "rename the file"),
        ("kd", METHOD, "there is a method kd already"),
        ("broken", "def f(:\n", "broken.py:1: cannot be imported: SyntaxError"),
        ("raises", "x = 1\ny = x / 0\n", "raises.py:2: cannot be imported: ZeroDivisionError"),
        ("imports", "import not_installed_anywhere\n", "imports.py:1: cannot be imported: ModuleNotFoundError"),
        ("ends", "raise SystemExit(0)\n", "ends.py:1: cannot be imported: SystemExit"),
        ("empty", "x = 1\n", "defines no subclass of kdbench.methods.base.Method with name = 'empty'"),
        ("other", METHOD.format(name="another"), "Mine has name = 'another'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(
    name: str, text: str | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / f"{name}.py"
    if text is not None:
        write(tmp_path, name, text)
    with pytest.raises(MethodError) as error:
        methods.register(file)
    assert str(file) in str(error.value) and message in str(error.value)
    assert name == "kd" or name not in methods.names()


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    methods.register(write(tmp_path, "own5"))
    with pytest.raises(MethodError, match="rename one of them"):
        methods.register(write(tmp_path / "a", "own5"))


def test_a_package_declares_its_methods_by_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "packed", METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    points = [importlib.metadata.EntryPoint("packed", "packed:Mine", "kdbench.methods")]
    monkeypatch.setattr(_outside, "entry_points", lambda group: points if group == "kdbench.methods" else [])
    _outside._declared_by_packages.cache_clear()
    assert "packed" in methods.names()
    assert methods.resolve("packed", {}) == {"tau": 1.0}
    assert methods.code("packed") is not None
    points[0] = importlib.metadata.EntryPoint("wrong", "packed:Setting", "kdbench.methods")
    _outside._declared_by_packages.cache_clear()
    with pytest.raises(MethodError, match="packed:Setting: is no subclass"):
        methods.method_class("wrong")
