"""The benchmarks run, are saved, and are set beside what was saved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(chosen: str, saved: Path, files: str = "tests/perf") -> list[str]:
    """What a quick run of the chosen benchmarks prints."""
    command = [sys.executable, "-m", "pytest", files, "--quick", "--device", "cpu", "-k", chosen]
    command += ["--benchmark-autosave", "--saved", str(saved), "-p", "no:cacheprovider"]
    # In a process of pytest-xdist, benchmarks would not be timed.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_quick_benchmarks_are_saved_and_set_beside_the_run_before(tmp_path: Path) -> None:
    first = bench("start_of_the_command or cifar-mini-rkd", tmp_path)
    second = bench("start_of_the_command", tmp_path, "tests/perf/test_tables.py")
    shown = [next(line for line in lines if "start_of_the_command" in line) for lines in (first, second)]
    before = shown[0].split("median")[1].split()[:2]
    assert shown[0].split()[-2:] == ["-", "-"] and shown[1].split()[-3:-1] == before
    files = sorted(tmp_path.rglob("*.json"))
    assert len(files) == 2 and len({file.parent for file in files}) == 1
    content = json.loads(files[0].read_text())
    assert {one["name"] for one in content["benchmarks"]} == {"test_step[cifar-mini-rkd]", "test_start_of_the_command"}
    assert content["machine_info"].keys() >= {"machine", "threads", "commit", "libraries"}
    step = next(one for one in content["benchmarks"] if one["name"] == "test_step[cifar-mini-rkd]")["extra_info"]
    assert step["figures"]["x none"]["rounds"] == 2 and set(step["seconds"]) == {"own", "none"}
