"""Teachers that learn beside a student: their initial weights, and the copies that are taken of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench import networks
from kdbench.errors import SpecError
from kdbench.methods.base import NetworkInfo, Outputs
from kdbench.networks.base import Network
from kdbench.train import online_teachers as online
from kdbench.train.online_teachers import OnlineTeachers
from tests.helpers.pictures import Pictures, short
from tests.helpers.tensors import equal


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


class Tiny(Network):
    """The mean color, normalized, times one weight."""

    info = NetworkInfo(())

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        return Outputs(self.weight * self.norm(x.mean(dim=(2, 3))), ())


def images() -> Tensor:
    return torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))


def followed(snapshots: int, steps: int) -> Iterator[int | None]:
    """At every step of a training: how many steps the teacher had made that the student follows; None for nobody."""
    teachers = OnlineTeachers([Tiny(0.0)], snapshots, steps)
    for step in range(steps):
        teachers.begin(step)
        shown = teachers(images(), step)
        assert len(shown.others) <= 1
        yield round(teachers.snapshot.weight.item()) if shown.others else None  # type: ignore[union-attr,operator,arg-type]
        with torch.no_grad():
            teachers.first.weight.add_(1)  # type: ignore[operator,union-attr]


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_the_last_of_evenly_spaced_copies_is_followed() -> None:
    assert list(followed(4, 10)) == [None, None, 2, 2, 4, 4, 6, 6, 8, 8]
    assert list(followed(2, 10)) == [None] * 4 + [4] * 3 + [7] * 3  # 10 / 3 and 20 / 3, rounded up
    assert list(followed(1, 4)) == [None, None, 2, 2]
    assert list(followed(4, 3)) == [None, 1, 2]  # more copies than steps: some points fall on one step


def test_without_snapshots_nothing_is_copied() -> None:
    teachers = OnlineTeachers([Tiny(1.0), Tiny(2.0)], 0, 10)
    assert teachers.snapshot is None
    assert {name.rpartition(".")[2] for name in teachers.state_dict()} == set(Tiny(0.0).norm.state_dict()) | {"weight"}
    assert len(teachers(images(), 9).others) == 1


def test_teachers_learn_and_a_copy_neither_learns_nor_gathers_statistics() -> None:
    teachers = OnlineTeachers([Tiny(1.0)], 1, 2).eval()
    before = teachers(images(), 0)
    assert before.others == ()
    taken = state(teachers.first)
    teachers.train().begin(1)
    after = teachers(images(), 1)
    (copy,) = after.others
    assert isinstance(copy.logits, Tensor) and isinstance(after.logits, Tensor)
    assert teachers.snapshot is not None
    assert equal(state(teachers.snapshot), taken)  # with the statistics of the batches before the step
    assert not equal(state(teachers.first), taken)
    assert not copy.logits.requires_grad and after.logits.requires_grad
    assert not any(parameter.requires_grad for parameter in teachers.snapshot.parameters())
    torch.testing.assert_close(copy.logits, teachers.snapshot.eval()(images()).logits)
    assert not torch.equal(copy.logits, after.logits)  # the teacher normalizes by the batch, its copy does not


def test_every_teacher_is_in_train_mode_and_shown_in_its_order() -> None:
    teachers = OnlineTeachers([Tiny(1.0), Tiny(2.0), Tiny(3.0)], 0, 5).eval()
    shown = teachers(images(), 0)
    factors = [one.logits / shown.logits for one in shown.others]
    assert [round(factor.mean().item()) for factor in factors] == [2, 3]
    assert all(network.training for network in teachers.networks)


def test_weights_of_teachers_depend_on_neither_the_student_nor_each_other(pictures: Pictures) -> None:
    def built(count: int, **more: Any) -> list[dict[str, Tensor]]:
        made = online.build(pictures.run("ekd", options={"teachers": count}, **more), 10, steps=5)
        assert made is not None
        return [state(network) for network in made.networks]

    one, three = built(1), built(3)
    assert equal(one[0], three[0])
    assert not any(equal(three[i], three[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert all(equal(*pair) for pair in zip(three, built(3, student="resnet20"), strict=True))
    assert not any(equal(*pair) for pair in zip(three, built(3, seed=1), strict=True))
    run = pictures.run("ekd", student="resnet14", options={"teachers": 3})
    torch.manual_seed(run.init_seed)
    student = state(networks.build("resnet14", 10))
    assert not any(equal(teacher, student) for teacher in three)


def test_building_teachers_leaves_the_random_state_alone(pictures: Pictures) -> None:
    before = torch.get_rng_state()
    assert online.build(pictures.run("ekd", options={"teachers": 3}), 10, steps=5) is not None
    assert torch.equal(torch.get_rng_state(), before)


def test_several_teachers_from_the_same_published_weights_are_refused(pictures: Pictures) -> None:
    run = pictures.run("ekd", recipe=short(init="published"), options={"teachers": 2})
    with pytest.raises(SpecError, match="ekd: 2 teachers would all start from the weights of init 'published'"):
        online.build(run, 10, steps=5)


def test_which_networks_learn_and_are_copied_beside_a_student(pictures: Pictures) -> None:
    def beside(method: str, **options: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        run = pictures.run(method, options=options)
        return online.teacher_names(run), online.snapshot_names(run)

    assert beside("none") == beside("kd") == beside("ekd", pretrained=True) == ((), ())
    assert beside("dml") == beside("ekd") == (("resnet14",), ())
    assert beside("ekd", teachers=3) == (("resnet14",) * 3, ())
    assert beside("ekd", guided=False, snapshots=4) == (("resnet14",), ("resnet14",))
