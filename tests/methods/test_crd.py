"""Contrastive distillation: its sampling, its banks and its loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import methods
from kdbench.methods.base import Batch, MethodError, NetworkInfo, Outputs, Setting

SAMPLES, NEGATIVES, DIM = 40, 7, 6
TARGETS = torch.randint(0, 4, (SAMPLES,), generator=torch.Generator().manual_seed(0))
INDEX = torch.tensor([3, 17, 30, 8, 21])


def setting(targets: Tensor | None = TARGETS) -> Setting:
    return Setting("classification", 4, SAMPLES, NetworkInfo((), (), 5), NetworkInfo((), (), 9), targets)


def build(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return methods.build("crd", setting(), **({"negatives": NEGATIVES, "dim": DIM} | options))


@pytest.fixture
def batch() -> Batch:
    return Batch(torch.zeros(5, 3, 2, 2), TARGETS[INDEX], INDEX)


@pytest.fixture
def outputs() -> tuple[Outputs, Outputs]:
    generator = torch.Generator().manual_seed(1)

    def pooled(width: int) -> Outputs:
        return Outputs(torch.zeros(5, 4), (), torch.randn(5, width, generator=generator).requires_grad_())

    return pooled(5), pooled(9)


def naive(method: Any, batch: Batch, student: Outputs, teacher: Outputs, drawn: Tensor, first_z: Any = None) -> float:
    """The loss, one pair at a time; both directions' Z from this very batch unless given."""
    own = F.normalize(method.embed_s(student.pooled), dim=1)
    other = F.normalize(method.embed_t(teacher.pooled), dim=1)
    total = 0.0
    for side, (anchors, bank) in enumerate(((own, method.bank_t), (other, method.bank_s))):
        rows = [
            [(anchor @ bank[k] / 0.07).exp().item() for k in row] for anchor, row in zip(anchors, drawn, strict=True)
        ]
        z = first_z[side] if first_z else SAMPLES * sum(map(sum, rows)) / (len(rows) * len(rows[0]))
        c = NEGATIVES / SAMPLES
        for positive, *negatives in rows:
            chances = [positive / z / (positive / z + c + 1e-7)] + [c / (n / z + c + 1e-7) for n in negatives]
            total -= torch.tensor(chances).log().sum().item() / len(rows)
    return total


def test_loss_is_the_papers(batch: Batch, outputs: tuple[Outputs, Outputs], monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(weight=2.0)
    drawn = method.draw(batch)
    monkeypatch.setattr(method, "draw", lambda _: drawn)
    expected = naive(method, batch, *outputs, drawn)
    assert method(batch, *outputs)["crd"].item() == pytest.approx(2 * expected, rel=1e-4)
    z = method.z.tolist()
    expected = naive(method, batch, *outputs, drawn, z)
    assert method(batch, *outputs)["crd"].item() == pytest.approx(2 * expected, rel=1e-4)
    assert method.z.tolist() == z  # the first batch's for good


@pytest.mark.parametrize("mode", ["exact", "relax"])
def test_negatives_are_uniform_over_the_other_classes(mode: str, batch: Batch) -> None:
    method = build(negatives=40, mode=mode)
    drawn = torch.cat([method.draw(batch) for _ in range(250)], dim=1).view(5, 250, 41)
    for row, index in zip(drawn, INDEX.tolist(), strict=True):
        own = TARGETS[index] == TARGETS
        others = (~own).nonzero().flatten()
        counts = torch.bincount(row[:, 1:].flatten(), minlength=SAMPLES)
        assert (counts[own] == 0).all()
        expected = 10_000 / len(others)
        assert (counts[others] - expected).abs().max() < 6 * expected**0.5
        positives = set(row[:, 0].tolist())
        assert positives == ({index} if mode == "exact" else set(own.nonzero().flatten().tolist()))


def test_banks_move_by_momentum_and_only_where_the_batch_is(batch: Batch, outputs: tuple[Outputs, Outputs]) -> None:
    method = build(momentum=0.25)
    before = {name: getattr(method, name).clone() for name in ("bank_s", "bank_t")}
    method(batch, *outputs)
    rest = torch.ones(SAMPLES, dtype=torch.bool).index_fill(0, INDEX, False)
    for name, embed, output in (("bank_s", method.embed_s, outputs[0]), ("bank_t", method.embed_t, outputs[1])):
        bank, old = getattr(method, name), before[name]
        new = F.normalize(embed(output.pooled), dim=1)
        torch.testing.assert_close(bank[INDEX], F.normalize(0.25 * old[INDEX] + 0.75 * new, dim=1))
        assert torch.equal(bank[rest], old[rest])
        assert not bank.requires_grad


def test_evaluation_leaves_banks_and_constants(batch: Batch, outputs: tuple[Outputs, Outputs]) -> None:
    method = build().eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    assert method(batch, *outputs)["crd"].isfinite()
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_gradient_takes_the_banks_as_they_were(batch: Batch, outputs: tuple[Outputs, Outputs]) -> None:
    method, still = build(), build().eval()
    gradients = []
    for each in (method, still):
        torch.manual_seed(4)
        loss = each(batch, *outputs)["crd"]
        gradients.append(torch.autograd.grad(loss, [outputs[0].pooled, each.embed_t.weight]))
    for moved, kept in zip(*gradients, strict=True):
        torch.testing.assert_close(moved, kept)
        assert moved.any()


def test_a_resumed_method_goes_on_with_its_banks(batch: Batch, outputs: tuple[Outputs, Outputs]) -> None:
    method, resumed = build(seed=0), build(seed=1)
    for _ in range(3):
        method(batch, *outputs)
    resumed.load_state_dict(method.state_dict())
    torch.manual_seed(5)
    expected = method(batch, *outputs)["crd"]
    torch.manual_seed(5)
    assert resumed(batch, *outputs)["crd"] == expected
    assert torch.equal(resumed.bank_s, method.bank_s)


def test_bank_bytes_are_those_of_every_tensor_as_long_as_the_training_set() -> None:
    method = build()
    kept = sum(b.numel() * b.element_size() for b in method.buffers() if len(b.shape) and len(b) == SAMPLES)
    options = methods.resolve("crd", {"negatives": NEGATIVES, "dim": DIM})
    assert type(method).bank_bytes(setting(), options) == kept
    assert kept >= 2 * SAMPLES * DIM * 4


def test_settings_without_enough_samples_or_labels_are_refused() -> None:
    with pytest.raises(MethodError, match="set negatives to at most 40"):
        methods.build("crd", setting(), negatives=41)
    with pytest.raises(MethodError, match="train_targets must contain the label"):
        methods.build("crd", setting(None), negatives=NEGATIVES)
    with pytest.raises(MethodError, match=r"train_targets has shape \(39,\)"):
        methods.build("crd", setting(TARGETS[1:]), negatives=NEGATIVES)
    with pytest.raises(MethodError, match="are of one class"):
        methods.build("crd", setting(torch.zeros_like(TARGETS)), negatives=NEGATIVES)
    with pytest.raises(MethodError, match="pooled_dim"):
        methods.build("crd", replace(setting(), student=NetworkInfo(())), negatives=NEGATIVES)


@pytest.mark.parametrize("options", [{"mode": "all"}, {"tau": 0.0}, {"momentum": 1.5}, {"dim": 0}, {"negatives": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=next(iter(options))):
        build(**options)
