"""Wide scenes of handwritten digits with a label for every pixel: the embedded segmentation set, and how hard it is.

They are drawn from the strokes, colours and backgrounds of `_scenes.py`; any change to what is drawn needs a new
`VERSION` there.
"""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from . import _scenes
from ._scenes import Pixels, Strokes
from .base import VOID
from .cityscapes import Label

HEIGHT, WIDTH = 128, 256  # pixels

OBJECTS = (4, 8)  # digits that are tried
HEIGHTS = (36.0, 104.0)  # pixels of the upright digit, log-uniform: strokes must survive an output stride of 8
DISTRACTORS = (0, 2)  # scrambled digits: real strokes, no digit
ATTEMPTS = 24  # places tried for a digit, which must be free, before it is given up
HUE_SPREAD = 0.05  # of the colour circle, around the class's own hue; classes are 0.1 apart
BORDER = 3  # pixels around the scene that count for nothing, as the frame of a rectified photograph

UNLABELED, BACKGROUND = 0, 1  # ids in the masks; digit d is d + 2

LABELS = [
    Label("unlabeled", UNLABELED, VOID, (0, 0, 0)),
    Label("background", BACKGROUND, 0, (70, 70, 70)),
    *(
        Label(str(d), d + 2, d + 1, tuple(round(255 * c) for c in colorsys.hsv_to_rgb(d / 10, 0.85, 0.95)))  # type: ignore[arg-type]
        for d in range(10)
    ),
]


def street(rng: Generator, source: Strokes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One scene, RGB [HEIGHT, WIDTH, 3], and the label id of every pixel, [HEIGHT, WIDTH]."""
    top = int(rng.integers(WIDTH - HEIGHT + 1))
    canvas = _scenes._background(rng, WIDTH)[top : top + HEIGHT].copy()
    for _ in range(rng.integers(DISTRACTORS[0], DISTRACTORS[1] + 1)):
        alpha = _scenes._glyph(_scenes._scrambled(rng, source), _scenes._log_uniform(rng, *HEIGHTS), rng)
        if (spot := _spot(rng, alpha)) is not None:
            _scenes._paint(canvas, alpha, *spot, rng.random(), rng)
    ids = np.full((HEIGHT, WIDTH), BACKGROUND, dtype=np.uint8)
    heights = [_scenes._log_uniform(rng, *HEIGHTS) for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1))]
    for height in sorted(heights, reverse=True):
        levels, label = source.draw(rng)
        _put(canvas, ids, _scenes._glyph(levels, height, rng), label, rng)
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(*_scenes.NOISE))
    inside = ids[BORDER:-BORDER, BORDER:-BORDER]
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), np.pad(inside, BORDER, constant_values=UNLABELED)


def _put(canvas: Pixels, ids: NDArray[np.uint8], alpha: Pixels, label: int, rng: Generator) -> None:
    """Draw a digit and its label where nothing is yet; nowhere, if no such place is found."""
    for _ in range(ATTEMPTS):
        spot = _spot(rng, alpha)
        if spot is None:
            return
        x, y = spot
        here = ids[y : y + alpha.shape[0], x : x + alpha.shape[1]]
        if (here == BACKGROUND).all():
            _scenes._paint(canvas, alpha, x, y, rng.normal(label / 10, HUE_SPREAD), rng)
            here[alpha > 0.5] = label + 2
            return


def _spot(rng: Generator, alpha: Pixels) -> tuple[int, int] | None:
    """Left and top of a random place; None if it does not fit."""
    height, width = alpha.shape
    if not alpha.size or height > HEIGHT or width > WIDTH:
        return None
    return int(rng.integers(WIDTH - width + 1)), int(rng.integers(HEIGHT - height + 1))
