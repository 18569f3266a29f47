"""The figure of a table over commits: lines, steps, what is left out, and the same bytes for the same rows."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from kdbench.records.row import Row
from kdbench.regress.history import history
from kdbench.regress.history_figure import draw_history, history_figure
from tests.helpers.altered import altered
from tests.helpers.rows import expand, mini_truth
from tests.helpers.tables import fixed_table

DIST = fixed_table("dist/coco")
COMMITS = ("a11111111111", "b22222222222", "c33333333333+", "d44444444444")


def rows_at(at: int, seeds: tuple[int, ...] = (0, 1, 2, 3, 4)) -> list[Row]:
    """From the third commit on `dist` has lost 9 AP, and from the fourth it is slower by half."""
    noise = random.Random(at)
    made = expand(DIST, "mini", seeds, lambda pair, entry, seed: mini_truth(pair, entry, seed) + noise.gauss(0, 0.3))
    found = []
    for row in made:
        hit = row.run.method == "dist" and row.metrics is not None
        values = {"ap": row.metrics.last["ap"] - 9} if hit and at >= 2 and row.metrics else None
        factor = 1.5 if hit and at >= 3 else 1.0
        found.append(altered(row, commit=COMMITS[at], day=at + 1, factor=factor, values=values))
    return found


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [row for at in range(4) for row in rows_at(at)]


@pytest.fixture(scope="module")
def figure(rows: list[Row]) -> Figure:
    drawn = history_figure(DIST, history(DIST, rows, "mini"), "mini")
    assert drawn is not None
    FigureCanvasAgg(drawn)
    drawn.draw_without_rendering()
    return drawn


def steps(axis: Axes) -> list[tuple[str, int]]:
    """Marker and commit of each step."""
    marks = [line for line in axis.lines if line.get_marker() in ("v", "^") and len(line.get_xdata())]  # type: ignore[arg-type]
    return [(str(line.get_marker()), int(points(line)[0][0])) for line in marks]


def points(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def end(axis: Axes) -> float:
    """The last commit that a line of the panel reaches."""
    return max(points(line)[-1][0] for line in axis.lines if points(line))


def names(axis: Axes) -> list[str]:
    return sorted(text.get_text() for text in axis.texts)


def test_a_block_has_a_panel_of_accuracy_and_one_of_step_time_with_its_steps(figure: Figure) -> None:
    accuracy, speed = figure.axes[:2]
    assert len(figure.axes) == 4  # two blocks
    assert steps(accuracy) == [("v", 2)] and steps(speed) == [("v", 3)]
    assert accuracy.get_ylabel() == "AP (%)" and speed.get_ylabel() == "step (ms)"
    assert speed.get_title(loc="left") == "step time on 2-core x86"
    first, last = names(accuracy), names(speed)
    assert first[0] == "dist+mimic" and first[2] == "none"
    assert first[1].startswith("dist: -") and first[1].endswith(" at c333333")
    assert last == ["dist+mimic", "dist: ×1.50 at d444444", "none"]


def test_lines_run_through_the_means_and_commits_bear_their_days(figure: Figure, rows: list[Row]) -> None:
    accuracy = figure.axes[0]
    none = next(line for line in accuracy.lines if line.get_color() == "#000000")
    same = [row for row in rows if row.run.student == "retinanet_mini_student" and row.run.method == "none"]
    means = [
        np.mean([row.metrics.last["ap"] for row in same if row.metrics and row.environment.commit == commit])
        for commit in COMMITS
    ]
    assert points(none) == [(i, pytest.approx(mean)) for i, mean in enumerate(means)]
    ticks = [label.get_text() for label in accuracy.get_xticklabels()]
    assert ticks == ["a111111\n2026-01-01", "b222222\n2026-01-02", "c333333+\n2026-01-03", "d444444\n2026-01-04"]


def test_no_text_overlaps_another_or_leaves_the_page(figure: Figure) -> None:
    page = figure.bbox.padded(1)
    for axis in figure.axes:
        shown = [*axis.texts, *axis.get_xticklabels(), axis.title]
        boxes = [(one.get_text(), Text.get_window_extent(one).padded(-1.5)) for one in shown if one.get_text()]
        assert len(boxes) > len(COMMITS)
        for (one, a), (other, b) in itertools.combinations(boxes, 2):
            assert not a.overlaps(b), f"{one!r} overlaps {other!r}"
        for words, box in boxes:
            assert page.x0 <= box.x0 and box.x1 <= page.x1, f"{words!r} leaves the page"


def test_noise_does_not_fill_the_panel(rows: list[Row]) -> None:
    still = [row for row in rows if row.run.method == "none"]
    drawn = history_figure(DIST, history(DIST, still, "mini"), "mini")
    assert drawn is not None
    low, high = drawn.axes[0].get_ylim()
    assert high - low >= 6.0
    assert steps(drawn.axes[0]) == []


def test_a_method_that_diverges_is_marked_at_its_last_number(rows: list[Row]) -> None:
    lost = [
        row.model_copy(update={"status": "diverged", "reason": "nan", "metrics": None})
        if row.run.method == "dist" and row.environment.commit == COMMITS[3]
        else row
        for row in rows
    ]
    drawn = history_figure(DIST, history(DIST, lost, "mini"), "mini")
    assert drawn is not None
    assert steps(drawn.axes[0]) == [("v", 2), ("v", 3)]
    assert any(name.endswith("diverged at d444444") for name in names(drawn.axes[0]))


def test_step_times_of_another_machine_are_left_out(rows: list[Row]) -> None:
    moved = [altered(row, machine="H100 x1") if row.environment.commit == COMMITS[3] else row for row in rows]
    drawn = history_figure(DIST, history(DIST, moved, "mini"), "mini")
    assert drawn is not None
    accuracy, speed = drawn.axes[:2]
    assert end(accuracy) == 3
    assert end(speed) == 2


def test_files_are_written_and_the_same_each_time(rows: list[Row], tmp_path: Path) -> None:
    few = [row for row in rows if row.run.method != "dist+mimic"]
    one, other = (draw_history(DIST, few, tmp_path / name) for name in "ab")
    assert [path.name for path in one] == ["dist-coco-history.png", "dist-coco-history.svg"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_one_commit_has_no_history(tmp_path: Path) -> None:
    assert draw_history(DIST, rows_at(0, (0,)), tmp_path) == []
    assert draw_history(DIST, [], tmp_path) == []
    assert list(tmp_path.iterdir()) == []
