"""What the README shows works as it stands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(first: str) -> str:
    """The fenced block that holds `first`."""
    found = [text for text in re.findall(r"```(?:python)?\n(.*?)```", README, flags=re.S) if first in text]
    assert len(found) == 1, f"{len(found)} blocks hold {first!r}"
    return str(found[0])


def test_the_example_method_is_complete_and_passes_the_contract_tests(tmp_path: Path) -> None:
    example = block("# methods/huber.py")
    assert len(example.splitlines()) < 30
    package = tmp_path / "kdbench"
    package.mkdir()
    for path in (*(ROOT / "bench").iterdir(), ROOT / "datasets", ROOT / "results"):
        (package / path.name).symlink_to(path)
    shutil.copytree(ROOT / "methods", package / "methods")
    shutil.copytree(ROOT / "tests" / "methods", tmp_path / "tests" / "methods")
    (package / "methods" / "huber.py").write_text(example)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    contract = str(tmp_path / "tests" / "methods" / "test_contract.py")
    command += ["-c", "/dev/null", f"--rootdir={tmp_path}", "-k", "huber", contract]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed.group(1)) >= 8, done.stdout


def test_the_lines_for_another_training_script_run() -> None:
    from kdbench.methods.base import Outputs

    levels = tuple(torch.randn(2, 256, 8 >> i, 8 >> i) for i in range(3))
    levels += (torch.randn(2, 256, 2, 2), torch.randn(2, 256, 2, 1))
    outputs = Outputs(logits=levels, features=levels)
    given = {
        "images": torch.randn(2, 3, 64, 64),
        "targets": [],
        "index": torch.arange(2),
        "student_outputs": outputs,
        "teacher_outputs": outputs,
        "task_loss": torch.tensor(1.0),
    }
    exec(block("task_loss + sum"), given)
    loss = given["loss"]
    assert isinstance(loss, torch.Tensor) and loss.isfinite() and loss > 1


def test_every_make_target_and_command_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, flags=re.M))
    assert set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", README, flags=re.M)) <= targets
    verbs = set(re.findall(r"kdbench (run|table|plots|compare|baseline|list|check)\b", README))
    source = (ROOT / "bench" / "cli.py").read_text()
    assert verbs and all(f"def {verb}" in source for verb in verbs)
