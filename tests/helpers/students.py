"""Small students of every task, trained for a step or two, each with the data that it was measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench import methods, tasks
from kdbench.deploy import formats
from kdbench.deploy.export import ExportRequest, export
from kdbench.deploy.manifest import FILE, Manifest
from kdbench.deploy.saved import DataPlace
from kdbench.records.row import Row
from kdbench.spec.recipe import load_recipe
from kdbench.spec.run import Run
from kdbench.train.job import Job, execute

STEPS: dict[str, Any] = {"max_steps": 2, "warmup_steps": 1, "batch_size": 4}
DETECTION = {"image": {"shorter": 96, "longer": 96, "flip": 0.5}, "epochs": 1, "epoch_steps": None}
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "classification": ("cifar_mini", {"epochs": 1}),
    "detection": ("coco_mini", {**DETECTION, "precision": "float32"}),
    "segmentation": ("cityscapes_mini", {"epochs": 1, "image.height": 32, "image.width": 64}),
}


@dataclass(frozen=True)
class Trained:
    """A finished run, and where it and its data are."""

    row: Row
    results: Path
    place: DataPlace

    def request(self, form: str, out: Path, **more: Any) -> ExportRequest:
        return ExportRequest(self.row.id[:8], form, self.results, more.pop("place", self.place), out, **more)

    def export(self, form: str, out: Path, **more: Any) -> Manifest:
        """Export the student; returns what describes it."""
        export(self.request(form, out, **more), [])
        return Manifest.model_validate_json((out / FILE).read_bytes())


def train(task: str, student: str, root: Path, path: Path | None = None, **changes: Any) -> Trained:
    """Train a student alone on embedded data below `root`, or on the data at `path`; its run is in `root/runs`.

    Args:
        task: of the student.
        student: a network.
        root: folder of data sets.
        path: of the data.
        changes: of the recipe; `options` of the embedded data set, such as the number of its images.
    """
    options = changes.pop("options", {"train": 12, "val": 5} if path is None else {})
    name, recipe = RECIPES[task]
    kind = tasks.get(task)
    run = Run(
        task=task,
        scale="mini",
        data=kind.describe(kind.open("digits", root, path, options), options),
        student=student,
        method="none",
        options=methods.resolve("none", {}),
        recipe=load_recipe(name, {**STEPS, **recipe, **changes}),
        seed=0,
    )
    results = root / "runs"
    (row,) = execute(Job(runs=(run,), data_root=root, data_path=path, results=results), lambda _: None)
    assert row.status == "done", row.reason
    return Trained(row, results, DataPlace(root, path))


class _WrongLogits(nn.Module):
    """Logits of which the last is too large."""

    def __init__(self, module: nn.Module, by: float) -> None:
        super().__init__()
        self.module, self.by = module, by

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.module(images)
        return logits + self.by * torch.nn.functional.one_hot(torch.tensor(logits.shape[1] - 1), logits.shape[1])


def write_wrong_logits(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    """Let TorchScript files compute something else than their students."""
    write = formats.TorchScript.write

    def wrong(self: Any, network: Any, student: Any, path: Path) -> None:
        write(self, replace(network, module=_WrongLogits(network.module, by)), student, path)

    monkeypatch.setattr(formats.TorchScript, "write", wrong)
