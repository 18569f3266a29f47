"""Values of the authors' released configs that full-scale cells run with."""

from __future__ import annotations

from typing import Any

import pytest

from kdbench import methods
from kdbench.grid.cells import CellSpec, expand
from kdbench.report.cells import collect
from kdbench.spec.table import load_table


def cells(table: str, student: str = "", teacher: str = "") -> dict[str, CellSpec]:
    """The full-scale cells of a table, or of one of its pairs, by label."""
    return {
        cell.entry.display_name: cell
        for cell in expand(load_table(table), "full")
        if student in cell.pair.student and teacher in cell.pair.teacher
    }


def options(cell: CellSpec) -> dict[str, Any]:
    return methods.resolve(cell.entry.method, cell.entry.options_at("full"))


@pytest.mark.parametrize("table", ["dist/coco", "akd/coco", "detectron2/coco"])
def test_two_stage_detectors_and_their_teachers_train_at_the_same_rate(table: str) -> None:
    rates = {(cell.recipe.lr, cell.teacher_recipe.lr) for cell in cells(table, student="faster_rcnn").values()}
    assert rates == {(0.02, 0.02)}


def test_maskd_of_the_cascade_teacher_is_run_as_released_and_set_against_its_number() -> None:
    table = load_table("akd/coco")
    cell = cells("akd/coco", teacher="cascade_mask_rcnn")["maskd"]
    found = options(cell)
    assert (found["maskd"]["weight"], found["maskd"]["custom_mask_warmup"]) == (1.0, 5000)
    assert found["box_l1"] == {"weight": 1.0, "beta": 1.0}
    assert (cell.recipe.clip_norm, cell.entry.differs) == (None, ())
    shown = [x for x in collect(table, [], "full") if x.pair == cell.pair and x.label == "maskd"]
    assert [x.reported_value for x in shown] == [42.7]


def test_a_segmenters_masks_hide_three_quarters() -> None:
    chosen = [cell for cell in cells("akd/cityscapes").values() if "masked_generative" in cell.entry.method]
    assert len(chosen) == 4 and {options(cell)["mask_ratio"] for cell in chosen} == {0.75}


def test_akd_aligns_equal_widths_where_mgd_does_not() -> None:
    pair = cells("akd/coco", teacher="retinanet_r101")
    assert options(pair["masked_generative"])["align"] == "conv1x1_if_unequal"
    assert options(pair["akd+masked_generative"])["align"] == "conv1x1"


@pytest.mark.parametrize("table", ["cirkd/cityscapes", "cirkd/camvid"])
def test_cirkds_scripts_align_without_bias_and_fill_queues_as_released(table: str) -> None:
    found = cells(table)
    assert options(found["cwd"])["cwd"]["align"] == "conv1x1_no_bias"
    assert options(found["cirkd"])["cirkd"]["class_pixels"] is False


def test_torchdistills_paraphraser() -> None:
    found = options(cells("torchdistill/imagenet")["ft"])
    chosen = {name: found[f"paraphraser_{name}"] for name in ("epochs", "lr", "weight_decay")}
    assert chosen == {"epochs": 1, "lr": 0.01, "weight_decay": 1e-4}


def test_repdistillers_embedding_of_cc() -> None:
    assert options(cells("crd/cifar100", student="wrn_16_2")["cc"])["embed_dim"] == 128
