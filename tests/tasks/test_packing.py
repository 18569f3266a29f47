"""Nested tensors packed into one, and the parts of a batch joined."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdbench.tasks.packing import Packed, joined
from tests.helpers.tensors import equal

CPU = torch.device("cpu")
VALUES: list[Any] = [
    torch.arange(6, dtype=torch.uint8).view(2, 3),
    (torch.zeros(0, 4), [torch.tensor(True), torch.tensor(-1)], {"a": torch.rand(3, 2), "b": "text"}),
    ([torch.rand(2, 5).t(), None, (3, torch.rand(1))], torch.tensor([7]).expand(4)),
    [],
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_a_value_survives_packing_in_one_tensor(value: Any) -> None:
    packed = Packed.of(value)
    assert packed.data.dtype == torch.uint8 and packed.data.ndim == 1
    assert equal(packed.unpacked(CPU), value)


def test_it_is_pinned_as_a_whole_and_sent_in_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, bool]] = []
    to = torch.Tensor.to

    def counted(tensor: torch.Tensor, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
        sent.append((tensor.numel(), non_blocking))
        return to(tensor, device)

    packed = Packed.of(VALUES[1])
    monkeypatch.setattr(torch.Tensor, "to", counted)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())
    assert equal(packed.pin_memory().unpacked(CPU), VALUES[1])
    assert sent == [(packed.data.numel(), True)]


def test_parts_are_joined_field_by_field() -> None:
    parts = [(torch.full((n, 2), n), [n] * n, {"x": torch.tensor([n])}) for n in (1, 2)]
    tensors, numbers, more = joined(parts)
    assert tensors.tolist() == [[1, 1], [2, 2], [2, 2]] and numbers == [1, 2, 2] and more["x"].tolist() == [1, 2]
    assert joined(parts[:1]) is parts[0]
