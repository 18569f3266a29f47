"""Augmentation of whole batches, against torchvision's of single images and against literals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from kdbench.tasks import augment

CPU = torch.device("cpu")
MEAN, STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)


def images_of(count: int, height: int, width: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return torch.from_numpy(pixels)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 9)])
@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_every_image_is_what_torchvision_makes_of_it_with_the_same_draws(
    padding: int, flip: float, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_of(20, height, width)
    draws = augment.draw((1, 0, 3), 20, 30, padding, flip, CPU)
    padded = augment.pad(images, padding)
    cropped = [augment.crop(padded, draws, slice(start, start + 16), height, width) for start in (0, 16)]
    found = augment.normalize(torch.cat(cropped), MEAN, STD)
    assert found.shape == (30, 3, height, width) and found.dtype == torch.float32
    seen = set()
    for n, (index, top, left, mirror) in enumerate(zip(*map(torch.Tensor.tolist, vars(draws).values()), strict=True)):
        corner = (top, left, height, width)
        monkeypatch.setattr(transforms.RandomCrop, "get_params", lambda *_, corner=corner: corner)
        transform = transforms.Compose(
            [
                transforms.RandomCrop((height, width), padding=padding),
                transforms.RandomHorizontalFlip(float(mirror)),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )
        assert torch.equal(found[n], transform(Image.fromarray(images[index].numpy())))
        seen.add(mirror)
    assert seen == {0.0: {False}, 0.5: {False, True}, 1.0: {True}}[flip]


def test_the_first_draws_of_a_seed_never_change() -> None:
    draws = augment.draw((7, 0, 1), 5, 8, 4, 0.5, CPU)
    assert draws.index.tolist() == [2, 3, 4, 1, 0, 0, 2, 4]
    assert draws.top.tolist() == [6, 0, 6, 1, 7, 6, 2, 8]
    assert draws.left.tolist() == [0, 4, 2, 0, 2, 6, 7, 6]
    assert draws.flip.tolist() == [True, True, True, True, True, True, False, True]


def test_draws_come_from_the_seed_alone() -> None:
    def drawn(*seed: int) -> list[list[int]]:
        return [values.tolist() for values in vars(augment.draw(seed, 50, 50, 4, 0.5, CPU)).values()]

    np.random.seed(1)
    one, state = drawn(3, 0, 1), np.random.get_state()[1].tolist()
    np.random.seed(2)
    assert drawn(3, 0, 1) == one
    np.random.seed(1)
    assert np.random.get_state()[1].tolist() == state
    others = [drawn(4, 0, 1), drawn(3, 1, 1), drawn(3, 0, 2)]  # seed, stream, epoch
    assert all(a != b for other in others for a, b in zip(one, other, strict=True))


def test_offsets_reach_both_edges_evenly_and_flips_come_as_often_as_asked() -> None:
    draws = augment.draw((0, 0, 0), 4000, 4000, 2, 0.25, CPU)
    for offsets in (draws.top, draws.left):
        share = torch.bincount(offsets, minlength=5) / 4000
        assert len(share) == 5 and (share - 0.2).abs().max() < 0.03
    assert draws.flip.float().mean() == pytest.approx(0.25, abs=0.03)
    assert abs(np.corrcoef(draws.top, draws.left)[0, 1]) < 0.05


def test_without_padding_nothing_is_moved() -> None:
    images = images_of(4, 5, 5)
    draws = augment.draw((0, 0, 0), 4, 4, 0, 0.0, CPU)
    assert torch.equal(augment.pad(images, 0), images)
    kept = augment.crop(images, draws, slice(0, 4), 5, 5)
    assert torch.equal(kept, images[draws.index].permute(0, 3, 1, 2))


@pytest.mark.parametrize(("samples", "count"), [(10, 10), (10, 7), (10, 35), (3, 9), (1, 4)])
def test_an_epoch_takes_every_sample_before_it_goes_round_again(samples: int, count: int) -> None:
    index = augment.draw((0, 0, 0), samples, count, 4, 0.5, CPU).index.tolist()
    assert len(index) == count
    rounds = [index[start : start + samples] for start in range(0, count, samples)]
    assert all(sorted(one) == list(range(samples)) for one in rounds if len(one) == samples)
    assert all(len(set(one)) == len(one) for one in rounds)


def test_each_round_has_its_own_order_and_draws() -> None:
    draws = augment.draw((0, 0, 0), 20, 60, 4, 0.5, CPU)
    for values in (draws.index, draws.top, draws.left, draws.flip):
        assert len({tuple(part.tolist()) for part in values.split(20)}) == 3


def test_crops_are_channels_last_without_a_copy_of_the_batch() -> None:
    draws = augment.draw((0, 0, 0), 6, 6, 1, 0.5, CPU)
    cropped = augment.crop(augment.pad(images_of(6, 8, 8), 1), draws, slice(0, 6), 8, 8)
    assert cropped.dtype == torch.uint8 and cropped.shape == (6, 3, 8, 8)
    assert cropped.is_contiguous(memory_format=torch.channels_last)
    assert augment.normalize(cropped, MEAN, STD).is_contiguous(memory_format=torch.channels_last)


def test_reduced_images_are_block_means_brought_back_bilinearly() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    blocks = images.reshape(2, 3, 4, 2, 4, 2).mean((3, 5))
    # Pixel x of 8 lies at (x + 1/2) / 2 - 1/2 of 4, and never outside the centers of the first and the last.
    places = ((torch.arange(8) + 0.5) / 2 - 0.5).clamp(0, 3)
    weights = (1 - (places[:, None] - torch.arange(4)).abs()).clamp(min=0)
    torch.testing.assert_close(augment.reduce_resolution(images, 4), weights @ blocks @ weights.T)


def test_reducing_to_the_same_resolution_changes_nothing() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(augment.reduce_resolution(images, 8), images)


def test_what_is_normalized_while_evaluating_first_can_be_trained_on() -> None:
    mean, std = (0.25, 0.5, 0.125), (0.5, 0.25, 0.125)  # of no other test: what they become is kept
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    with torch.inference_mode():
        shown = augment.normalize(pixels, mean, std)
    weight = torch.ones((), requires_grad=True)
    (augment.normalize(pixels, mean, std) * weight).sum().backward()
    assert weight.grad is not None and weight.grad.item() == pytest.approx(shown.sum().item(), rel=1e-5)
