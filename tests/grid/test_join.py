"""Pairs of a request: those of the tables by name, and networks that no table lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdbench.errors import SpecError
from kdbench.grid.join import sized, with_pairs
from kdbench.spec import network_name
from kdbench.spec.request import RunRequest, parse_names, parse_teachers
from kdbench.spec.table import MethodEntry, Networks, Pair, Table
from tests.helpers.tables import cifar_table, fixed_table


def pair(teacher: str, student: str, **fields: Any) -> Pair:
    """A pair whose networks have other names than the paper's."""
    names = Networks(teacher=teacher, student=student)
    mini = Networks(teacher="resnet20", student="resnet8")
    return Pair(teacher=f"big_{teacher}", student=student, networks=names, mini=mini, **fields)


TABLE = cifar_table(
    "none",
    MethodEntry(method="kd"),
    pairs=(pair("resnet14", "resnet8", recipe={"lr": 0.1}), pair("resnet20", "resnet8"), pair("resnet14", "vgg8")),
)


def joined(*tables: Table, logged: list[str] | None = None, **options: Any) -> list[Table]:
    return with_pairs(tables or (TABLE,), RunRequest(**options), (logged if logged is not None else []).append)


def names(*tables: Table) -> list[str]:
    return [f"{pair.teacher}->{pair.student}" for table in tables for pair in table.pairs]


@pytest.mark.parametrize(
    "name", ["big_resnet14->resnet8", "resnet14->resnet8", "big_resnet14 \N{RIGHTWARDS ARROW} resnet8"]
)
def test_pairs_are_selected_by_the_names_of_the_paper_or_of_the_networks(name: str) -> None:
    (table,) = joined(pairs=(name,))
    assert names(table) == ["big_resnet14->resnet8"] and table.pairs[0] == TABLE.pairs[0]


def test_without_names_every_pair_stays_and_a_table_without_a_named_pair_goes() -> None:
    other, logged = cifar_table("none"), []
    assert joined(TABLE, other) == [TABLE, other]
    named = joined(TABLE, other.model_copy(update={"name": "other"}), logged=logged, pairs=("resnet14->vgg8",))
    assert names(*named) == ["big_resnet14->vgg8"]
    assert logged == ["left out, because none of their pairs is of --pairs: other"]


def test_a_student_takes_the_place_of_the_others_under_each_teacher_in_the_table_s_recipe() -> None:
    (table,) = joined(student=("timm:convnext_atto",))
    assert names(table) == ["big_resnet14->timm:convnext_atto", "big_resnet20->timm:convnext_atto"]
    first = table.pairs[0]
    assert first.added and first.recipe == {}
    assert first.networks == Networks(teacher="resnet14", student="timm:convnext_atto")
    assert first.mini == Networks(teacher="resnet20", student="timm:convnext_atto")
    assert [entry.method for entry in table.entries(first)] == ["none", "kd"]


def test_a_student_of_the_table_has_its_small_network_and_a_pair_of_the_table_stays_as_it_is() -> None:
    (table,) = joined(student=("vgg8",))
    assert names(table) == ["big_resnet14->vgg8", "big_resnet20->vgg8"]
    assert table.pairs[0] == TABLE.pairs[2] and table.pairs[1].added
    assert table.pairs[1].mini == Networks(teacher="resnet20", student="resnet8")


def test_a_pair_that_no_table_lists_joins_those_of_its_task_beside_listed_ones() -> None:
    coco = fixed_table("dist/coco")
    tables = joined(TABLE, coco, pairs=("big_resnet14->resnet8", "resnet56->timm:convnext_atto:drop_rate=0.1"))
    assert names(*tables) == ["big_resnet14->resnet8", "resnet56->timm:convnext_atto:drop_rate=0.1"]
    (table,) = joined(pairs=("resnet32->resnet8x4",))
    assert table.pairs[0].mini == Networks(teacher="resnet32", student="resnet8x4") and table.pairs[0].added


