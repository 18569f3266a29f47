"""The optimizer of a recipe: groups, weight decay, rates of a method's own, and their survival."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench import methods
from kdbench.methods.base import Method, MethodError, NetworkInfo, Setting
from kdbench.spec.recipe import Recipe, load_recipe
from kdbench.train.optimizer import CONSTANT_RATE, Optimizers, build_optimizer, set_learning_rate


def recipe(**changes: Any) -> Recipe:
    return load_recipe("cifar_mini", {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.01} | changes)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 10))


def method(name: str = "none", **options: Any) -> Method:
    shown = NetworkInfo(channels=(8, 8, 16), strides=(1, 2, 4), pooled_dim=16)
    return methods.build(name, Setting("classification", 10, 24, shown, shown), **options)


class Opponent(Method):
    """Trains a module by the optimizer in `group`."""

    name = "opponent"
    citation = "of this test"
    tasks = frozenset({"classification"})

    def __init__(self, **group: Any) -> None:
        shown = NetworkInfo(channels=(8, 8, 16), strides=(1, 2, 4), pooled_dim=16)
        super().__init__(Setting("classification", 10, 24, shown, shown))
        self.group, self.opponent, self.joined = group, nn.Linear(2, 2), nn.Linear(2, 2)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.opponent.parameters()), **self.group}]

    def forward(self, batch: Any, student: Any, teacher: Any) -> dict[str, Tensor]:
        return {}


ADAM: dict[str, Any] = {"optimizer": "adam", "lr": 4e-4, "betas": (0.9, 0.99)}


def step(optimizer: Optimizers) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_one_group_decays_every_parameter_by_default() -> None:
    student = network()
    (group,) = build_optimizer(recipe(), [student], method()).param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in student.parameters()]
    assert group["weight_decay"] == 0.01


def test_vectors_can_be_left_out_of_weight_decay() -> None:
    student = network()
    student.scale = nn.Parameter(torch.ones(()))
    decayed, free = build_optimizer(recipe(decay_all=False), [student], method()).param_groups
    names = {id(p): name for name, p in student.named_parameters()}
    assert [names[id(p)] for p in decayed["params"]] == ["0.weight", "3.weight"]
    assert {names[id(p)] for p in free["params"]} == {"scale", "0.bias", "1.weight", "1.bias", "3.bias"}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop_tf"])
def test_without_decay_a_vector_without_gradient_stays(optimizer: str) -> None:
    student = network()
    made = build_optimizer(recipe(optimizer=optimizer, decay_all=False), [student], method())
    before = [p.detach().clone() for p in student.parameters()]
    for p in student.parameters():
        p.grad = torch.zeros_like(p)
    made.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, student.parameters(), strict=True)]
    assert moved == [p.ndim > 1 for p in before]


def test_what_needs_no_gradient_is_left_out_and_every_network_is_in() -> None:
    student, teacher = network(), network()
    student[0].requires_grad_(False)  # type: ignore[index]
    (group,) = build_optimizer(recipe(), [student, teacher], method("fitnet")).param_groups
    count = len(list(student[1:].parameters())) + len(list(teacher.parameters()))  # type: ignore[index]
    assert len(group["params"]) == count + len(list(method("fitnet").parameters()))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop_tf"])
def test_a_group_of_the_methods_own_comes_last_and_keeps_its_rate(optimizer: str) -> None:
    distilled = method("ad", safe=True)
    made = build_optimizer(recipe(optimizer=optimizer, nesterov=optimizer == "sgd"), [network()], distilled)
    first, own = made.param_groups
    assert own["params"] == [distilled.alphas]
    assert all(p is not distilled.alphas for p in first["params"])
    assert (own["lr"], own["weight_decay"], own["momentum"]) == (0.01, 0.0, 0.0)
    for rate in (0.05, 0.002):
        set_learning_rate(made, rate)
        assert (first["lr"], own["lr"]) == (rate, 0.01)


def test_a_rate_of_its_own_moves_weights_by_that_rate() -> None:
    distilled = method("ad", safe=True)
    made = build_optimizer(recipe(nesterov=True), [network()], distilled)
    set_learning_rate(made, 1e-5)
    for expected in (-0.01, -0.02):  # no momentum, no decay
        step(made)
        torch.testing.assert_close(distilled.alphas.detach(), torch.full((2,), expected))  # type: ignore[union-attr,operator]


def test_a_group_may_train_by_an_optimizer_of_its_own() -> None:
    """Adam's two first steps with gradients 1 and -3, written out."""
    student, distilled = network(), Opponent(**ADAM)
    made = build_optimizer(recipe(momentum=0.0, weight_decay=0.0), [student], distilled)
    before = {name: p.detach().clone() for name, p in distilled.named_parameters()}
    mean = square = moved = 0.0
    for number, slope in enumerate((1.0, -3.0), 1):
        set_learning_rate(made, 0.1)
        for group in made.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, slope)
        made.step()
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        moved -= 4e-4 * (mean / (1 - 0.9**number)) / ((square / (1 - 0.99**number)) ** 0.5 + 1e-8)
    for name, parameter in distilled.named_parameters():
        expected = moved if name.startswith("opponent") else -0.1 * (1.0 - 3.0)
        torch.testing.assert_close(parameter.detach(), before[name] + expected)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"optimizer": "lamb"}, "optimizer is 'lamb'; use one of adam, adamw, sgd"),
        ({"optimizer": "adam", "beta": 0.9}, "unexpected keyword argument 'beta'"),
        ({"optimizer": "sgd", "lr": -1.0}, "Invalid learning rate"),
    ],
)
def test_an_optimizer_that_torch_would_refuse_is_an_error_of_the_method(group: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"^parameter_groups: .*{message}"):
        build_optimizer(recipe(), [network()], Opponent(**group))


