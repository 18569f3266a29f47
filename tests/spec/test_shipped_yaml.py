"""A line added to any shipped table or recipe leaves it valid, and every table can still be planned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdbench import networks
from kdbench.grid.validate import validate
from kdbench.spec.recipe import RECIPES, Recipe, recipe_names
from kdbench.spec.run import Data
from kdbench.spec.schema import parse, read_yaml
from kdbench.spec.table import TABLES, Table, load_table, table_names
from tests.helpers.plans import Choice, plan

METHOD = {"classification": "at", "detection": "cwd", "segmentation": "cwd"}
"""A method for each task, with a weight that no table gives it."""
DATA = Data(name="digits", fingerprint="d161", train_images=3_584, val_images=1_000, classes=10)
ENDS: dict[str, Callable[[list[Any], Any], list[Any]]] = {
    "start": lambda lines, line: [line, *lines],
    "end": lambda lines, line: [*lines, line],
}


def with_more(content: dict[str, Any], end: str) -> dict[str, Any]:
    """The table with one more entry in each of its lists of methods, and its first pair once more."""
    entry = {"method": METHOD[content["task"]], "options": {"weight": 0.125}, "label": "added"}
    pairs = ENDS[end](content["pairs"], content["pairs"][0] | {"note": "added"})
    pairs = [pair | ({"methods": ENDS[end](pair["methods"], entry)} if "methods" in pair else {}) for pair in pairs]
    return (
        content | {"pairs": pairs} | ({"methods": ENDS[end](content["methods"], entry)} if "methods" in content else {})
    )


def planned(table: Table) -> set[str]:
    """Ids of the table's runs at mini scale."""
    return {run.id for run in plan([table], Choice("mini", DATA)).runs}


@pytest.mark.parametrize("end", ["end", pytest.param("start", marks=pytest.mark.integration)])
@pytest.mark.parametrize("name", table_names())
def test_a_table_with_more_lines_is_valid_and_runs_them_beside_the_others(
    name: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks.detectron2, "unavailable", lambda: "")  # a plan needs nothing of it
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(with_more(read_yaml(TABLES / f"{name}.yaml"), end)))
    table = load_table(str(tmp_path / "more.yaml"))
    validate(table)
    assert planned(load_table(name)) < planned(table)


@pytest.mark.parametrize("name", recipe_names())
def test_fields_that_a_recipe_leaves_out_may_be_added_to_it(name: str) -> None:
    values = {"name": name} | read_yaml(RECIPES / f"{name}.yaml")
    defaults = {key: field.default for key, field in Recipe.model_fields.items() if key not in values}
    assert defaults
    assert parse(Recipe, values | defaults, RECIPES) == parse(Recipe, values, RECIPES)
