"""Predictions drawn into images."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..text import one_line

Color = tuple[int, int, int]
Palette = tuple[Color, ...]

LEAST_SIDE = 256
"""Smaller images are enlarged by a whole number before anything is drawn, so that text can be read."""

OPACITY = 0.55  # of a mask over its image


def palette(classes: int, colors: Sequence[Color] | None = None) -> Palette:
    """A color for each class: those of a data set, else hues as far apart as possible."""
    if colors is not None:
        return tuple(colors)
    hues = [(i * 0.61803398875) % 1 for i in range(classes)]
    rgb = [colorsys.hsv_to_rgb(hue, 0.75, 0.95) for hue in hues]
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in rgb)


def captioned(image: Image.Image, top: Sequence[Mapping[str, Any]]) -> Image.Image:
    """An image with its best classes below."""
    shown, _ = _enlarged(image)
    font, lines = _font(shown), [f"{each['score']:.2f}  {one_line(each['class'])}" for each in top]
    line = round(1.4 * font.size)
    canvas = Image.new("RGB", (shown.width, shown.height + line * len(lines) + line // 2), "white")
    canvas.paste(shown, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for i, text in enumerate(lines):
        draw.text((line // 3, shown.height + line // 4 + i * line), text, "black", font)
    return canvas


def with_boxes(image: Image.Image, boxes: Sequence[Mapping[str, Any]], colors: Palette) -> Image.Image:
    """An image with boxes, their classes and scores; the best one is drawn last, over the others."""
    shown, factor = _enlarged(image)
    draw, font = ImageDraw.Draw(shown), _font(shown)
    width = max(1, round(font.size / 7))
    for box in reversed(boxes):
        left, top, right, bottom = (factor * side for side in box["box"])
        color = colors[box["index"]]
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=color, width=width)
        text = f"{one_line(box['class'])} {box['score']:.2f}"
        place = (left, max(0, top - 1.2 * font.size))
        draw.rectangle(draw.textbbox(place, text, font), fill=color)
        draw.text(place, text, _ink(color), font)
    return shown


def mask(classes: NDArray[np.uint8], colors: Palette) -> Image.Image:
    """Class indices [H, W] as an image with a palette."""
    image = Image.fromarray(classes).convert("P")
    image.putpalette([side for color in colors for side in color])
    return image


def overlaid(
    image: Image.Image, classes: Image.Image, names: Sequence[str], counts: Sequence[int], colors: Palette
) -> Image.Image:
    """An image under its mask, with the names of the classes that it has, the most frequent first."""
    blended = Image.blend(image, classes.convert("RGB"), OPACITY)
    shown, _ = _enlarged(blended)
    font = _font(shown)
    present = sorted((i for i, count in enumerate(counts) if count), key=lambda i: -counts[i])
    line = round(1.4 * font.size)
    canvas = Image.new("RGB", (shown.width, shown.height + line * len(present) + line // 2), "white")
    canvas.paste(shown, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for row, i in enumerate(present):
        top = shown.height + line // 4 + row * line
        draw.rectangle((line // 3, top, line // 3 + font.size, top + font.size), fill=colors[i], outline="black")
        share = 100 * counts[i] / sum(counts)
        draw.text((line // 3 + 1.5 * font.size, top), f"{share:.1f} %  {one_line(names[i])}", "black", font)
    return canvas


def _enlarged(image: Image.Image) -> tuple[Image.Image, int]:
    """A copy at a size that text can be drawn in, and the factor."""
    factor = max(1, -(-LEAST_SIDE // max(image.size)))
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST), factor


def _font(image: Image.Image) -> ImageFont.FreeTypeFont:
    from matplotlib import font_manager  # whose own font has the letters of most languages

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), max(11, round(max(image.size) / 45)))


def _ink(color: Color) -> str:
    red, green, blue = color
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
