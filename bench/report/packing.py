"""Columns in blocks that fit a page, in the terminal and in LaTeX."""

from __future__ import annotations

from collections.abc import Sequence


def pack(widths: Sequence[float], page: float) -> list[range]:
    """Consecutive columns in the fewest blocks that are at most `page` wide, of even size where that fits.

    A column that is wider than the page is a block of its own.
    """
    starts, used = [0], 0.0
    for i, width in enumerate(widths):
        if i > starts[-1] and used + width > page:
            starts.append(i)
            used = 0.0
        used += width
    count, total = len(starts), len(widths)
    even = [round(k * total / count) for k in range(count)]
    if all(sum(widths[part.start : part.stop]) <= page for part in _ranges(even, total)):
        starts = even
    return _ranges(starts, total)


def _ranges(starts: Sequence[int], total: int) -> list[range]:
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], total], strict=True) if start < stop]
