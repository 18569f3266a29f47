"""Every command of README.md and docs/ exists as written, and their Python examples run."""

from __future__ import annotations

import inspect
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
import yaml

from kdbench.cli import app
from kdbench.spec.table import MethodEntry, Pair, load_table, table_names
from tests.helpers.pages import PAGES, ROOT, block, blocks, commands
from tests.helpers.pictures import Pictures, done

COMMANDS = sorted({(page, *words) for page in PAGES for words in commands(page)})
KDBENCH = [case[2:] for case in COMMANDS if case[1] == "kdbench"]
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
VARIABLES = set(re.findall(r"^([A-Z_]+) \?=", (ROOT / "Makefile").read_text(), flags=re.M))


def linked_package(folder: Path, copied: Path) -> Path:
    """A package `kdbench` in a folder, of links to the checkout but for one folder, which is copied; returns that."""
    package = folder / "kdbench"
    package.mkdir()
    parts = [*(ROOT / "bench").iterdir(), ROOT / "methods", ROOT / "datasets", ROOT / "results"]
    for path in parts:
        if path != copied and path.name != "__pycache__":
            (package / path.name).symlink_to(path)
    shutil.copytree(copied, package / copied.name, ignore=shutil.ignore_patterns("__pycache__"))
    return package / copied.name


def python(folder: Path, *words: str, data: Path | None = None) -> str:
    """Run the interpreter on the package of a folder; returns what it printed."""
    environment = dict(os.environ, PYTHONPATH=str(folder), KDBENCH_DATA=str(data or folder / "data"))
    environment["OMP_NUM_THREADS"] = "1"  # threads that wait for each other take minutes where the cores are shared
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pages_name_commands() -> None:
    assert len(COMMANDS) > 40
    assert {words[0] for words in KDBENCH if words} >= {
        "run",
        "table",
        "plots",
        "compare",
        "baseline",
        "check",
        "new",
        "try",
    }


@pytest.mark.parametrize("words", KDBENCH, ids=" ".join)
def test_a_command_of_the_pages_parses(words: tuple[str, ...]) -> None:
    if words == ("--version",):
        return
    group: Any = typer.main.get_command(app)
    context = group.commands[words[0]].make_context(words[0], list(words[1:]))
    for name in context.params.get("tables") or ():
        if name.endswith(".yaml"):
            assert any(f"# {Path(name).name}\n" in page.read_text() for page in PAGES.values()), name
        else:
            assert name in table_names(), name
    if words[0] == "run":
        check_request(context.params)


def check_request(parameters: dict[str, object]) -> None:
    """The options of a run are readable, and every method is in one of its tables or exists."""
    from kdbench import methods
    from kdbench.spec import image_size
    from kdbench.spec.recipe import Recipe
    from kdbench.spec.request import RunRequest

    request = RunRequest.parse(**{name: value for name, value in parameters.items() if name != "tables"})
    own = {choice.method for choice in request.choices if choice.file}
    for choice in request.choices:
        assert choice.method in own or methods.known(choice.method), choice
    fields = {*Recipe.model_fields, image_size.NAME}
    assert {name.removeprefix("teacher.").split(".")[0] for name in request.changes} <= fields


@pytest.mark.parametrize("words", [case[2:] for case in COMMANDS if case[1] == "make"], ids=" ".join)
def test_a_target_of_the_pages_exists(words: tuple[str, ...]) -> None:
    target, *settings = words
    assert target in TARGETS
    assert {setting.partition("=")[0] for setting in settings} <= VARIABLES


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_of_a_page_exist(page: str) -> None:
    text = PAGES[page].read_text()
    folder = PAGES[page].parent
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert (folder / link).exists(), link
    for path in re.findall(
        r"`((?:bench|methods|datasets|tests|docs|results/reported|results/baselines)/[\w/.]*)`", text
    ):
        assert (ROOT / path).exists() or path in ("bench/networks/plain.py", "docs/"), path


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].read_text().splitlines()) <= 150


def test_the_example_method_is_complete_and_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench import contract
    from kdbench.methods import _outside

    monkeypatch.setattr(_outside, "_files", {})
    example = block("docs/own-method.md", "# huber.py")
    assert len(example.splitlines()) < 30
    (tmp_path / "huber.py").write_text(example)
    assert contract.problems(tmp_path / "huber.py") == []
    assert len(list(contract.report("huber"))) == 5, "described, and four kinds of network"