def test_a_pair_of_a_table_with_methods_by_pair_has_them_without_their_options() -> None:
    tuned = MethodEntry(method="kd", options={"temperature": 2.0}, mini_options={"weight": 0.5}, gain_over="none")
    control = MethodEntry(method="kd", label="kd, one setting", control=True)
    listed = pair("resnet14", "resnet8", methods=(MethodEntry(method="none"), tuned, control))
    table = TABLE.model_copy(update={"methods": (), "pairs": (listed,)})
    for options in ({"pairs": ("resnet32->resnet8x4",)}, {"teacher": parse_teachers("timm:resnet10t")}):
        (found,) = joined(table, **options)
        entries = found.entries(found.pairs[0])
        assert entries == (MethodEntry(method="none"), MethodEntry(method="kd", mini_options={"weight": 0.5}))


def test_a_teacher_of_a_library_teaches_every_student_of_the_table() -> None:
    (table,) = joined(teacher=parse_teachers("timm:resnet10t"), student=("resnet20",))
    assert names(table) == ["timm:resnet10t->resnet20"]
    (table,) = joined(teacher=parse_teachers(["timm:resnet10t", "resnet14=a.pth"]))
    assert names(table) == ["timm:resnet10t->resnet8", "timm:resnet10t->vgg8"]


def test_networks_of_another_library_than_the_student_s_are_not_used() -> None:
    names = Networks(
        teacher="detectron2:COCO-Detection/retinanet_R_101_FPN_3x",
        student="detectron2:COCO-Detection/retinanet_R_50_FPN_1x",
    )
    listed = Pair(teacher="retinanet_r101_fpn", student="retinanet_r50_fpn", networks=names, mini=None)
    coco = fixed_table("dist/coco").model_copy(update={"pairs": (listed,)})
    (table,) = joined(coco, student=("retinanet_mini_student",))
    assert table.pairs[0].networks == Networks(teacher="retinanet_r101_fpn", student="retinanet_mini_student")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": ("resnet14->resnet9",)}, r"unknown pair .*'resnet14->resnet9'\. Did you mean 'resnet14->resnet8'"),
        ({"pairs": ("resnet14",)}, "unknown pair of these tables in --pairs: 'resnet14'"),
        ({"pairs": ("resnet14->timm:convnext_ato",)}, "unknown network of timm: 'convnext_ato'"),
        ({"pairs": ("resnet14->retinanet_mini_student",)}, "these tables are for classification, and its networks for"),
        ({"student": ("resnet21",)}, r"unknown network in --student: 'resnet21'\. Did you mean 'resnet"),
        (
            {"student": ("retinanet_mini_student",)},
            "these tables are for classification; retinanet_mini_student cannot",
        ),
        ({"student": ("./nowhere.py:build",)}, r"nowhere\.py: no such file"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        joined(**options)


def test_networks_of_one_image_size_are_built_for_that_of_the_data() -> None:
    (table,) = joined(student=("timm:vit_tiny_patch16_224:depth=1", "timm:convnext_atto"))
    request = RunRequest(teacher=parse_teachers("timm:vit_tiny_patch16_224:depth=1=a.pth"))
    (changed,), _ = sized([table], "mini", request, (32, 32))
    vit = "timm:vit_tiny_patch16_224:depth=1:img_size=32"
    assert [pair.student for pair in changed.pairs] == [vit, "timm:convnext_atto"] * 2
    assert changed.pairs[0].mini == Networks(teacher="resnet20", student=vit)
    (table,) = joined(teacher=request.teacher)
    (changed,), given = sized([table], "full", request, (32, 32))
    assert changed.pairs[0].teacher == given.teacher[0].network == vit
    assert sized([TABLE], "mini", RunRequest(), (32, 32))[0] == [TABLE]


def test_commas_in_brackets_are_part_of_a_name() -> None:
    given = "a, timm:x:layers=[b,c]:d=1,e"
    assert parse_names(given) == parse_names([given]) == ("a", "timm:x:layers=[b,c]:d=1", "e")


def test_a_file_is_resolved_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_name, "_files", {})
    path = tmp_path / "net.py"
    path.write_text("def build(num_classes):\n    ...\n")
    (table,) = joined(student=(f"{path}:build",))
    assert names(table)[0] == "big_resnet14->net.py:build"


def test_paths_in_pairs_may_have_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_name, "_files", {})
    path = tmp_path / "my nets" / "net.py"
    path.parent.mkdir()
    path.write_text("def build(num_classes):\n    ...\n")
    (table,) = joined(pairs=(f"resnet56 -> {path}:build",))
    assert [pair.student for pair in table.pairs] == ["net.py:build"]
