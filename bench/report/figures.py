"""The three figures of a table: measured against reported, gains over our `none`, learning curves.

Figures are 1200 pixels wide at 150 dpi. The first colors are those of Okabe and Ito, which differ in any color vision.
No meaning rests on color alone: methods also differ in marker and dash, and are labeled.
"""

from __future__ import annotations

import statistics
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb, to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, MaxNLocator

from ..spec.scale import Scale
from ..spec.table import Table
from . import values
from .blocks import Block, Line
from .cells import Cell
from .verdicts import Sample

WIDTH = 8.0  # inches
LINE = 0.27  # height of a method, inches
SMALL = 8.5  # points
TITLE = 84  # characters of a line of a title
TICKS = 10  # epochs that are all marked, at most

BLUE, VERMILLION, BLACK, GREY = "#0072B2", "#D55E00", "#000000", "#6E6E6E"
COLORS = (
    *(BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),  # Okabe and Ito
    *("#332288", "#882255", "#999933", "#AA4499", "#44AA99", "#7F4A1E"),  # after Tol's qualitative schemes
)
MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "d")  # `none` has a circle
DASHES = ("-", "--", "-.", ":")


def measured_figure(table: Table, blocks: Sequence[Block], scale: Scale) -> Figure | None:
    """Measured means with 95 % intervals; at full scale beside the reported numbers, at mini scale alone."""
    drawn = [(block, lines) for block in blocks if (lines := [line for line in block.lines if line.cell.measured])]
    if not drawn:
        return None
    subject = (
        "measured against reported" if scale == "full" else "measured at mini scale, not comparable with the paper"
    )
    figure, axes = stacked_panels(f"{table.title}: {subject}", [len(lines) + 1 for _, lines in drawn])
    for axis, (block, lines) in zip(axes, drawn, strict=True):
        _categories(axis, ["teacher", *(line.label for line in lines)])
        _teacher_point(axis, block, scale)
        for y, line in enumerate(lines, 1):
            _measured_point(axis, y, line.cell, scale)
        title_panel(axis, block)
        axis.set_xlabel(f"{values.metric_title(table)} (%)")
    label = _interval("measured mean", [line.cell.measured for _, lines in drawn for line in lines])
    handles: list[Any] = [axes[0].errorbar([], [], xerr=[], **_dot(BLUE), label=label)]
    if scale == "full":
        handles += axes[0].plot([], [], **_diamond(), label="reported")
        handles += axes[0].plot([], [], **_band(), label="reported ± tolerance of the verdict")
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=SMALL)
    return figure


def gains_figure(table: Table, blocks: Sequence[Block], scale: Scale) -> Figure | None:
    """Gains over our `none`, best first, each with its training time."""
    drawn = [(block, lines) for block in blocks if (lines := [line for line in block.lines if line.cell.gain])]
    if not drawn:
        return None
    where = ", mini scale" if scale == "mini" else ""
    figure, axes = stacked_panels(
        f"{table.title}: gain over our none at equal steps{where}", [len(lines) for _, lines in drawn]
    )
    for axis, (block, lines) in zip(axes, drawn, strict=True):
        lines = sorted(lines, key=lambda line: -(line.cell.gain.mean if line.cell.gain else 0.0))
        _categories(axis, [line.label for line in lines])
        for y, line in enumerate(lines):
            gain = line.cell.gain
            assert gain is not None
            axis.plot([0, gain.mean], [y, y], color=BLUE, linewidth=4, alpha=0.3, solid_capstyle="butt")
            axis.errorbar([gain.mean], [y], xerr=None if gain.half_width is None else [gain.half_width], **_dot(BLUE))
            cost = values.time_factor(line.cell)
            _right_text(axis, y, f"{gain.mean:+.2f}{'' if gain.sd is not None else ' (n=1)'}, {cost} time")
        axis.axvline(0, color=BLACK, linewidth=0.8)
        title_panel(axis, block)
        if axis is not axes[0]:
            axis.sharex(axes[0])
        axis.set_xlabel(f"gain ({values.metric_title(table)} points)")
    label = _interval("mean gain", [line.cell.gain for _, lines in drawn for line in lines])
    figure.legend(
        handles=[axes[0].errorbar([], [], xerr=[], **_dot(BLUE), label=label)],
        loc="outside lower left",
        frameon=False,
        fontsize=SMALL,
    )
    return figure


