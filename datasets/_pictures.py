"""Images of single handwritten digits: the embedded classification set and the constants of its difficulty.

They are drawn with the strokes, colors and backgrounds of `_scenes.py`; any change of the images needs a new `VERSION`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from . import _scenes
from ._scenes import Pixels, Strokes

VERSION = 3
SIDE = 32  # pixels
MARGIN = 20  # pixels around the image that are drawn and cropped, so that digits are cut off at the border

HEIGHTS = (11.0, 25.0)  # pixels of the upright digit, log-uniform
ANGLE = 30.0  # degrees to either side
PALETTE = _scenes.Palette(contrast=45.0)
SHIFT = 5.0  # largest offset from the center in pixels, in both directions
NEIGHBORS = (3, 5)  # number of further digits, cut off at the border
RING = (14.0, 21.0)  # distance of their centers from the center of the image, in pixels
NOISE = (6.0, 34.0)  # gray levels, standard deviation


def pictures(seed: tuple[int, ...], source: Strokes, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images of the digits 0 to 9 in turn, uint8 [count, 32, 32, 3], and their labels, int64 [count].

    An image does not depend on `count`.
    """
    labels = np.arange(count, dtype=np.int64) % 10
    images = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
    for i, label in enumerate(labels):
        rng = np.random.default_rng((*seed, i))
        images[i] = picture(rng, source, source.draw_of(int(label), rng))
    return images, labels


def picture(rng: Generator, source: Strokes, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One image of the digit with these strokes, uint8 [8, 8], with parts of further digits at the border."""
    size = SIDE + 2 * MARGIN
    canvas = _scenes.background(rng, size)
    for _ in range(rng.integers(NEIGHBORS[0], NEIGHBORS[1] + 1)):
        turn, distance = rng.uniform(0, 2 * math.pi), rng.uniform(*RING)
        _put(canvas, rng, source.draw(rng)[0], distance * math.cos(turn), distance * math.sin(turn))
    _put(canvas, rng, levels, *rng.uniform(-SHIFT, SHIFT, 2))
    visible = canvas[MARGIN:-MARGIN, MARGIN:-MARGIN]
    visible += rng.standard_normal(visible.shape, dtype=np.float32) * np.float32(rng.uniform(*NOISE))
    image: NDArray[np.uint8] = np.clip(np.rint(visible), 0, 255).astype(np.uint8)
    return image


def _put(canvas: Pixels, rng: Generator, levels: NDArray[np.uint8], right: float, down: float) -> None:
    """Draw a digit of random hue with its center at this offset from the canvas's center."""
    alpha = _scenes.glyph(levels, _scenes.log_uniform(rng, *HEIGHTS), rng, ANGLE)
    limit = np.array(canvas.shape[:2]) - alpha.shape
    y, x = np.clip(np.rint(limit / 2 + (down, right)).astype(np.int64), 0, limit).tolist()
    _scenes.paint(canvas, alpha, x, y, rng.random(), rng, PALETTE)
