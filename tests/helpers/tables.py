"""Tables for tests of what is done with a table: a line added to a shipped table changes none of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdbench.spec.schema import parse, read_yaml
from kdbench.spec.table import ByScale, DataSize, MethodEntry, Networks, Pair, Table

FOLDER = Path(__file__).parents[1] / "data" / "tables"


def fixed_table(name: str) -> Table:
    """A kept copy of the shipped table `name`, some of them with fewer pairs and methods."""
    path = FOLDER / f"{name}.yaml"
    return parse(Table, {"name": name} | read_yaml(path), path)


def cifar_table(*methods: MethodEntry | str, pairs: Sequence[Pair] | None = None, **fields: Any) -> Table:
    """A CIFAR-100 table without reported numbers: resnet56 -> resnet20, at mini scale resnet20 -> resnet8."""
    mini = Networks(teacher="resnet20", student="resnet8")
    values: dict[str, Any] = {
        "name": "test/cifar100",
        "paper": "test",
        "title": "A table of a test",
        "citation": "none",
        "task": "classification",
        "dataset": ByScale(full="cifar100", mini="digits"),
        "data_size": DataSize(train_images=50_000, val_images=10_000, classes=100),
        "metric": "top1",
        "recipe": ByScale(full="cifar_240", mini="cifar_mini"),
        "teacher_recipe": ByScale(full="cifar_240", mini="cifar_mini_teacher"),
        "pairs": pairs or (Pair(teacher="resnet56", student="resnet20", mini=mini),),
        "methods": tuple(MethodEntry(method=one) if isinstance(one, str) else one for one in methods),
    }
    return Table(**values | fields)