def curves_figure(table: Table, blocks: Sequence[Block], scale: Scale) -> Figure | None:
    """The metric after each evaluated epoch, mean over seeds, with the teacher's score."""
    drawn = [(block, lines) for block in blocks if (lines := [line for line in block.lines if curve(line.cell)])]
    if not drawn:
        return None
    where = ", mini scale" if scale == "mini" else ""
    several = any(len(line.cell.rows) > 1 for _, lines in drawn for line in lines)
    title = f"{table.title}: learning curves, {'mean over seeds' if several else 'one seed'}{where}"
    figure, axes = stacked_panels(title, [max(len(lines) + 2, 7) for _, lines in drawn])
    order = method_order([line for _, lines in drawn for line in lines])
    for axis, (block, lines) in zip(axes, drawn, strict=True):
        for line in lines:
            _curve(axis, line, order)
        if block.teacher_measured is not None:
            axis.axhline(block.teacher_measured, color=GREY, linestyle=(0, (6, 3)), linewidth=1.2)
            label_curve(axis, axis.get_xlim()[1], block.teacher_measured, "teacher", GREY)
        epoch_ticks(axis, [epoch for line in lines for epoch in curve(line.cell)])
        axis.grid(axis="y", color="#E4E4E4", linewidth=0.6)
        axis.margins(x=0.01)
        title_panel(axis, block)
        axis.set_xlabel("epoch")
        axis.set_ylabel(f"{values.metric_title(table)} (%)")
    spread_labels(figure, axes)
    return figure


def curve(cell: Cell) -> dict[int, float]:
    """Mean over a cell's seeds of the metric after each evaluated epoch, percent."""
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for row in cell.rows:
        for epoch in row.history:
            if cell.metric in epoch.metrics:
                by_epoch[epoch.epoch].append(epoch.metrics[cell.metric])
    return {epoch: statistics.fmean(scores) for epoch, scores in sorted(by_epoch.items())}


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart, in the order of `wanted` and close to it, within `low` and `high` if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    clusters: list[tuple[float, list[int]]] = []  # center and indices of labels that touch
    for i in order:
        clusters.append((_within(wanted[i], 0.0, low, high), [i]))
        while len(clusters) > 1 and _touch(clusters[-2], clusters[-1], gap):
            (below, a), (above, b) = clusters[-2:]
            center = (below * len(a) + above * len(b)) / (len(a) + len(b))
            half = (len(a) + len(b) - 1) / 2 * gap
            clusters[-2:] = [(_within(center, half, low, high), a + b)]
    placed = [0.0] * len(wanted)
    for center, indices in clusters:
        for k, i in enumerate(indices):
            placed[i] = center + (k - (len(indices) - 1) / 2) * gap
    return placed


def _touch(below: tuple[float, list[int]], above: tuple[float, list[int]], gap: float) -> bool:
    return above[0] - below[0] < gap * (len(below[1]) + len(above[1])) / 2


def _within(center: float, half: float, low: float, high: float) -> float:
    return min(max(center, low + half), high - half) if high - low >= 2 * half else (low + high) / 2


def stacked_panels(title: str, lines: Sequence[int]) -> tuple[Figure, list[Axes]]:
    """A figure with one panel a block below each other, each as high as its lines need."""
    heights = [LINE * count + 0.8 for count in lines]
    engine = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.8), layout=engine)
    figure.suptitle(textwrap.fill(title, TITLE), x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes = figure.subplots(len(lines), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axis in axes.flat:
        axis.tick_params(labelsize=SMALL)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.flat)


def title_panel(axis: Axes, block: Block) -> None:
    """Title a panel with the networks of its block."""
    axis.set_title(block.title.replace("->", "→"), loc="left", fontsize=9.5)
    axis.xaxis.label.set_fontsize(9)
    axis.yaxis.label.set_fontsize(9)


def _categories(axis: Axes, labels: Sequence[str]) -> None:
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#E4E4E4", linewidth=0.6)
    axis.set_axisbelow(True)


def _teacher_point(axis: Axes, block: Block, scale: Scale) -> None:
    words = []
    if block.teacher_measured is not None:
        axis.plot([block.teacher_measured], [0], marker="s", color=GREY, markersize=5.5)
        axis.axvline(block.teacher_measured, color=GREY, linestyle=(0, (6, 3)), linewidth=0.8)
        words.append(f"{block.teacher_measured:.1f}")
    reported = next((line.cell.teacher_reported for line in block.lines), None)
    if scale == "full" and reported is not None:
        axis.plot([reported], [0], **_diamond())
        words.append(f"reported {reported:.1f}")
    _right_text(axis, 0, ", ".join(words) or "not measured")


def _measured_point(axis: Axes, y: int, cell: Cell, scale: Scale) -> None:
    measured = cell.measured
    assert measured is not None
    if scale == "full" and cell.reported_value is not None:
        if cell.verdict.tolerance is not None:
            ends = [cell.reported_value - cell.verdict.tolerance, cell.reported_value + cell.verdict.tolerance]
            axis.plot(ends, [y, y], **_band())
        axis.plot([cell.reported_value], [y], **_diamond())
    axis.errorbar(
        [measured.mean], [y], xerr=None if measured.half_width is None else [measured.half_width], **_dot(BLUE)
    )
    words = f"{measured.mean:.2f}" + (" (n=1)" if measured.sd is None else f" (n={measured.n})")
    if scale == "full":
        words += f", {cell.verdict.word}" if cell.reported_value is not None else ", no reported number"
    _right_text(axis, y, words)


def epoch_ticks(axis: Axes, epochs: Sequence[int]) -> None:
    """Ticks at the evaluated epochs where they are few, else at whole numbers."""
    few = sorted(set(epochs))
    whole = MaxNLocator(integer=True, min_n_ticks=1)
    axis.xaxis.set_major_locator(FixedLocator(few) if len(few) <= TICKS else whole)


def method_color(i: int, count: int) -> str:
    """The color of the i-th of `count` methods; no two of them have the same."""
    if count <= len(COLORS):
        return COLORS[i]
    saturation, value = ((0.95, 0.62), (0.65, 0.85), (0.9, 0.42))[i % 3]
    return to_hex(hsv_to_rgb((i / count, saturation, value)).tolist())


def method_order(lines: Sequence[Line]) -> list[str]:
    """Labels of the methods by which `method_style` tells them apart."""
    return list(dict.fromkeys(line.label for line in lines if line.cell.entry.method != "none"))


def method_style(line: Line, order: Sequence[str]) -> dict[str, Any]:
    """Color, marker and dash of a method's curve; `none` is black."""
    if line.cell.entry.method == "none":
        return {"color": BLACK, "marker": "o", "linestyle": "-", "linewidth": 2.2, "markersize": 4}
    i = order.index(line.label)
    color, marker, dash = method_color(i, len(order)), MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)]
    return {"color": color, "marker": marker, "linestyle": dash, "linewidth": 1.4, "markersize": 4}


