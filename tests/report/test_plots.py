"""Figures: readable, free of overlaps, the same bytes for the same rows, no mini number beside a reported one."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionStyle
from matplotlib.text import Annotation, Text

from kdbench.records.row import Row
from kdbench.report.cells import collect
from kdbench.report.figures import BLACK, GREY, method_color, spread
from kdbench.report.plots import Drawing, draw_all, figures
from kdbench.spec.recipe import load_recipe
from kdbench.spec.scale import Scale
from kdbench.spec.table import Table
from tests.helpers.rows import expand, full_truth, make_row, mini_truth
from tests.helpers.tables import fixed_table

DIST, AKD = fixed_table("dist/coco"), fixed_table("akd/coco")


def rows_of(table: Table, scale: Scale, seeds: tuple[int, ...]) -> list[Row]:
    return expand(table, scale, seeds, mini_truth if scale == "mini" else full_truth)


DRAWN: dict[tuple[str, Scale, tuple[int, ...]], dict[str, Figure]] = {}


def drawn(table: Table, scale: Scale, seeds: tuple[int, ...]) -> dict[str, Figure]:
    """The figures of a table, drawn once for all tests."""
    key = (table.name, scale, seeds)
    if key not in DRAWN:
        DRAWN[key] = figures(table, collect(table, rows_of(table, scale, seeds), scale), scale)
    return DRAWN[key]


def texts(figure: Figure) -> list[Text]:
    """Every text that is seen."""
    figure.draw_without_rendering()
    found = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("scale", ["mini", "full"])
@pytest.mark.parametrize("name", ["measured", "gains", "curves", "losses"])
def test_no_text_overlaps_another_or_leaves_the_page(name: str, scale: Scale) -> None:
    figure = drawn(AKD, scale, (0, 1))[name]
    FigureCanvasAgg(figure)
    shown = texts(figure)
    boxes = [(text.get_text(), Text.get_window_extent(text).padded(-1.5)) for text in shown]
    page = figure.bbox.padded(1)
    assert len(boxes) > 20
    # ticks beyond an axis' limits exist but are not drawn
    boxes = [(words, box) for words, box in boxes if not _off_axis(words, box.y0, figure)]
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), f"{one!r} overlaps {other!r}"
    for words, box in boxes:
        assert page.x0 <= box.x0 and box.x1 <= page.x1, f"{words!r} leaves the page"
        assert page.y0 <= box.y0 and box.y1 <= page.y1, f"{words!r} leaves the page"


def _off_axis(words: str, y: float, figure: Figure) -> bool:
    """Tick labels outside their axis' limits; matplotlib keeps them and draws none."""
    for axis in figure.axes:
        for which, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
            for tick in which.get_major_ticks():
                inside = min(low, high) <= tick.get_loc() <= max(low, high)
                same = words == tick.label1.get_text() and abs(Text.get_window_extent(tick.label1).y0 + 1.5 - y) < 3
                if not inside and same:
                    return True
    return False


def words_of(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in texts(figure))


def test_mini_draws_no_reported_number() -> None:
    figure = drawn(AKD, "mini", (0,))["measured"]
    words = words_of(figure)
    assert all(line.get_marker() != "D" for axis in figure.axes for line in axis.lines)
    assert "not comparable with the paper" in words
    assert "reported" not in words
    assert "from one seed, no interval" in words
    assert "(n=1)" in words


def test_full_draws_reported_measured_and_the_verdict() -> None:
    figure = drawn(DIST, "full", (0, 1, 2))["measured"]
    words = words_of(figure)
    assert "measured against reported" in words
    assert "40.00 (n=3), reproduced" in words
    assert "AP (%)" in words
    diamonds = [points(line)[0] for line in figure.axes[0].lines if line.get_marker() == "D" and len(points(line)) == 1]
    assert sorted(x for x, _ in diamonds) == [37.4, 39.8, 40.1, 41.0]


def test_error_bars_are_95_percent_intervals_and_absent_for_one_seed() -> None:
    scores = (39.7, 39.9, 40.1)
    rows = [make_row(DIST, DIST.pairs[0], DIST.methods[1], "full", seed, score) for seed, score in enumerate(scores)]
    half = 4.302653 * 0.2 / 3**0.5
    (ends,) = bars(figures(DIST, collect(DIST, rows, "full"), "full")["measured"])
    assert ends == pytest.approx((39.9 - half, 39.9 + half), abs=1e-4)
    assert bars(figures(DIST, collect(DIST, rows[:1], "full"), "full")["measured"]) == []


def bars(figure: Figure) -> list[tuple[float, float]]:
    """Ends of the error bars of the first panel."""
    found = [bar for one in figure.axes[0].containers if isinstance(one, ErrorbarContainer) for bar in one.lines[2]]
    return [(segment[0][0], segment[1][0]) for bar in found for segment in bar.get_segments()]


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def test_gains_are_sorted_and_bear_their_cost() -> None:
    figure = drawn(AKD, "mini", (0,))["gains"]
    first = figure.axes[0]
    gains = [float(text.get_text().split()[0]) for text in first.texts]
    assert len(gains) == 9
    assert gains == sorted(gains, reverse=True)
    assert all("×" in text.get_text() for text in first.texts)


