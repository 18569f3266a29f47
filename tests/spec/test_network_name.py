"""Names of networks of libraries and of users' files."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.errors import SpecError
from kdbench.spec import network_name
from kdbench.spec.network_name import is_complete, is_outside, parsed, resolve

NET = "from torch import nn\n\ndef build(num_classes, width=4):\n    return nn.Linear(3, num_classes)\n"


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_name, "_files", {})


def write(folder: Path, name: str = "net.py", text: str = NET) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def test_a_name_has_a_source_a_network_and_options_read_as_yaml() -> None:
    name = parsed("timm:vit_tiny:img_size=32:layers=[a.b,c]:drop=1e-1:flag=true: patch_size = 4 ")
    assert (name.source, name.network) == ("timm", "vit_tiny")
    assert name.options == {"img_size": 32, "layers": ["a.b", "c"], "drop": 0.1, "flag": True, "patch_size": 4}
    assert parsed(str(name)) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:", "a name is missing behind timm:"),
        ("timm:vit:32", "write SOURCE:NETWORK:OPTION=VALUE"),
        ("timm:vit:size=", "write SOURCE:NETWORK:OPTION=VALUE"),
        ("timm:vit:size=1:size=2", "size is given twice"),
        ("timm:vit:size=[1", "the value of size is"),
        ("./nowhere/net.py:build", "no such file; a network of your own is FILE.py:FUNCTION"),
        ("./net.py", r"name the function that builds it, as in \./net\.py:build"),
    ],
)
def test_a_name_that_cannot_be_read_says_what_is_missing(name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        resolve(name)


def test_a_file_is_known_under_its_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "nets")
    monkeypatch.chdir(tmp_path)
    assert resolve(f"{path}:build") == resolve("nets/net.py:build") == resolve("./nets/net.py:build") == "net.py:build"
    assert resolve("net.py:build:width=8") == "net.py:build:width=8"
    assert network_name.file_of("net.py:build") == path.resolve()
    assert network_name.file_of("resnet20") is None and not network_name.is_in_file("timm:net.py")


def test_files_that_cannot_be_used_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(SpecError, match=r"net\.py has no function makes; it has build"):
        resolve(f"{path}:makes")
    with pytest.raises(SpecError, match=r"net\.py has networks under the name net\.py already; rename one file"):
        resolve(f"{write(tmp_path / 'other')}:build")
    with pytest.raises(SpecError, match=r"broken\.py:1: cannot be imported: SyntaxError"):
        resolve(f"{write(tmp_path, 'broken.py', 'def')}:build")
    with pytest.raises(SpecError, match=r"ends\.py:1: cannot be imported: SystemExit"):
        resolve(f"{write(tmp_path, 'ends.py', 'raise SystemExit(3)')}:build")
    with pytest.raises(SpecError, match="rename the file with letters"):
        resolve(f"{write(tmp_path, 'a b.py')}:build")


def test_the_code_of_a_file_counts_what_it_computes_and_imports_from_beside(tmp_path: Path) -> None:
    from kdbench.methods import _source

    path = write(tmp_path, text="from parts import WIDTH\n" + NET)
    beside = write(tmp_path, "parts.py", "WIDTH = 4\n")
    assert resolve(f"{path}:build") == "net.py:build"

    def code() -> str | None:
        _source._module.cache_clear()
        return network_name.code("net.py:build")

    first = code()
    path.write_text("# a comment\n" + path.read_text())
    assert code() == first is not None
    beside.write_text("WIDTH = 5\n")
    assert code() not in (first, None)
    assert network_name.code("resnet20") is None


def test_texts_of_libraries_and_files_are_told_from_other_names() -> None:
    outside = ["timm:vit", "torchvision:vit_b_16", "./a/net.py:build", "net.py:build"]
    assert all(map(is_outside, outside)) and all(map(is_complete, outside))
    assert not any(map(is_outside, ["resnet20", "detectron2:COCO-Detection/x", "resnet20=a.pth", "a.pth", "C:/x.pth"]))
    assert is_complete("timm:vit:img_size=32") and not is_complete("timm:vit:img_size")
