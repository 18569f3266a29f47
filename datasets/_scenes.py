"""Scenes of handwritten digits: the embedded detection set and the constants of its difficulty.

The strokes are those of scikit-learn's bundled digits, 8x8 gray levels written by 43 people (Alpaydin and Kaynak,
Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49).

Sizes, colors and clutter are chosen so that small detectors learn in a few hundred steps: with denser scenes, paler ink
and false digits, the student alone stopped at 5 AP, where differences between methods are noise.

Any change of the scenes needs a new `VERSION`; strokes, colors and backgrounds are also those of `_pictures.py` and
`_streets.py`, which have versions of their own.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

VERSION = 4
SIZE = 128  # pixels; the side of a scene for the sizes below

EMPTY_SHARE = 0.02  # scenes without any object
OBJECTS = (2, 5)
LARGE_SHARE = 0.4  # scenes with an object of LARGE_HEIGHTS, so that COCO's "large" occurs
LARGE_HEIGHTS = (104.0, 123.0)  # pixels of the upright digit
HEIGHTS = (24.0, 84.0)  # log-uniform
STRETCH = (0.85, 1.3)  # width relative to the written width
ANGLE = 12.0  # degrees to either side
SHEAR = 0.1
# Each class has a typical hue, like many real classes: a few hundred steps do not suffice to learn shapes alone.
HUE_SPREAD = 0.02  # of the color circle, standard deviation around the class's hue; hues are 0.1 apart
OVERLAPPING = 0.05  # share of objects that may cover others; for the rest a free position is tried first
MIN_VISIBLE = 0.65  # share of an object's ink that must stay uncovered by later objects
MIN_BOX = 8  # pixels; digits with a smaller longer side are left out
ATTEMPTS = 12  # positions tried for an object before it is left out

CLUTTER = (0, 4)  # lines, arcs and blobs in a scene
CLUTTER_OPACITY = (40, 150)  # of 255
TONE = (25.0, 85.0)  # mean gray level of the background; up to about 215, ink is also dark on bright
TEXTURE = 14.0  # gray levels of the background's uneven tone
NOISE = (1.0, 6.0)  # gray levels, standard deviation

LUMA = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue in a color's gray level
INK = (0.42, 0.72)  # interpolated stroke levels at which ink is 0 and 1
BLANK = 2  # empty cells around the 8x8 strokes, for interpolation

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Palette:
    """The colors of ink; levels are gray levels, at most 255.

    Attributes:
        saturation: lowest and highest, 0 to 1.
        darkest: closer to black or white than this and `brightest`, hues are not visible.
        brightest: see `darkest`.
        contrast: between ink and background, at least.
    """

    saturation: tuple[float, float] = (0.5, 1.0)
    darkest: float = 15.0
    brightest: float = 235.0
    contrast: float = 90.0


PALE = Palette()
VIVID = Palette(saturation=(0.8, 1.0), darkest=40.0, brightest=190.0)  # of the scenes


@dataclass(frozen=True)
class Box:
    """The box of a digit's visible ink: `label` 0 to 9; left, top, width and height in whole pixels."""

    label: int
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Strokes:
    """Handwritten digits: `levels` uint8 [n, 8, 8] from 0 to 255; `labels` int64 [n]."""

    levels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def draw(self, rng: Generator) -> tuple[NDArray[np.uint8], int]:
        """A random digit of a uniformly drawn class, and its label."""
        label = int(rng.integers(10))
        return self.draw_of(label, rng), label

    def draw_of(self, label: int, rng: Generator) -> NDArray[np.uint8]:
        """A random digit of this class, [8, 8]."""
        rows = self._rows[label]
        levels: NDArray[np.uint8] = self.levels[rows[rng.integers(len(rows))]]
        return levels

    @cached_property
    def _rows(self) -> list[NDArray[np.int64]]:
        return [np.flatnonzero(self.labels == label) for label in range(10)]