def test_curves_end_at_the_measured_value_and_show_the_teacher() -> None:
    rows = rows_of(DIST, "mini", (0,))
    axis = figures(DIST, collect(DIST, rows, "mini"), "mini")["curves"].axes[0]
    labels = {text.get_text() for text in axis.texts}
    assert labels == {"none", "dist", "dist+mimic", "teacher"}
    ends = sorted(points(line)[-1][1] for line in axis.lines)
    scores = sorted(
        row.metrics.last["ap"] for row in rows if row.metrics and row.run.student == "retinanet_mini_student"
    )
    assert ends == pytest.approx([*scores, 34.0])


def test_methods_differ_in_more_than_colour() -> None:
    axis = drawn(AKD, "mini", (0,))["curves"].axes[0]
    curves = [line for line in axis.lines if line.get_marker() not in (None, "None", "")]
    assert len({(line.get_marker(), line.get_linestyle()) for line in curves}) == len(curves) == 10
    assert len({line.get_color() for line in curves}) == 10


@pytest.mark.parametrize("count", [1, 12, 13, 28])
def test_no_color_is_repeated(count: int) -> None:
    colors = [method_color(i, count) for i in range(count)]
    assert len({*colors, BLACK, GREY}) == count + 2


@pytest.mark.parametrize("epochs", [1, 2, 5, 240])
def test_ticks_of_learning_curves_are_whole_epochs(epochs: int) -> None:
    recipe = load_recipe("coco_mini", {"epochs": epochs})
    rows = [make_row(DIST, DIST.pairs[0], entry, "mini", recipe=recipe) for entry in DIST.methods]
    axis = figures(DIST, collect(DIST, rows, "mini"), "mini")["curves"].axes[0]
    low, high = axis.get_xlim()
    ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
    assert ticks and all(tick == round(tick) for tick in ticks)
    assert epochs > 5 or ticks == list(range(1, epochs + 1))


def test_leaders_join_a_curve_s_end_and_its_label_without_a_bend() -> None:
    axis = drawn(AKD, "mini", (0,))["curves"].axes[0]
    for label in axis.texts:
        assert isinstance(label, Annotation) and label.arrow_patch is not None
        assert isinstance(label.arrow_patch.get_connectionstyle(), ConnectionStyle.Arc3)
        assert label.arrow_patch.get_connectionstyle().rad == 0


def test_mini_learning_curves_of_detection_have_five_points() -> None:
    rows = rows_of(DIST, "mini", (0,))
    axis = figures(DIST, collect(DIST, rows, "mini"), "mini")["curves"].axes[0]
    assert {len(points(line)) for line in axis.lines if line.get_marker() not in (None, "None", "")} == {5}
    recipe = load_recipe("coco_mini")
    assert recipe.epochs // recipe.eval_every >= 5


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([1.0, 5.0, 9.0], [1.0, 5.0, 9.0]),
        ([5.0, 5.0], [4.5, 5.5]),
        ([0.0, 0.0], [0.0, 1.0]),
        ([10.0, 10.0, 9.9], [9.0, 10.0, 8.0]),
    ],
)
def test_labels_are_moved_apart_and_stay_inside(wanted: list[float], expected: list[float]) -> None:
    assert spread(wanted, 1.0, 0.0, 10.0) == pytest.approx(expected)


def test_labels_of_many_curves_keep_their_order_and_distance() -> None:
    wanted = [30 + 0.01 * i for i in range(12)]
    placed = spread(wanted, 1.0, 20.0, 35.0)
    assert placed == sorted(placed)
    assert all(b - a > 0.999 for a, b in itertools.pairwise(placed))
    assert min(placed) >= 20.0
    assert max(placed) <= 35.0


def test_files_are_wide_enough_and_the_same_each_time(tmp_path: Path) -> None:
    rows = rows_of(DIST, "mini", (0,))
    first = draw_all([DIST], rows, tmp_path / "a")
    second = draw_all([DIST], rows, tmp_path / "b")
    names = [
        f"dist-coco-{name}.{suffix}" for name in ("measured", "gains", "curves", "losses") for suffix in ("png", "svg")
    ]
    assert [path.name for path in first.files] == names
    for one, other in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
        if one.suffix == ".png":
            width, _ = struct.unpack(">II", one.read_bytes()[16:24])
            assert width == 1200
        else:
            assert "<dc:date>" not in one.read_text()


def test_nothing_to_draw_is_a_message_and_no_file(tmp_path: Path) -> None:
    drawing = draw_all([DIST], [], tmp_path)
    assert drawing.files == []
    assert str(drawing) == (
        "dist/coco: nothing to draw at full scale, no run of it is finished; "
        "`kdbench run dist/coco --scale full` runs it"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_figure_without_data_is_left_out_and_named(tmp_path: Path) -> None:
    row = make_row(DIST, DIST.pairs[0], DIST.methods[1], "mini")
    drawing = draw_all([DIST], [row], tmp_path)  # no `none`, so no gain
    assert isinstance(drawing, Drawing)
    assert drawing.messages == ["dist/coco: no gains to draw"]
    assert not (tmp_path / "dist-coco-gains.png").exists()
