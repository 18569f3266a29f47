"""A researcher's day, from an empty folder with an installed package: a method of one's own, swept, and in a paper.

Some commands of the day are the checkout's, in this process, for to start others takes seconds.
"""

from __future__ import annotations

import csv
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command import kdbench as command
from tests.helpers.wheel import build_wheel, needs_setuptools, python, unpack

pytestmark = pytest.mark.integration

STEPS = ("--set", "epochs=1", "--set", "max_steps=4", "--set", "teacher.epochs=1", "--set", "teacher.max_steps=4")
RUN = ("run", "dist/cifar100", "--scale", "mini", "--pairs", "resnet56->resnet20", *STEPS)
MAIN = r"""\documentclass{article}
\usepackage{booktabs,xcolor}
\begin{document}
\input{TABLE}
\end{document}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(build_wheel(tmp_path_factory.mktemp("wheel")), tmp_path_factory.mktemp("site"))


@needs_setuptools
@pytest.mark.usefixtures("jobs_in_this_process", "fresh_methods")
def test_a_method_from_an_empty_folder_into_a_paper(site: Path, tmp_path: Path, embedded_data: Path) -> None:
    environment = {"KDBENCH_DATA": str(embedded_data)}

    def installed(*words: str) -> str:
        return python(site, tmp_path, "-m", "kdbench", *words, environment=environment)

    def kdbench(*words: str) -> str:
        done = command(*words, folder=tmp_path, environment=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "sdist.py" in installed("new", "method", "sdist")
    assert "wrong" not in kdbench("check", "--methods", "./sdist.py")
    trackers = ["--log", "tensorboard"] if importlib.util.find_spec("tensorboard") else []

    # The method beside others, its temperature swept, in one command.
    sweep = ("--methods", "kd,./sdist.py", "--sweep", "sdist.tau=1,2,4")
    said = kdbench(*RUN, *sweep, *trackers)
    assert "6 of 6 runs done" in said, "the teacher, none, kd, and three temperatures, one of which is the default"
    assert all(f"sdist:tau={tau}" in said for tau in (1, 2, 4))

    # Another student, which no table lists; a method that needs maps says what it cannot do.
    vit = "timm:vit_tiny_patch16_224:patch_size=8:depth=4:embed_dim=24"
    said = kdbench(*RUN, "--methods", "kd,fitnet,./sdist.py", "--student", vit)
    assert "skipped: dist/cifar100 resnet56 -> " in said and "fitnet cannot be used for resnet20 -> timm:vit" in said
    assert "4 of 4 runs done" in said, said  # the teacher again, which is finished

    # After an edit of the method its runs are done again, and no others.
    method = tmp_path / "sdist.py"
    method.write_text(re.sub(r"return \{(.+?): (.+)\}", r"return {\1: 2.0 * (\2)}", method.read_text()))
    said = installed(*RUN, *sweep)
    assert "stale: 3 runs of sdist, whose code has changed since; done again" in said, said
    assert "3 finished before" in said and "6 of 6 runs done" in said

    table = kdbench("table", "dist/cifar100")
    assert "sdist:tau=4" in table and f"{vit}:img_size=32" in table
    runs = installed("runs")
    assert "stale" in runs, "the method's run of the other student"
    identity = re.search(r"^([0-9a-f]{8}) .* sdist", runs, flags=re.M)
    assert identity is not None and "tau" in kdbench("show", identity[1])

    paper(tmp_path, kdbench("table", "dist/cifar100", "--layout", "paper"))
    if trackers:
        events(tmp_path / "results" / "runs" / "tensorboard")


def paper(folder: Path, said: str) -> None:
    """The table in the layout of papers: printed, as CSV and Markdown, and compiled where LaTeX is installed."""
    assert "mini scale: no evidence about a method" in said and "sdist:tau=2" in said
    tables = folder / "results" / "tables"
    [sheet] = tables.glob("*.paper.csv")
    with sheet.open() as lines:
        assert {"teacher", "none", "kd", "sdist"} & {line.get("method", "") for line in csv.DictReader(lines)}
    assert list(tables.glob("*.paper.md"))
    [tex] = tables.glob("*.paper.tex")
    if shutil.which("pdflatex"):
        (tables / "main.tex").write_text(MAIN.replace("TABLE", tex.name))
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
        done = subprocess.run(command, cwd=tables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        assert "Overfull" not in done.stdout


def events(folder: Path) -> None:
    """TensorBoard's files, read back: a folder a run, with its loss terms by name and its accuracy."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs = {path.name: path for path in folder.iterdir()}
    [name] = [name for name in runs if "sdist:tau=2" in name]
    read: Any = EventAccumulator(str(runs[name]))
    read.Reload()
    scalars = read.Tags()["scalars"]
    assert {"loss/cross_entropy", "val/top1", "lr"} <= set(scalars), scalars
    assert any(tag.startswith("loss/") and tag != "loss/cross_entropy" for tag in scalars)
