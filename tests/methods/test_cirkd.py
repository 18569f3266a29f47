"""Relations across images: the three terms, the queues and what is drawn of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import methods
from kdbench.methods import cirkd
from kdbench.methods.base import IGNORE_INDEX, MethodError

NAMES = ["minibatch_pixel", "memory_pixel", "memory_region"]
SIZES = {"pixel_memory_size": 50, "region_memory_size": 12, "pixel_contrast_size": 20, "region_contrast_size": 7}
Make = Callable[..., Any]


def build(data: Any, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return methods.build("cirkd", data.setting, **(SIZES | options))


def run(method: Any, data: Any, seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return dict(method(data.batch, data.student, data.teacher))


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


def rows(feature: Tensor) -> Tensor:
    """Pixels as unit vectors in double precision: [N, C, h, w] -> [N, h*w, C]."""
    return F.normalize(feature.detach().double(), dim=1).flatten(2).mT


def divergence(own: Tensor, own_keys: Tensor, other: Tensor, other_keys: Tensor, temperature: float) -> float:
    """Mean over rows of the KL between two softmaxes of similarities, one row at a time."""
    found = []
    for a, b in zip(own, other, strict=True):
        p, q = (a @ own_keys.mT / temperature).softmax(dim=0), (b @ other_keys.mT / temperature).softmax(dim=0)
        found.append((q * (q / p).log()).sum().item())
    return sum(found) / len(found)


def naive(method: Any, data: Any, drawn: list[Tensor], images: slice = slice(None), temperature: float = 1.0) -> Any:
    """The unweighted terms of some images; the projection is the method's own, in its mode."""
    projected = copy.deepcopy(method.project).double()(data.student.features[-1].detach().double())
    own, anchors, other = (
        rows(feature)[images] for feature in (data.student.features[-1], projected, data.teacher.features[-1])
    )
    count = range(len(own))
    pairs = [divergence(own[i], own[j], other[i], other[j], 0.1) for i in count for j in count]
    seen = data.batch.targets[images, ::8, ::8].flatten(1) != IGNORE_INDEX
    memory = [
        temperature**2 * divergence(anchors[seen], entries, other[seen], entries, 0.1 * temperature)
        for entries in (queue.double() for queue in drawn)
    ]
    return dict(zip(NAMES, [sum(pairs) / len(pairs), *memory], strict=True))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What a forward draws of the two queues."""
    seen: list[Tensor] = []
    draw = cirkd._draw

    def recorded(queue: Tensor, size: int) -> Tensor:
        seen.append(draw(queue, size))
        return seen[-1]

    monkeypatch.setattr(cirkd, "_draw", recorded)
    return seen


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_terms_are_the_papers(temperature: float, segmenters: Any, drawn: list[Tensor]) -> None:
    method = build(segmenters, temperature=temperature)
    found = values(run(method, segmenters))
    expected = naive(method, segmenters, drawn, temperature=temperature)
    weights = dict(zip(NAMES, (1, 0.1, 0.1), strict=True))
    assert found == pytest.approx({name: weights[name] * loss for name, loss in expected.items()}, rel=1e-4)


def test_each_term_has_a_weight_and_all_have_one(segmenters: Any) -> None:
    options = {f"{name}_weight": 1.0 for name in NAMES}
    found = values(run(build(segmenters, **options), segmenters))
    options = dict(zip(options, (2.0, 3.0, 5.0), strict=True))
    weighted = values(run(build(segmenters, weight=7.0, **options), segmenters))
    expected = {name: 7 * weight * found[name] for name, weight in zip(NAMES, (2, 3, 5), strict=True)}
    assert weighted == pytest.approx(expected, rel=1e-5)


def test_chunk_is_the_mean_over_groups_of_images(segmenters: Any, drawn: list[Tensor]) -> None:
    method = build(segmenters, chunk=1, memory_pixel_weight=1.0, memory_region_weight=1.0)
    found = values(run(method, segmenters))
    parts = [naive(method, segmenters, drawn[:2], slice(i, i + 1)) for i in range(2)]
    assert found == pytest.approx({name: (parts[0][name] + parts[1][name]) / 2 for name in NAMES}, rel=1e-4)
    assert found["minibatch_pixel"] != pytest.approx(run(build(segmenters), segmenters)["minibatch_pixel"].item())
    assert values(run(build(segmenters, chunk=2), segmenters)) == values(run(build(segmenters), segmenters))


def test_equal_features_leave_the_first_term_nothing(segmenters: Any) -> None:
    scaled = replace(segmenters.teacher, features=tuple(5 * feature.flip(1) for feature in segmenters.teacher.features))
    assert run(build(segmenters), segmenters)["minibatch_pixel"] > 0.1
    wide = replace(segmenters, setting=replace(segmenters.setting, student=segmenters.setting.teacher), student=scaled)
    assert run(build(wide), wide)["minibatch_pixel"].item() == pytest.approx(0, abs=1e-5)


def test_void_pixels_take_part_in_the_first_term_alone(segmenters: Any) -> None:
    terms = run(build(segmenters), segmenters)
    segmenters.batch.targets[:] = IGNORE_INDEX
    method = build(segmenters)
    before = {name: value.clone() for name, value in method.named_buffers() if "project" not in name}
    without = run(method, segmenters)
    assert without["minibatch_pixel"] == terms["minibatch_pixel"]
    assert without["memory_pixel"] == without["memory_region"] == 0
    assert all(torch.equal(value, before[name]) for name, value in method.named_buffers() if name in before)
    torch.stack(list(without.values())).sum().backward()
    assert segmenters.student.features[-1].grad.isfinite().all()
    assert not any(parameter.grad.any() for parameter in method.project.parameters())


def test_void_anchors_have_no_gradient(segmenters: Any) -> None:
    segmenters.batch.targets[:] = 1
    segmenters.batch.targets[:, :, 16:24] = IGNORE_INDEX
    method = build(segmenters)
    method.project.eval()  # in training BatchNorm's statistics join all pixels
    (gradient,) = torch.autograd.grad(run(method, segmenters)["memory_pixel"], segmenters.student.features[-1])
    moved = gradient.any(dim=1)
    assert not moved[..., 2].any()
    assert moved.float().mean() > 0.7  # the projection's ReLU stops a few


def test_a_regions_entry_is_the_mean_direction_of_its_class(segmenters: Any) -> None:
    method = build(segmenters)
    before = method.regions.clone()
    run(method, segmenters)
    pixels, labels = rows(segmenters.teacher.features[-1]), segmenters.batch.targets[:, ::8, ::8].flatten(1)
    for k in range(5):
        images = [i for i in range(2) if (labels[i] == k).any()]
        assert method.regions_next[k] == len(images)
        for place, i in enumerate(images):
            mean = F.normalize(pixels[i][labels[i] == k].mean(dim=0), dim=0)
            assert torch.allclose(method.regions[k, place].double(), mean, atol=1e-6)
        assert torch.equal(method.regions[k, len(images) :], before[k, len(images) :])


def places(vector: Tensor, pixels: Tensor) -> list[int]:
    """Positions of an image's pixels that have a direction."""
    return (pixels - vector.double()).abs().amax(dim=1).lt(1e-6).nonzero().flatten().tolist()


