"""Pictures of one handwritten digit each: the embedded classification set, and how hard it is.

They are drawn from the strokes, colours and backgrounds of `_scenes.py`; any change to what is drawn needs a new
`VERSION` there.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from . import _scenes
from ._scenes import Pixels, Strokes

SIDE = 32  # pixels
MARGIN = 20  # pixels around the picture that are drawn and cut away, so that it shows parts of digits at its border

HEIGHTS = (11.0, 25.0)  # pixels of the upright digit, log-uniform
ANGLE = 30.0  # degrees to either side
CONTRAST = 45.0  # grey levels between ink and what lies beneath, at least
SHIFT = 5.0  # pixels from the middle, at most, in either direction
NEIGHBOURS = (3, 5)  # other digits, cut off at the border
RING = (14.0, 21.0)  # pixels of their middles from the picture's
NOISE = (6.0, 34.0)  # grey levels, standard deviation


def pictures(seed: tuple[int, ...], source: Strokes, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures of the digits 0 to 9 in turn: uint8 [count, 32, 32, 3] and int64 [count].

    A picture does not depend on how many there are.
    """
    labels = np.arange(count, dtype=np.int64) % 10
    images = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
    rows = [np.flatnonzero(source.labels == label) for label in range(10)]
    for i, label in enumerate(labels):
        rng = np.random.default_rng((*seed, i))
        images[i] = picture(rng, source, source.levels[rng.choice(rows[label])])
    return images, labels


def picture(rng: Generator, source: Strokes, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One picture of the digit with these strokes, uint8 [8, 8], over parts of others at the border."""
    size = SIDE + 2 * MARGIN
    canvas = _scenes._background(rng, size)
    for _ in range(rng.integers(NEIGHBOURS[0], NEIGHBOURS[1] + 1)):
        turn, distance = rng.uniform(0, 2 * math.pi), rng.uniform(*RING)
        _put(canvas, rng, source.draw(rng)[0], distance * math.cos(turn), distance * math.sin(turn))
    _put(canvas, rng, levels, *rng.uniform(-SHIFT, SHIFT, 2))
    seen = canvas[MARGIN:-MARGIN, MARGIN:-MARGIN]
    seen += rng.standard_normal(seen.shape, dtype=np.float32) * np.float32(rng.uniform(*NOISE))
    cut: NDArray[np.uint8] = np.clip(np.rint(seen), 0, 255).astype(np.uint8)
    return cut


def _put(canvas: Pixels, rng: Generator, levels: NDArray[np.uint8], right: float, down: float) -> None:
    """Draw a digit of any hue with its middle that far from the canvas's."""
    alpha = _scenes._glyph(levels, _scenes._log_uniform(rng, *HEIGHTS), rng, ANGLE)
    limit = np.array(canvas.shape[:2]) - alpha.shape
    y, x = np.clip(np.rint(limit / 2 + (down, right)).astype(np.int64), 0, limit).tolist()
    _scenes._paint(canvas, alpha, x, y, rng.random(), rng, CONTRAST)
