"""Model cards: their lines run without anything else, and verdicts are those of the tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import kdbench
from kdbench.deploy import plain
from kdbench.deploy.export import export
from kdbench.deploy.verdicts import table_lines
from kdbench.errors import CheckpointError, SpecError
from kdbench.networks.base import Network
from kdbench.spec import network_name
from kdbench.spec.table import load_table
from tests.helpers.rows import expand, full_truth, mini_truth
from tests.helpers.students import Trained, train
from tests.helpers.tables import fixed_table

OWN = """
from torch import nn

def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))
"""
INPUTS: dict[str, dict[str, Any]] = {
    "classification": {"images": torch.ones(2, 3, 32, 32)},
    "segmentation": {"images": torch.ones(2, 3, 32, 64)},
    "detection": {"image": torch.ones(1, 3, 96, 96), "size": torch.tensor([96, 96])},
}


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory, digits_path: Path) -> dict[str, Trained]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("cards")
    (root / "own_net.py").write_text(OWN)
    network_name.register(root / "own_net.py")
    return {
        "classification": train("classification", "own_net.py:build", root),
        "segmentation": train("segmentation", "segmenter_mini_student", root),
        "detection": train("detection", "fcos_mini_student", root, digits_path),
    }


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_the_lines_of_a_card_run_and_agree(
    task: str, students: dict[str, Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of PyTorch weights and of TorchScript, which needs no code of the network."""
    for form in ("torch", "torchscript"):
        students[task].export(form, tmp_path / "out")
    if task == "classification":
        (tmp_path / "out" / "own_net.py").write_text(OWN)
    monkeypatch.setattr(network_name, "_files", {})  # as in another process
    monkeypatch.chdir(tmp_path / "out")
    outputs = []
    blocks = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    for lines in blocks:
        names = dict(INPUTS[task])
        exec(lines, names)
        found = names["outputs"]
        outputs.append(found if isinstance(found, tuple) else (found,))
    assert len(blocks) == 2 and len(outputs[0]) == (3 if task == "detection" else 1)
    for one, other in zip(*outputs, strict=True):
        assert one.shape == other.shape and torch.allclose(one.float(), other.float(), atol=1e-5)


def test_a_file_that_is_no_student_is_refused(students: dict[str, Trained], tmp_path: Path) -> None:
    torch.save({"state": {}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt names no network and classes; give the student\.pt"):
        kdbench.load_student(tmp_path / "other.pt")


def test_a_card_has_the_verdicts_of_every_table_that_the_run_is_in() -> None:
    table, other = fixed_table("akd/coco"), fixed_table("dist/coco")
    rows = expand(table, "full", (0, 1, 2), full_truth)
    row = next(row for row in rows if row.run.method == "none")
    lines = table_lines(row, [table, other], rows)
    assert lines and all(re.match(r"(akd|dist)/coco, .+ -> .+, .+: ", line) for line in lines)
    (line,) = [line for line in lines if line.startswith("akd/coco")][:1]
    assert re.search(
        r"reported [\d.]+, measured [\d.]+ ± [\d.]+ \(3\) \w+ \(\w+ epoch\): (reproduced|above|below)", line
    )
    mini = expand(table, "mini", (0,), mini_truth)
    assert all("not comparable (mini)" in line for line in table_lines(mini[0], [table], mini))
    assert table_lines(row, [load_table("dist/cityscapes")], rows) == ()


def test_a_detector_of_another_library_is_exported_as_weights_alone(
    students: dict[str, Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As detectron2's, which is not installed here: any detector whose class is not of torchvision's."""

    def untraceable(network: Network, task: str) -> Any:
        return plain.PlainDetections(network).eval()  # type: ignore[arg-type]

    monkeypatch.setattr(plain, "plain_module", untraceable)
    student = students["detection"]
    (file,) = student.export("torch", tmp_path / "out").files
    assert student.row.metrics and file.check.measured == pytest.approx(student.row.metrics.last["ap"], abs=1e-4)
    for form in ("torchscript", "exported-program"):
        with pytest.raises(
            SpecError, match=f"--format {form}: fcos_mini_student: .*cannot be traced; .*--format torch"
        ):
            export(student.request(form, tmp_path / "other"), [])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