@pytest.mark.parametrize("class_pixels", [True, False])
def test_at_most_sixteen_pixels_of_a_class_and_image_are_kept(class_pixels: bool, segmenters: Any) -> None:
    labels = torch.zeros(2, 48, dtype=torch.long)
    labels[0, 20:], labels[1, 45:], labels[1, :3] = 1, 2, IGNORE_INDEX
    segmenters.batch.targets = labels.view(2, 6, 8).repeat_interleave(8, 1).repeat_interleave(8, 2)
    method = build(segmenters, class_pixels=class_pixels)
    run(method, segmenters)
    pixels = rows(segmenters.teacher.features[-1])
    assert method.pixels_next.tolist() == [32, 16, 3, 0, 0]
    for k, begin, end, i in ((0, 0, 16, 0), (0, 16, 32, 1), (1, 0, 16, 0), (2, 0, 3, 1)):
        found = [place for entry in method.pixels[k, begin:end] for place in places(entry, pixels[i])]
        assert len(set(found)) == end - begin
        members = (labels[i] == k).nonzero().flatten().tolist()
        allowed = members if class_pixels else range(len(members))
        assert set(found) <= set(allowed)
        assert len(members) <= 16 or sorted(found) != sorted(allowed)[:16]  # drawn, not the first


def test_every_pixel_of_a_class_is_as_likely(segmenters: Any) -> None:
    segmenters.batch.targets[:] = 3
    method = build(segmenters, pixel_memory_size=6400)
    pixels = rows(segmenters.teacher.features[-1])
    for seed in range(200):
        torch.manual_seed(seed)
        method._update_queues(pixels.float(), segmenters.batch.targets[:, ::8, ::8].flatten(1))
    nearest = (method.pixels[3].double() @ pixels.flatten(0, 1).mT).argmax(dim=1)
    counts = torch.bincount(nearest, minlength=96)
    expected = 200 * 16 / 48
    assert (counts - expected).abs().max() < 6 * expected**0.5


