"""A wheel of the checkout, unpacked, as an installed package for processes of their own."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("bench", "methods", "datasets", "results", "pyproject.toml", "README.md", "LICENSE")

# By metadata: setuptools takes a search for the module pip for a running pip, and torch.compile then fails.
INSTALLED = {name.lower() for found in importlib.metadata.distributions() if (name := found.metadata["Name"])}

needs_setuptools = pytest.mark.skipif(
    not {"pip", "setuptools"} <= INSTALLED,
    reason="building a wheel without network needs pip and setuptools in this environment",
)


def build_wheel(folder: Path) -> Path:
    """The wheel, in a folder.

    Args:
        folder: that exists.
    """
    source, wheels = folder / "source", folder / "wheels"
    for each in (source, wheels):
        each.mkdir()
    for name in PARTS:
        (source / name).symlink_to(ROOT / name)  # setuptools writes beside pyproject.toml
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(wheels), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [wheel] = wheels.iterdir()
    return wheel


def unpack(wheel: Path, folder: Path) -> Path:
    """The wheel's files in a folder, as pip puts them into site-packages."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(site: Path, folder: Path, *words: str, environment: Mapping[str, str] | None = None) -> str:
    """Run the interpreter with an unpacked wheel in a working folder; returns what it printed on both streams.

    Args:
        site: of the unpacked wheel.
        folder: where it runs.
        words: of the command line.
        environment: variables laid over those of this process, without `KDBENCH_DATA` unless it is given.
    """
    variables = {name: value for name, value in os.environ.items() if name != "KDBENCH_DATA"}
    variables |= {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=variables | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