def test_the_example_of_a_schedule_and_of_a_learned_value_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench import contract, methods
    from kdbench.contract.samples import make_sample
    from kdbench.methods import _outside
    from kdbench.train.job import execute

    monkeypatch.setattr(_outside, "_files", {})
    (tmp_path / "tempered.py").write_text(block("docs/own-method.md", "# tempered.py"))
    assert contract.problems(tmp_path / "tempered.py") == []
    method = methods.build("tempered", make_sample("classification").setting)
    temperatures = []
    for step in (0, 25, 50):  # of 10 epochs of 5 steps
        method.set_progress(step, 5)
        temperatures.append(method.learned()["temperature"])
    assert temperatures == pytest.approx([8.0, 5.0, 2.0])
    pictures = Pictures(tmp_path)
    options: tuple[dict[str, Any], ...] = ({}, {"learn": True}, {"learn": True, "temperature_lr": 0.1})
    runs = [pictures.run("tempered", options=each) for each in options]
    planned, slow, fast = (row.learned["temperature"] for row in done(execute(pictures.job(tmp_path, *runs), print)))
    assert planned == 2.0
    assert slow != 8.0 and abs(math.log(fast / 8)) > 5 * abs(math.log(slow / 8)), "by its own learning rate"


def test_the_example_of_a_module_is_a_network_whatever_layers_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench import networks
    from kdbench.spec import network_name

    monkeypatch.setattr(network_name, "_files", {})
    (tmp_path / "net.py").write_text(block("docs/own-network.md", "# net.py"))
    name = network_name.resolve(f"{tmp_path}/net.py:build:width=8")
    outputs = networks.build(name, 7)(torch.randn(2, 3, 32, 32))
    named = networks.build(f"{name}:layers=[0,1,2]:classifier=5", 7)(torch.randn(2, 3, 32, 32))
    for each in (outputs, named):
        assert each.logits.shape == (2, 7) and each.pooled is not None and each.pooled.shape == (2, 32)
        assert [feature.shape[1:] for feature in each.features] == [(8, 16, 16), (16, 8, 8), (32, 4, 4)]


def test_the_example_network_is_found_and_runs(tmp_path: Path) -> None:
    folder = linked_package(tmp_path, ROOT / "bench" / "networks")
    (folder / "plain.py").write_text(block("docs/own-network.md", "# bench/networks/plain.py"))
    (folder / "_plain_network.py").write_text(block("docs/own-network.md", "# bench/networks/_plain_network.py"))
    check = (
        "import torch\nfrom kdbench import networks\n"
        "network = networks.build('plain8', 7)\noutputs = network(torch.randn(2, 3, 32, 32))\n"
        "assert outputs.logits.shape == (2, 7) and 'plain32' in networks.names()\n"
        "shapes = [(f.shape[1], 32 // f.shape[2]) for f in outputs.features]\n"
        "assert shapes == list(zip(network.info.channels, network.info.strides)), shapes\n"
        "assert torch.equal(network.info.classifier(outputs.pooled), outputs.logits)\n"
        "assert all((m.relu() == f).all() for m, f in zip(outputs.extra['pre_activations'], outputs.features[1:]))\n"
        "print('passed')"
    )
    assert python(tmp_path, "-c", check) == "passed\n"


@pytest.mark.parametrize(
    ("page", "model"), [("docs/own-method.md", MethodEntry), ("docs/own-network.md", Pair)], ids=["method", "pair"]
)
def test_an_example_line_of_a_table_is_valid(page: str, model: type[MethodEntry | Pair]) -> None:
    [line] = blocks(page, "yaml")
    [entry] = yaml.safe_load(line)
    model.model_validate(entry)


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
    exec(block("docs/own-method.md", "task_loss + sum"), given)
    loss = given["loss"]
    assert isinstance(loss, torch.Tensor) and loss.isfinite() and loss > 1


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("jobs_in_this_process")
def test_the_python_guide_runs_from_top_to_bottom(
    tmp_path: Path, embedded_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_DATA", str(embedded_data))
    exec(compile("\n".join(blocks("docs/python-api.md", "python")), "guide", "exec"), {})
    printed = capsys.readouterr().out
    assert "DIST on CIFAR-100 - top1" in printed
    assert "3 runs, 0 finished" in printed
    assert re.search(r"resnet8 +kd +0 +done", printed), printed
    assert re.search(r"resnet8 +none +unchanged +unchanged", printed), printed
    assert re.search(r"resnet8 +kd +not measured", printed), printed
    assert re.search(r"\{'top1': [\d.]+, 'top5': [\d.]+\}", printed)


def test_the_python_lines_of_the_readme_name_what_exists() -> None:
    import kdbench

    lines = block("README.md", "import kdbench")
    assert set(re.findall(r"kdbench\.(\w+)\(", lines)) <= set(kdbench.__all__)
    assert load_table("dist/cifar100").dataset.mini == "digits"
    assert "log" in inspect.signature(kdbench.run).parameters