def test_what_would_reach_the_end_of_a_queue_becomes_its_last_entries_and_the_next_ones_begin_at_its_start() -> None:
    """As released; the three images add 2, 2 and 1 entries to the first class, whose next position is 2 of 5."""
    queue, following = torch.zeros(2, 5, 1), torch.tensor([2, 0])
    new = torch.arange(1, 19.0).view(3, 2, 3, 1)
    valid = torch.tensor([[[1, 1, 0], [0, 0, 0]], [[1, 1, 0], [1, 0, 0]], [[1, 0, 0], [0, 0, 0]]], dtype=torch.bool)
    cirkd._enqueue(queue, following, new[:1], valid[:1])
    assert queue[..., 0].tolist() == [[0, 0, 1, 2, 0], [0] * 5] and following.tolist() == [4, 0]
    cirkd._enqueue(queue, following, new[1:2], valid[1:2])  # 4 + 2 passes 5
    assert queue[..., 0].tolist() == [[0, 0, 1, 7, 8], [10, 0, 0, 0, 0]] and following.tolist() == [0, 1]
    cirkd._enqueue(queue, following, new[2:], valid[2:])
    assert queue[..., 0].tolist() == [[13, 0, 1, 7, 8], [10, 0, 0, 0, 0]] and following.tolist() == [1, 1]


def test_entries_that_end_with_the_queue_are_its_last_and_so_are_more_than_it_holds() -> None:
    queue, following = torch.zeros(1, 4, 1), torch.tensor([2])
    both = torch.arange(1, 9.0).view(2, 1, 4, 1), torch.tensor([[[1, 1, 0, 0]], [[1, 1, 1, 1]]], dtype=torch.bool)
    cirkd._enqueue(queue, following, both[0][:1], both[1][:1])
    assert queue.flatten().tolist() == [0, 0, 1, 2] and following.tolist() == [0]
    cirkd._enqueue(queue, following, both[0][1:], both[1][1:])
    assert queue.flatten().tolist() == [5, 6, 7, 8] and following.tolist() == [0]


def test_a_queue_shorter_than_sixteen_takes_as_many_pixels_of_an_image_as_it_holds(segmenters: Any) -> None:
    segmenters.batch.targets[:] = 2
    method = build(segmenters, pixel_memory_size=5, region_memory_size=1)
    run(method, segmenters)
    pixels = rows(segmenters.teacher.features[-1])[1]  # of the last image
    assert len({places(entry, pixels)[0] for entry in method.pixels[2]}) == 5
    assert method.pixels_next.tolist() == method.regions_next.tolist() == [0] * 5


