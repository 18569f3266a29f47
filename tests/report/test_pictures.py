"""Pictures of predictions: which images are chosen, which boxes are right, and labels that do not cover each other."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from kdbench.datasets.coco import CocoFolder
from kdbench.records.class_scores import ClassScores, write_class_scores
from kdbench.records.row import Row
from kdbench.records.store import Store
from kdbench.report.blocks import blocks
from kdbench.report.box_panels import CANDIDATES, IMAGES, Box, candidates, f1, matched, most_different
from kdbench.report.cells import collect
from kdbench.report.confusion import confusion_matrix
from kdbench.report.losses import is_logarithmic, losses_figure, term_curves
from kdbench.report.pictures import Drawn, Frame, Gallery, label_places, page, spread_positions, text_color
from kdbench.report.plots import draw
from kdbench.spec.table import MethodEntry
from tests.helpers.rows import make_row
from tests.helpers.tables import cifar_table

TABLE = cifar_table(MethodEntry(method="none"), MethodEntry(method="kd"))


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([f"{i:012d}" for i in range(8)], [1, 3, 5, 7]),
        ([f"a_{i}" for i in range(6)] + ["b_0", "c_0", "d_0", "e_0"], [3, 6, 7, 8]),
        ([f"film_{i}" for i in range(9)] + ["town-0"], [1, 4, 7, 9]),
        (["x.0", "x.1"], [0, 1]),
        ([], []),
    ],
)
def test_images_are_spread_over_sequences_and_within_them(names: list[str], chosen: list[int]) -> None:
    assert spread_positions(names, 4) == chosen


def box(x: float, label: int = 0, score: float = 1.0) -> Box:
    return Box((x, 0.0, x + 10.0, 10.0), label, score)


def test_a_box_is_right_once_on_an_object_of_its_class() -> None:
    boxes = [box(1, score=0.5), box(0, score=0.9), box(20, label=1, score=0.4), box(46, score=0.7), box(42, score=0.6)]
    found = matched(boxes, [box(0), box(20), box(40)])
    assert [(each.corners[0], each.right) for each in found] == [
        (0, True),
        (46, False),
        (42, True),
        (1, False),
        (20, False),
    ]
    assert f1(found, [box(0), box(20), box(40)]) == pytest.approx(2 * 2 / 8)
    assert f1([], []) == 1.0 and f1([], [box(0)]) == 0.0


def test_images_on_which_students_differ_are_drawn_and_among_equal_ones_those_of_more_classes() -> None:
    truth = {i: [box(0), box(20, label=int(i == 4))] for i in range(6)}
    right, wrong = box(0)._replace(right=True), box(0)._replace(right=False)
    good = {i: [right] for i in range(6)}
    other = {i: [wrong if i in (1, 5) else right] for i in range(6)}
    assert most_different(truth, [good, other]) == [1, 4, 5]
    assert most_different(truth, []) == [0, 1, 4] and len(truth) > IMAGES


def test_candidates_have_several_classes_and_few_objects(digits: CocoFolder) -> None:
    labels = [digits.val.objects(i)[1].tolist() for i in range(len(digits.val))]
    fits = [i for i, each in enumerate(labels) if len(set(each)) >= 2 and len(each) <= 12]
    chosen = candidates(digits.val)
    assert chosen == sorted(chosen) and set(chosen) <= set(fits)
    assert len(set(chosen)) == min(CANDIDATES, len(fits)) > 0


def test_labels_of_boxes_at_one_corner_do_not_cover_each_other() -> None:
    frames = [Frame((10, 20, 80, 90), f"digit {i} 0.5{i}", "#0072B2") for i in range(4)]
    frames.append(Frame((0, 0, 100, 100), "whole", "#000000"))
    letter = 4.0
    places = label_places(frames, (100, 100), letter)
    areas = [(x, y, x + 0.65 * letter * len(f.text), y + letter) for (x, y), f in zip(places, frames, strict=True)]
    for a, b in itertools.combinations(areas, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert all(a[0] >= 0 and a[1] >= 0 and a[2] <= 100 and a[3] <= 100 for a in areas)


def test_text_is_readable_on_its_color() -> None:
    assert [text_color(color) for color in ("#000000", "#332288", "#E69F00", "#FFFFFF")] == [
        *("white", "white", "black", "black")
    ]


def test_a_page_has_a_row_a_network_and_a_column_an_image() -> None:
    pictures = [Drawn(np.zeros((20, 30, 3), dtype=np.uint8), (Frame((1, 1, 9, 9), "$a", "#000000", True),))] * 2
    figure = page("title", ["one", "a" * 50], [("truth", pictures), ("kd\n1.0", pictures)], legend=0.0)
    assert len(figure.axes) == 4
    assert [axis.get_ylabel() for axis in figure.axes] == ["truth", "", "kd\n1.0", ""]
    assert figure.axes[1].get_title().startswith("…") and all(len(axis.patches) == 1 for axis in figure.axes)


def with_losses(row: Row, losses: dict[str, float]) -> Row:
    epochs = [epoch.model_copy(update={"losses": losses}) for epoch in row.history]
    return row.model_copy(update={"history": tuple(epochs)})


def test_terms_of_the_task_have_panels_and_those_of_methods_share_one_on_a_log_scale() -> None:
    none, kd = (make_row(TABLE, TABLE.pairs[0], entry, "mini") for entry in TABLE.methods)
    rows = [with_losses(none, {"ce": 1.0}), with_losses(kd, {"ce": 1.5, "kd": 0.1, "far": 50.0})]
    cells = collect(TABLE, rows, "mini")
    figure = losses_figure(TABLE, blocks(cells), "mini")
    assert figure is not None
    metric, task, added = figure.axes
    assert [axis.get_title(loc="left").splitlines()[-1] for axis in figure.axes][1:] == ["ce", "terms that methods add"]
    assert "top-1" in metric.get_title(loc="left") and len(task.lines) == 2
    assert (task.get_yscale(), added.get_yscale()) == ("linear", "log")
    legend = added.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["kd", "kd: far"]
    assert len({line.get_linestyle() for line in added.lines}) == 2
    assert set(term_curves(cells[1])) == {"ce", "kd", "far"}


def test_a_loss_of_zero_or_below_is_drawn_on_a_linear_scale() -> None:
    assert is_logarithmic([{1: 0.1}, {1: 10.0}])
    assert not is_logarithmic([{1: 0.1}, {1: 1.0}])
    assert not is_logarithmic([{1: 0.0}, {1: 10.0}]) and not is_logarithmic([{1: -5.0}, {1: 10.0}])


def scores_of(row: Row) -> ClassScores:
    assert row.student is not None
    values = {
        "run": row.id,
        "student": row.student.sha256,
        "metric": "accuracy",
        "classes": tuple("abcdefghij"),
        "counts": (10, 10, *[0] * 8),
        "scores": (20.0, 40.0, *[None] * 8),
        "confusions": ((0, 1, 8), (1, 9, 6)),
    }
    return ClassScores.model_validate(values)


def test_confusion_is_in_percent_of_the_true_class() -> None:
    matrix = confusion_matrix(scores_of(make_row(TABLE, TABLE.pairs[0], TABLE.methods[0], "mini")))
    assert matrix[0].tolist() == [20, 80, *[0] * 8] and matrix[1].tolist() == [0, 40, *[0] * 7, 60]
    assert np.isnan(matrix[2:]).all()


def test_confusion_is_drawn_where_runs_have_it_and_damage_is_named(tmp_path: Path) -> None:
    rows = [make_row(TABLE, TABLE.pairs[0], entry, "mini", value=30.0) for entry in TABLE.methods]
    runs, out = tmp_path / "runs", tmp_path / "out"
    cells = collect(TABLE, rows, "mini")
    drawing = draw(TABLE, cells, "mini", out, Gallery(runs, tmp_path))
    assert not [path for path in drawing.files if "confusion" in path.name] and not drawing.messages
    paths = [write_class_scores(Store(runs).folder(row.id), scores_of(row)) for row in rows]
    (drawn,) = [
        path for path in draw(TABLE, cells, "mini", out, Gallery(runs, tmp_path)).files if "confusion" in path.name
    ]
    assert drawn.name.endswith("-confusion.png") and drawn.stat().st_size > 10_000
    for path in paths:
        path.write_bytes(b"{}")
    drawing = draw(TABLE, cells, "mini", out, Gallery(runs, tmp_path))
    assert [f"{path} is not used: checksum" in text for path, text in zip(paths, drawing.messages, strict=True)] == [
        True
    ] * 2