def _curve(axis: Axes, line: Line, order: Sequence[str]) -> Annotation:
    points = curve(line.cell)
    epochs, scores = list(points), list(points.values())
    style = method_style(line, order)
    axis.plot(epochs, scores, **style)
    return label_curve(axis, epochs[-1], scores[-1], line.label, style["color"])


def label_curve(axis: Axes, x: float, y: float, text: str, color: str) -> Annotation:
    """Label a curve right of the axes, with a thin line to its end; `spread_labels` moves labels apart."""
    return axis.annotate(
        text,
        xy=(x, y),
        xytext=(1.05, y),
        textcoords=axis.get_yaxis_transform(),
        va="center",
        fontsize=SMALL,
        color=BLACK,
        annotation_clip=False,
        arrowprops={
            "arrowstyle": "-",
            "color": color,
            "linewidth": 0.7,
            "shrinkA": 1,
            "shrinkB": 2,
            "relpos": (0, 0.5),
        },
    )


def spread_labels(figure: Figure, axes: Sequence[Axes]) -> None:
    """Move labels of curves apart, once the layout has set the height of every panel."""
    for axis in axes:
        edge = axis.get_xlim()[1]
        for label in axis.texts:
            if isinstance(label, Annotation) and label.get_text() == "teacher":
                label.xy = (edge, label.xy[1])
    figure.draw_without_rendering()
    for axis in axes:
        low, high = axis.get_ylim()
        height = axis.get_window_extent().height * 72 / figure.dpi  # points
        labels = [text for text in axis.texts if isinstance(text, Annotation)]
        gap = (high - low) * SMALL * 1.25 / height
        for label, y in zip(labels, spread([label.xy[1] for label in labels], gap, low, high), strict=True):
            label.set_position((1.05, y))


def _interval(what: str, samples: Sequence[Sample | None]) -> str:
    """The legend of the error bars, where there are any."""
    bars = [sample.sd is not None for sample in samples if sample]
    if all(bars):
        return f"{what} and 95 % interval over seeds"
    return (
        f"{what}; 95 % interval where n > 1"
        if any(bars)
        else f"{what.replace('mean', '').strip()} from one seed, no interval"
    )


def _right_text(axis: Axes, y: float, text: str) -> None:
    axis.text(1.015, y, text, transform=axis.get_yaxis_transform(), va="center", fontsize=SMALL)


def _dot(color: str) -> dict[str, Any]:
    return {"fmt": "o", "color": color, "markersize": 5.5, "capsize": 3, "elinewidth": 1.3, "zorder": 4}


def _diamond() -> dict[str, Any]:
    return {
        "marker": "D",
        "markersize": 6.5,
        "markerfacecolor": "none",
        "markeredgecolor": VERMILLION,
        "markeredgewidth": 1.5,
        "linestyle": "none",
        "zorder": 3,
    }


def _band() -> dict[str, Any]:
    return {"color": VERMILLION, "alpha": 0.25, "linewidth": 7, "solid_capstyle": "butt", "zorder": 2}
