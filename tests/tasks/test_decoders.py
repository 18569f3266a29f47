"""Decoders of image files: torchvision's beside Pillow's, and what is said where loading is slow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdbench.datasets import open_images
from kdbench.datasets.base import ImageSet
from tests.helpers.image_files import CPU, STRONG, batches, by_index, recipe_of, task_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Noisy JPEGs in color and in gray, one in the colors of print, and a PNG."""
    root = tmp_path_factory.mktemp("photos") / "photos"
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for i, (mode, suffix) in enumerate([("RGB", "jpg")] * 4 + [("L", "jpg"), ("CMYK", "jpg"), ("RGB", "png")]):
            place = root / split / "ab"[i % 2] / f"{i}.{suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((120, 90))
            noisy = np.asarray(coarse) + draw.normal(0, 8, (90, 120, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode).save(place)
    return open_images("imagenet", root, root)


@pytest.mark.parametrize("image", [{}, {"interpolation": "bicubic"}, {"color_jitter": 0.4}, STRONG], ids=str)
def test_torchvisions_decoder_has_the_same_crops_and_pixels_within_a_level(
    image: dict[str, Any], photos: ImageSet
) -> None:
    """Its resizing rounds once and Pillow's twice: one of 256 levels; operations on colors may enlarge that."""
    size = {"size": 48, "val_resize": 56}
    tasks = [task_of(photos, batch_size=6, decoder=name, **size, **image) for name in ("pillow", "torchvision")]
    pillow, torchvision = (by_index(batches(task)) for task in tasks)
    levels = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) * 255
    for i, wanted in pillow.items():
        difference = ((torchvision[i] - wanted) * levels).abs()
        assert difference.median() <= 1.01
        if not image.keys() & {"color_jitter", "rand_augment"}:
            assert difference.max() <= (1.01 if "interpolation" not in image else 2.01)
    ((first, labels), (second, others)) = (next(iter(task.images.val_batches(7, CPU))) for task in tasks)
    assert torch.equal(labels, others)
    assert ((first - second) * levels).abs().max() <= (1.01 if "interpolation" not in image else 2.01)


def test_a_decoder_is_part_of_a_recipes_identity_and_the_default_is_not_written() -> None:
    assert "decoder" not in recipe_of().image.model_dump(mode="json")
    assert recipe_of(decoder="torchvision").image.model_dump(mode="json")["decoder"] == "torchvision"


def test_the_remedy_for_slow_loading_is_more_processes_then_cohorts_and_the_faster_decoder(
    photos: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    assert task_of(photos).reads_files
    assert task_of(photos).faster_loading() == (
        "give it more with --workers (4 cores here); --set image.decoder=torchvision decodes faster"
    )
    enough = task_of(photos, workers=3, decoder="torchvision").faster_loading()
    assert enough == "no core is left for more; with --cohort more students share the images"