def test_as_many_entries_of_each_class_are_drawn_at_the_same_positions() -> None:
    queue = torch.arange(5.0).view(5, 1, 1) * 100 + torch.arange(50.0).view(1, 50, 1)
    torch.manual_seed(0)
    entries = cirkd._draw(queue, 20).view(5, 5)
    assert torch.equal(entries - 100 * torch.arange(5.0)[:, None], entries[:1].expand(5, 5))
    assert len(entries[0].unique()) == 5
    assert cirkd._draw(queue[:, :3], 20).shape == (15, 1)


def test_queues_begin_as_random_unit_vectors(segmenters: Any) -> None:
    method = build(segmenters)
    for queue, size in ((method.pixels, 50), (method.regions, 12)):
        assert queue.shape == (5, size, 6)
        assert torch.allclose(queue.norm(dim=2), torch.ones(5, size))
        assert queue.mean(dim=(0, 1)).abs().max() < 0.2


def test_evaluation_leaves_the_queues(segmenters: Any) -> None:
    method = build(segmenters).eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    assert all(term.isfinite() for term in run(method, segmenters).values())
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_a_resumed_method_goes_on_with_its_queues(segmenters: Any) -> None:
    method, resumed = build(segmenters, seed=0), build(segmenters, seed=5)
    for seed in range(3):
        run(method, segmenters, seed)
    resumed.load_state_dict(method.state_dict())
    assert run(resumed, segmenters) == run(method, segmenters)
    assert all(torch.equal(value, method.state_dict()[key]) for key, value in resumed.state_dict().items())


def test_draws_follow_torchs_seed(segmenters: Any) -> None:
    states = []
    for seed in (1, 1, 2):
        method = build(segmenters)
        terms = run(method, segmenters, seed)
        states.append((terms, method.pixels))
    assert states[0][0] == states[1][0] and torch.equal(states[0][1], states[1][1])
    assert states[0][0] != states[2][0] and not torch.equal(states[0][1], states[2][1])


def test_similarities_are_computed_again_and_not_kept(segmenters: Any) -> None:
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    own = torch.randn(300, 4, requires_grad=True)
    other = torch.randn(300, 4)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = cirkd.relation(own, own, other, other, 0.1)
    assert sum(kept) < 300 * 300
    loss.backward()
    again = own.detach().double().requires_grad_()
    p, q = ((rows @ rows.mT / 0.1).softmax(dim=1) for rows in (again, other.double()))
    expected = (q * (q / p).log()).sum(dim=1).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(own.grad.double(), again.grad, rtol=1e-3, atol=1e-6)


def test_bank_bytes_are_those_of_the_queues(segmenters: Any) -> None:
    method = build(segmenters)
    kept = sum(queue.numel() * queue.element_size() for queue in (method.pixels, method.regions))
    assert methods.bank_bytes("cirkd", segmenters.setting, methods.resolve("cirkd", SIZES)) == kept
    resolved = methods.resolve("cirkd+kd", {"cirkd": SIZES})
    assert methods.bank_bytes("cirkd+kd", segmenters.setting, resolved) == kept


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"contrast_temperature": -1.0},
        {"pixel_memory_size": 0},
        {"region_memory_size": 0},
        {"pixel_contrast_size": 0},
        {"region_contrast_size": 0},
        {"chunk": 0},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], segmenters: Any) -> None:
    (name, value) = next(iter(options.items()))
    with pytest.raises(MethodError, match=f"{name} (is )?{value}"):
        build(segmenters, **options)


def test_maps_of_different_size_are_refused(segmenters: Any) -> None:
    smaller = replace(segmenters.teacher, features=tuple(f[..., :-1] for f in segmenters.teacher.features))
    with pytest.raises(MethodError, match="cirkd: the student's last feature is 6x8 and the teacher's 6x7"):
        run(build(segmenters), replace(segmenters, teacher=smaller))
