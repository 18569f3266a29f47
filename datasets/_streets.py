"""Wide scenes of handwritten digits with pixel labels: the embedded segmentation set and its difficulty constants.

They are drawn with the strokes, colors and backgrounds of `_scenes.py`; any change of the images needs a new `VERSION`.
"""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from . import _scenes
from ._scenes import Pixels, Strokes
from .base import IGNORE_INDEX
from .cityscapes import Label

VERSION = 3
HEIGHT, WIDTH = 128, 256  # pixels

OBJECTS = (4, 8)  # number of digits for which a position is searched
HEIGHTS = (36.0, 104.0)  # pixels of the upright digit, log-uniform: strokes must be visible at an output stride of 8
DISTRACTORS = (0, 2)  # scrambled digits: real strokes, no digit
ATTEMPTS = 24  # positions tried for a digit; if none is free, it is left out
HUE_SPREAD = 0.05  # of the color circle, around the class's hue; hues are 0.1 apart
BORDER = 3  # ignored pixels around the scene, like the border of a rectified photograph

UNLABELED, BACKGROUND = 0, 1  # ids in the masks; digit d is d + 2

LABELS = [
    Label("unlabeled", UNLABELED, IGNORE_INDEX, (0, 0, 0)),
    Label("background", BACKGROUND, 0, (70, 70, 70)),
    *(
        Label(str(d), d + 2, d + 1, tuple(round(255 * c) for c in colorsys.hsv_to_rgb(d / 10, 0.85, 0.95)))  # type: ignore[arg-type]
        for d in range(10)
    ),
]


def street(rng: Generator, source: Strokes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One scene, RGB [HEIGHT, WIDTH, 3], and the label id of every pixel, [HEIGHT, WIDTH]."""
    top = int(rng.integers(WIDTH - HEIGHT + 1))
    canvas = _scenes.background(rng, WIDTH)[top : top + HEIGHT].copy()
    for _ in range(rng.integers(DISTRACTORS[0], DISTRACTORS[1] + 1)):
        alpha = _scenes.glyph(_scenes.scrambled_digit(rng, source), _scenes.log_uniform(rng, *HEIGHTS), rng)
        if (position := _random_position(rng, alpha)) is not None:
            _scenes.paint(canvas, alpha, *position, rng.random(), rng)
    ids = np.full((HEIGHT, WIDTH), BACKGROUND, dtype=np.uint8)
    heights = [_scenes.log_uniform(rng, *HEIGHTS) for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1))]
    for height in sorted(heights, reverse=True):
        levels, label = source.draw(rng)
        _put(canvas, ids, _scenes.glyph(levels, height, rng), label, rng)
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(*_scenes.NOISE))
    inside = ids[BORDER:-BORDER, BORDER:-BORDER]
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), np.pad(inside, BORDER, constant_values=UNLABELED)


def _put(canvas: Pixels, ids: NDArray[np.uint8], alpha: Pixels, label: int, rng: Generator) -> None:
    """Draw a digit and its label at a random free position, if one is found."""
    for _ in range(ATTEMPTS):
        position = _random_position(rng, alpha)
        if position is None:
            return
        x, y = position
        here = ids[y : y + alpha.shape[0], x : x + alpha.shape[1]]
        if (here == BACKGROUND).all():
            _scenes.paint(canvas, alpha, x, y, rng.normal(label / 10, HUE_SPREAD), rng)
            here[alpha > 0.5] = label + 2
            return


def _random_position(rng: Generator, alpha: Pixels) -> tuple[int, int] | None:
    """Left and top of a random position; None if the digit is too large."""
    height, width = alpha.shape
    if not alpha.size or height > HEIGHT or width > WIDTH:
        return None
    return int(rng.integers(WIDTH - width + 1)), int(rng.integers(HEIGHT - height + 1))
