"""The package as it is installed: what a wheel holds, and that its commands work in any folder."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.helpers.wheel import build_wheel, needs_setuptools, python, unpack

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPING = {"bench": "kdbench", "methods": "kdbench/methods", "datasets": "kdbench/datasets"}
EMBEDDED = """
from pathlib import Path
from kdbench import datasets
for opened in (datasets.open_coco, datasets.open_images, datasets.open_masks):
    data = opened("digits", Path("data"), train=10, val=2)
    print(data.name, len(data.train), len(data.val))
"""
DATA = (
    "bench/tables/**/*.yaml",
    "bench/recipes/*.yaml",
    "bench/report/html/templates/*",
    "bench/report/html/static/*",
    "results/reported/*.csv",
    "results/reruns/*.csv",
    "results/weights/*.json",
)


def expected(patterns: tuple[str, ...]) -> set[str]:
    """Paths in a wheel of the files of the checkout that match."""
    places = MAPPING | {"results": "kdbench/results"}
    paths = [path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)]
    return {places[path.split("/")[0]] + path[path.index("/") :] for path in paths}


def test_every_folder_with_modules_is_a_package_of_the_project() -> None:
    modules = expected(tuple(f"{folder}/**/*.py" for folder in MAPPING))
    folders = {str(Path(path).parent).replace("/", ".") for path in modules}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders | {"kdbench.results"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the checkout, unpacked."""
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    assert wheel.name.startswith(f"kdbench-{PROJECT['project']['version']}-")
    return unpack(wheel, tmp_path_factory.mktemp("site"))


def content(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@needs_setuptools
def test_a_wheel_holds_every_module_and_data_file(unpacked: Path) -> None:
    assert {path.name.split("-")[0] for path in unpacked.iterdir()} == {"kdbench"}
    wanted = expected((*DATA, *(f"{folder}/**/*.py" for folder in MAPPING), "bench/py.typed", "results/__init__.py"))
    assert len(wanted) > 200
    assert wanted <= content(unpacked)


@needs_setuptools
def test_commands_of_a_wheel_work_in_an_empty_folder_and_write_there_alone(
    unpacked: Path, tmp_path: Path, digits_path: Path
) -> None:
    before = content(unpacked)

    def kdbench(*words: str) -> str:
        return python(unpacked, tmp_path, "-m", "kdbench", *words)

    assert kdbench("--version") == f"kdbench {PROJECT['project']['version']}\n"
    assert "dist/cifar100" in kdbench("list", "tables")
    assert "wrong" not in kdbench("check", "--data", str(digits_path))
    assert python(unpacked, tmp_path, "-c", EMBEDDED).splitlines() == ["digits 10 2"] * 3
    assert "wrn_40_2 -> wrn_40_1" in kdbench("table", "dist/cifar100", "--scale", "full")
    assert list((tmp_path / "results" / "tables").glob("*.csv"))
    assert content(unpacked) == before
