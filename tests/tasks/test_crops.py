"""Random crops of images and masks, on pictures whose every pixel says where it lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdbench.datasets.base import IGNORE_INDEX
from kdbench.spec.recipe import ScaledCrop
from kdbench.tasks import crops

HEIGHT, WIDTH, BLOCK = 48, 80, 8
Crop = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def where() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """An image of twice the row in red and twice the column in green, and a mask of blocks, some of them void."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    classes = (rows // BLOCK * 3 + columns // BLOCK) % 11
    image = np.stack([2 * rows, 2 * columns, np.full_like(rows, 7)], axis=2)
    return image, np.where(classes == 10, IGNORE_INDEX, classes).astype(np.uint8)


def crop_of(height: int = 16, width: int = 24, flip: float = 0.0, **more: Any) -> ScaledCrop:
    return ScaledCrop(height=height, width=width, flip=flip, **more)


def cropped(crop: ScaledCrop, *seed: int) -> Crop:
    return crops.scaled_crop(*where(), crop, np.random.default_rng(seed))


def test_a_crop_at_scale_one_is_a_part_as_stored_and_every_place_comes_up() -> None:
    image, mask = where()
    corners = set()
    for n in range(1500):
        pixels, classes, inside = cropped(crop_of(HEIGHT - 3, WIDTH - 4, scale=(1.0, 1.0)), n)
        top, left = (int(value) // 2 for value in pixels[:2, 0, 0])
        part = slice(top, top + HEIGHT - 3), slice(left, left + WIDTH - 4)
        assert torch.equal(pixels, torch.from_numpy(image[part]).permute(2, 0, 1))
        assert torch.equal(classes, torch.from_numpy(mask[part])) and inside.all()
        corners.add((top, left))
    assert corners == {(top, left) for top in range(4) for left in range(5)}


@pytest.mark.parametrize("scale", [0.5, 0.7, 0.9, 1.0, 1.3, 1.9, 2.0])
def test_image_and_mask_stay_on_each_other_at_any_scale(scale: float) -> None:
    _, mask = where()
    for n in range(20):
        pixels, classes, inside = cropped(crop_of(scale=(scale, scale), flip=0.5), n)
        assert inside.all()
        rows, columns = pixels[0].double() / 2, pixels[1].double() / 2
        # The pixel of the mask that a place of the scaled image came from is at most a pixel from where it says.
        around = np.pad(mask, 1, mode="edge")
        down, right = (along.round().int().numpy() + 1 for along in (rows, columns))
        near = np.stack([around[down + y, right + x] for y in (-1, 0, 1) for x in (-1, 0, 1)])
        assert (near == classes.numpy()).any(axis=0).all()
        for along in (rows[:, 0], columns[0]):
            steps = along.diff().abs()[1:-1]  # the first and last lie on the picture's edge at times
            assert steps.mean().item() == pytest.approx(1 / scale, rel=0.06)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (45, 60)])
def test_a_part_is_scaled_bilinearly_without_antialiasing_and_its_mask_by_nearest(height: int, width: int) -> None:
    image, mask = where()
    image[...] = np.random.default_rng(0).integers(0, 256, image.shape)
    crop = crop_of(height, width, scale=(0.5, 2.0))
    for n in range(40):
        pixels, classes, inside = crops.scaled_crop(image, mask, crop, np.random.default_rng(n))
        rng = np.random.default_rng(n)
        scale = crops.draw_scale(crop, rng)
        rows, columns = min(HEIGHT, round(height / scale)), min(WIDTH, round(width / scale))
        top, left = int(rng.integers(HEIGHT - rows + 1)), int(rng.integers(WIDTH - columns + 1))
        part = slice(top, top + rows), slice(left, left + columns)
        shape = [int(inside[0].any(1).sum()), int(inside[0].any(0).sum())]
        whole = torch.from_numpy(image[part]).permute(2, 0, 1)[None].float()
        scaled = functional.interpolate(whole, shape, mode="bilinear", align_corners=False)[0]
        found = pixels[:, : shape[0], : shape[1]]
        assert (found - scaled).abs().max() < 1.01  # rounded to whole levels
        nearest = functional.interpolate(torch.from_numpy(mask[part])[None, None], shape, mode="nearest")[0, 0]
        assert (classes[: shape[0], : shape[1]] == nearest).float().mean() > 0.99