def strokes(split: str) -> Strokes:
    """The digits of "train" or "val", which are disjoint: every fifth digit of each class is for "val"."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rank = np.zeros(len(labels), dtype=np.int64)  # within the class
    for label in range(10):
        rank[labels == label] = np.arange((labels == label).sum())
    chosen = (rank % 5 == 4) == (split == "val")
    levels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return Strokes(levels[chosen], labels[chosen].astype(np.int64))


def scene(rng: Generator, source: Strokes, size: int = SIZE) -> tuple[NDArray[np.uint8], list[Box]]:
    """One scene, [size, size, 3] RGB, and its objects in drawing order."""
    canvas = background(rng, size)
    owner = np.full((size, size), -1, dtype=np.int64)
    inks: list[int] = []
    labels: list[int] = []
    for height in _heights(rng):
        levels, label = source.draw(rng)
        alpha = glyph(levels, height * size / SIZE, rng)
        position = _free_position(rng, alpha, owner, inks)
        if position is None:
            continue
        x, y = position
        paint(canvas, alpha, x, y, rng.normal(label / 10, HUE_SPREAD), rng, VIVID)
        ink = alpha > 0.5
        owner[y : y + ink.shape[0], x : x + ink.shape[1]][ink] = len(inks)
        inks.append(int(ink.sum()))
        labels.append(label)
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(*NOISE))
    boxes = [_visible_box(owner == i, label) for i, label in enumerate(labels)]
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), boxes


def _heights(rng: Generator) -> list[float]:
    """Heights in pixels for a scene of `SIZE`, in descending order, so that small objects are in front."""
    if rng.random() < EMPTY_SHARE:
        return []
    heights = [log_uniform(rng, *HEIGHTS) for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1))]
    if rng.random() < LARGE_SHARE:
        heights[0] = rng.uniform(*LARGE_HEIGHTS)
    return sorted(heights, reverse=True)


def background(rng: Generator, size: int) -> Pixels:
    """A smooth, slightly uneven gradient with translucent lines, arcs and blobs, [size, size, 3]."""
    tone = rng.uniform(*TONE)
    corners = np.clip(tone + rng.uniform(-45, 45, (2, 2, 1)) + rng.uniform(-25, 25, (2, 2, 3)), 0, 255)
    smooth = Image.fromarray(corners.astype(np.uint8)).resize((9, 9), Image.Resampling.BICUBIC)
    uneven = np.asarray(smooth) + rng.uniform(-TEXTURE, TEXTURE, (9, 9, 1))
    image = Image.fromarray(np.clip(uneven, 0, 255).astype(np.uint8)).resize(
        (2 * size, 2 * size), Image.Resampling.BICUBIC
    )
    pen = ImageDraw.Draw(image, "RGBA")
    for _ in range(rng.integers(CLUTTER[0], CLUTTER[1] + 1)):
        _clutter(pen, rng, 2 * size)
    return np.asarray(image.reduce(2), dtype=np.float32).copy()


def _clutter(pen: ImageDraw.ImageDraw, rng: Generator, size: int) -> None:
    color = (*rng.integers(0, 256, 3).tolist(), int(rng.integers(*CLUTTER_OPACITY)))
    x, y = rng.uniform(0, size, 2).tolist()
    a, b = (rng.uniform(0.04, 0.3, 2) * size).tolist()
    box = (x - a, y - b, x + a, y + b)
    thick = int(rng.integers(2, max(3, size // 28)))
    shape = rng.integers(3)
    if shape == 0:
        turn = rng.uniform(0, math.pi)
        dx, dy = 2 * a * math.cos(turn), 2 * a * math.sin(turn)
        pen.line((x - dx, y - dy, x + dx, y + dy), fill=color, width=thick)
    elif shape == 1:
        start = rng.uniform(0, 360)
        pen.arc(box, start, start + rng.uniform(60, 170), fill=color, width=thick)
    else:
        pen.ellipse(box, fill=color)


def scrambled_digit(rng: Generator, source: Strokes) -> NDArray[np.uint8]:
    """Quarters of two digits at wrong corners, [8, 8]."""
    top, bottom = (source.draw(rng)[0] for _ in range(2))
    return np.block([[bottom[4:, 4:], top[4:, :4]], [top[:4, 4:], bottom[:4, :4]]])


def glyph(levels: NDArray[np.uint8], height: float, rng: Generator, angle: float = ANGLE) -> Pixels:
    """Opacity 0 to 1 of a digit scaled to `height` pixels, randomly rotated and sheared; cropped to its ink."""
    padded = np.zeros((8 + 2 * BLANK, 8 + 2 * BLANK), dtype=np.uint8)
    padded[BLANK:-BLANK, BLANK:-BLANK] = levels
    written = _extent(levels > 255 * INK[0], 0)
    scale = height / max(1, written.stop - written.start)
    turn = math.radians(rng.uniform(-angle, angle))
    rotate = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    shear = np.array([[rng.uniform(*STRETCH), rng.uniform(-SHEAR, SHEAR)], [0.0, 1.0]])
    forward = scale * rotate @ shear
    middle = padded.shape[0] / 2
    side = math.ceil(2 * middle * float(np.abs(forward).sum(axis=1).max()))
    inverse = np.linalg.inv(forward)
    # The offset maps the center of the output to the center of the strokes, with a random subpixel shift.
    offset = middle - inverse @ (np.full(2, side / 2) + rng.uniform(-0.5, 0.5, 2))
    matrix = (*inverse[0].tolist(), float(offset[0]), *inverse[1].tolist(), float(offset[1]))
    drawn = Image.fromarray(padded).transform(
        (side, side), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC
    )
    level = np.asarray(drawn, dtype=np.float32) / np.float32(255)
    level = (level - np.float32(INK[0])) / np.float32(INK[1] - INK[0])
    alpha: Pixels = np.minimum(np.maximum(level, 0), 1)  # as np.clip, which takes longer on small arrays
    ink = alpha > 0.5
    return alpha[_extent(ink, 0), _extent(ink, 1)]


def _extent(present: NDArray[np.bool_], axis: int) -> slice:
    """The range of rows (axis 0) or columns (axis 1) with any true value in `present`, [h, w]."""
    (indices,) = np.nonzero(present.any(axis=1 - axis))
    return slice(int(indices[0]), int(indices[-1]) + 1) if len(indices) else slice(0, 0)


def _random_position(rng: Generator, alpha: Pixels, size: int) -> tuple[int, int]:
    height, width = alpha.shape
    return int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))


def _free_position(rng: Generator, alpha: Pixels, owner: NDArray[np.int64], inks: list[int]) -> tuple[int, int] | None:
    """Left and top of a position that leaves earlier objects visible enough; None if no try succeeded."""
    height, width = alpha.shape
    size = len(owner)
    if max(height, width) > size or min(height, width) == 0 or max(height, width) < MIN_BOX:
        return None
    ink = alpha > 0.5
    before = np.bincount(owner[owner >= 0], minlength=len(inks))
    free_first = 0 if rng.random() < OVERLAPPING else ATTEMPTS
    for attempt in range(free_first + ATTEMPTS):
        x, y = _random_position(rng, alpha, size)
        beneath = owner[y : y + height, x : x + width]
        if attempt < free_first and (beneath >= 0).any():
            continue
        hidden = beneath[ink]
        left = before - np.bincount(hidden[hidden >= 0], minlength=len(inks))
        if (left >= MIN_VISIBLE * np.array(inks)).all():
            return x, y
    return None


def paint(canvas: Pixels, alpha: Pixels, x: int, y: int, hue: float, rng: Generator, palette: Palette = PALE) -> None:
    """Draw a digit on the canvas in a color of about this hue (0 to 1), bright on dark or dark on bright."""
    if not alpha.size:
        return
    here = canvas[y : y + alpha.shape[0], x : x + alpha.shape[1]]
    beneath = float(here.mean(axis=(0, 1), dtype=np.float64) @ LUMA)
    bright = beneath < 110 or (beneath < 145 and rng.random() < 0.5)
    color = 255 * np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(*palette.saturation), 1.0))
    if bright:
        goal = rng.uniform(min(palette.brightest, beneath + palette.contrast), palette.brightest)
    else:
        goal = rng.uniform(palette.darkest, max(palette.darkest, beneath - palette.contrast))
    # Shifting the brightness to the goal can exceed the range of a channel; iterations correct for the clipping.
    for _ in range(3):
        color = np.minimum(np.maximum(color + (goal - float(color @ LUMA)), 0), 255)
    here += alpha[..., None] * (color.astype(np.float32) - here)


def _visible_box(visible: NDArray[np.bool_], label: int) -> Box:
    rows, columns = _extent(visible, 0), _extent(visible, 1)
    return Box(label, columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)


def log_uniform(rng: Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))
