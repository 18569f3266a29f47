"""Rows of published weights whose every number is chosen, without evaluating anything."""

from __future__ import annotations

from kdbench.records.weights import WeightsRow
from kdbench.spec.run import Data
from tests.helpers.rows import make_row
from tests.helpers.tables import cifar_table


def make_weights(network: str, method: str, *, teacher: str = "", top1: float, selection: str = "") -> WeightsRow:
    """A row of weights on CIFAR-100."""
    table = cifar_table("none")
    environment = make_row(table, table.pairs[0], table.methods[0], "full").environment
    return WeightsRow.model_validate(
        {
            "file": "weights.pt", "sha256": "0" * 64, "bytes": 1, "source": "someone/else", "licence": "MIT",
            "task": "classification", "network": network, "architecture": network, "teacher": teacher,
            "data": Data(name="cifar100", fingerprint="c1", train_images=50_000, val_images=10_000, classes=100),
            "method": method, "fills": "", "metrics": {"top1": top1}, "evaluator": "torchmetrics", "recorded": {},
            "selection": selection, "normalisation": {"mean": (0.5,) * 3, "std": (0.25,) * 3, "stated": "by a test"},
            "image": {"kind": "padded_crop", "padding": 4, "flip": 0.5}, "note": "", "notices": (),
            "environment": environment, "finished": "2026-01-01T00:00:00+00:00",
        }
    )  # fmt: skip