def test_a_flip_mirrors_image_mask_and_padding_alike() -> None:
    for n in range(20):
        plain = cropped(crop_of(40, 70), n)
        mirrored = cropped(crop_of(40, 70, flip=1.0), n)
        assert all(torch.equal(one.flip(-1), other) for one, other in zip(plain, mirrored, strict=True))
    flips = [bool(cropped(crop_of(flip=0.25), n)[0][1, 0].int().diff().sum() < 0) for n in range(800)]
    assert np.mean(flips) == pytest.approx(0.25, abs=0.05)


def test_what_a_small_scale_leaves_is_padded_at_the_right_and_bottom() -> None:
    image, mask = where()
    pixels, classes, inside = cropped(crop_of(40, 72, scale=(0.5, 0.5)), 0)
    assert pixels.shape == (3, 40, 72) and classes.shape == (40, 72) and inside.shape == (1, 40, 72)
    assert inside[0, :24, :40].all() and inside.sum() == 24 * 40
    assert not pixels[:, ~inside[0]].any() and (classes[~inside[0]] == IGNORE_INDEX).all()
    assert torch.equal(classes[:24, :40], torch.from_numpy(mask[::2, ::2]))
    assert (pixels[2, :24, :40] == 7).all()
    assert torch.equal(pixels[0, :24, 0], torch.from_numpy(image[::2, 0, 0]) + 1)  # the mean of two rows
    assert [tensor.dtype for tensor in (pixels, classes, inside)] == [torch.uint8, torch.uint8, torch.bool]


def test_only_the_side_that_is_short_is_padded() -> None:
    _, _, inside = cropped(crop_of(40, 30, scale=(0.6, 0.6)), 0)
    assert inside[0, :29].all() and not inside[0, 29:].any()


def test_every_step_of_the_scale_comes_as_often_and_without_steps_anything_between() -> None:
    rng = np.random.default_rng(0)
    stepped = [crops.draw_scale(crop_of(), rng) for _ in range(8000)]
    values, counts = np.unique(stepped, return_counts=True)
    assert values.tolist() == pytest.approx([0.5 + i / 10 for i in range(16)], abs=1e-12)
    assert abs(counts / 500 - 1).max() < 0.2
    free = [crops.draw_scale(crop_of(scale_step=None), rng) for _ in range(2000)]
    assert len(set(free)) == 2000 and 0.5 <= min(free) < 0.51 and 1.99 < max(free) <= 2.0
    assert np.mean(free) == pytest.approx(1.25, abs=0.03)
    assert {crops.draw_scale(crop_of(scale=(0.75, 0.75)), rng) for _ in range(9)} == {0.75}


def test_the_first_crops_of_a_seed_never_change() -> None:
    places = [cropped(crop_of(32, 40, flip=0.5), 3, 0, n)[0][:2, 5, 9].tolist() for n in range(4)]
    assert places == [[10, 30], [29, 62], [43, 68], [13, 36]]


def test_pictures_that_are_kept_in_memory_are_left_as_they_are() -> None:
    image, mask = where()
    image.setflags(write=False)
    mask.setflags(write=False)
    for n in range(5):
        for part in crops.scaled_crop(image, mask, crop_of(scale=(1.0, 1.0)), np.random.default_rng(n)):
            part.zero_()
    assert all(np.array_equal(one, other) for one, other in zip((image, mask), where(), strict=True))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (3, 1)])
def test_tiny_pictures_are_scaled_and_cropped_too(height: int, width: int) -> None:
    image, mask = np.full((height, width, 3), 9, np.uint8), np.full((height, width), 2, np.uint8)
    for n in range(30):
        pixels, classes, inside = crops.scaled_crop(image, mask, crop_of(1, 1), np.random.default_rng(n))
        assert inside.all() and pixels.flatten().tolist() == [9, 9, 9] and classes.item() == 2
