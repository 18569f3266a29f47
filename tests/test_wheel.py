"""The package as it is installed: what a wheel holds, and that its commands work in any folder."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

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
    "results/reported/*.csv",
    "results/reruns/*.csv",
    "results/weights/*.json",
)

needs_setuptools = pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None,
    reason="building a wheel without network needs pip and setuptools in this environment",
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
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in ("bench", "methods", "datasets", "results", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)  # setuptools writes beside pyproject.toml
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(wheels), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [wheel] = wheels.iterdir()
    assert wheel.name.startswith(f"kdbench-{PROJECT['project']['version']}-")
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


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
    environment = dict(os.environ, PYTHONPATH=str(unpacked), PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    environment.pop("KDBENCH_DATA", None)

    def python(*words: str) -> str:
        line = [sys.executable, *words]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kdbench(*words: str) -> str:
        return python("-m", "kdbench", *words)

    assert kdbench("--version") == f"kdbench {PROJECT['project']['version']}\n"
    assert "dist/cifar100" in kdbench("list", "tables")
    assert "wrong" not in kdbench("check", "--data", str(digits_path))
    assert python("-c", EMBEDDED).splitlines() == ["digits 10 2"] * 3
    assert "wrn_40_2 -> wrn_40_1" in kdbench("table", "dist/cifar100", "--scale", "full")
    assert list((tmp_path / "results" / "tables").glob("*.csv"))
    assert content(unpacked) == before