def test_a_loaded_optimizer_of_the_method_goes_on_bitwise() -> None:
    torch.manual_seed(0)
    pairs = [(network(), Opponent(**ADAM)) for _ in range(2)]
    one, two = (build_optimizer(recipe(), [student], distilled) for student, distilled in pairs)
    step(one)
    kept = _through_a_file({"optimizer": one.state_dict(), "modules": [part.state_dict() for part in pairs[0]]})
    for part, state in zip(pairs[1], kept["modules"], strict=True):
        part.load_state_dict(state)
    two.load_state_dict(kept["optimizer"])
    for optimizer in (one, two):
        step(optimizer)
    for first, second in zip(*pairs, strict=True):
        assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_without_groups_of_its_own_a_methods_weights_follow_the_schedule() -> None:
    distilled = method("ad", safe=False)
    (group,) = build_optimizer(recipe(), [network()], distilled).param_groups
    assert any(p is distilled.alphas for p in group["params"])


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop_tf"])
def test_a_loaded_optimizer_goes_on_bitwise_and_still_knows_whose_rate_is_whose(name: str) -> None:
    torch.manual_seed(0)
    student, distilled = network(), method("ad", safe=True)
    one = build_optimizer(recipe(optimizer=name, decay_all=False), [student], distilled)
    step(one)
    kept = {"student": student.state_dict(), "method": distilled.state_dict(), "optimizer": one.state_dict()}
    kept = _through_a_file(kept)
    again, other = network(), method("ad", safe=True)
    two = build_optimizer(recipe(optimizer=name, decay_all=False), [again], other)
    again.load_state_dict(kept["student"])
    other.load_state_dict(kept["method"])
    two.load_state_dict(kept["optimizer"])
    assert [bool(group.get(CONSTANT_RATE)) for group in two.param_groups] == [False, False, True]
    for optimizer in (one, two):
        set_learning_rate(optimizer, 0.03)
        step(optimizer)
    assert [group["lr"] for group in two.param_groups] == [0.03, 0.03, 0.01]
    assert all(map(torch.equal, student.parameters(), again.parameters()))
    assert all(map(torch.equal, distilled.parameters(), other.parameters()))


def _through_a_file(content: dict[str, Any]) -> dict[str, Any]:
    import io

    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


def test_rmsprop_is_tensorflows_with_timms_constants() -> None:
    """s begins at 1 and eps stands inside the root: s = 1 + 0.1 (g^2 - 1); b = 0.9 b + g / sqrt(s + 1e-3)."""
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]], dtype=torch.float64))
    student = nn.Module()
    student.weight = weight
    made = build_optimizer(recipe(optimizer="rmsprop_tf", weight_decay=0.0), [student], method())
    (group,) = made.param_groups
    assert (group["alpha"], group["eps"], group["momentum"]) == (0.9, 1e-3, 0.9)
    square, buffer, expected = torch.ones_like(weight), torch.zeros_like(weight), weight.detach().clone()
    for rate, slope in ((0.1, 2.0), (0.05, -1.0)):
        gradient: Tensor = torch.full_like(weight, slope)
        weight.grad = gradient.clone()
        set_learning_rate(made, rate)
        made.step()
        square += 0.1 * (gradient**2 - square)
        # The rate stands inside the buffer, as in TensorFlow.
        buffer = 0.9 * buffer + rate * gradient / (square + 1e-3).sqrt()
        expected -= buffer
        torch.testing.assert_close(weight.detach(), expected)
