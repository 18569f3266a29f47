"""OFA-KD: the target class counts more, and any network teaches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from kdbench import methods, networks
from kdbench.contract.samples import classifier_sample
from kdbench.methods.base import Batch, Method, MethodError, NetworkInfo
from tests.helpers.golden import setting

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]])
TEACHER = torch.tensor([[1.0, 0.0, -2.0], [1.0, 2.0, 0.5]])
LABELS = torch.tensor([0, 2])


def build(**options: Any) -> Method:
    torch.manual_seed(0)
    return methods.build("ofakd", classifier_sample().setting, **options)


def test_with_eps_one_it_is_the_cross_entropy_with_the_teacher() -> None:
    expected = torch.nn.functional.cross_entropy(LOGITS / 2, (TEACHER / 2).softmax(dim=1))
    assert build(temperature=2.0).loss(LOGITS, TEACHER, LABELS).item() == pytest.approx(expected.item())  # type: ignore[operator]


def test_a_larger_eps_puts_more_weight_on_the_target_class() -> None:
    logits = LOGITS.clone().requires_grad_()
    shares = []
    for eps in (1.0, 2.0):
        (gradient,) = torch.autograd.grad(build(eps=eps).loss(logits, TEACHER, LABELS), logits)  # type: ignore[operator]
        shares.append(-gradient.gather(1, LABELS[:, None]))
    assert (shares[1] > shares[0]).all()


def test_logits_far_apart_give_a_finite_loss() -> None:
    far = torch.tensor([[500.0, -500.0, 0.0], [0.0, 900.0, -900.0]], requires_grad=True)
    build(eps=1.5).loss(far, TEACHER, LABELS).backward()  # type: ignore[operator]
    assert far.grad is not None and far.grad.isfinite().all()


def test_soft_labels_count_as_their_largest_class() -> None:
    data, method = classifier_sample(), build()
    hard = torch.nn.functional.one_hot(data.batch.targets, 5).float()
    soft = replace(data.batch, targets=0.7 * hard + 0.3 * hard.roll(1, dims=1))
    terms = [method(batch, data.student, data.teacher) for batch in (data.batch, soft)]
    assert terms[0] == terms[1]


def test_a_vision_transformer_teaches_a_cnn() -> None:
    torch.manual_seed(0)
    teacher = networks.build("timm:vit_tiny_patch16_224:img_size=32", 10).eval()
    student = networks.build("resnet8", 10)
    images = torch.randn(2, 3, 32, 32)
    method = methods.build("ofakd", setting(student.info, teacher.info))
    batch = Batch(images, torch.tensor([1, 2]), torch.arange(2))
    terms = method(batch, student(images), teacher(images))
    torch.stack(list(terms.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert method.heads[0][-1].in_features == 192  # type: ignore[index,union-attr]


@pytest.mark.parametrize(
    ("options", "message"), [({"eps": 0.0}, "eps 0.0"), ({"temperature": -1.0}, "temperature is -1.0")]
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        build(**options)


def test_networks_without_stages_or_pooling_are_refused() -> None:
    whole, bare = NetworkInfo((4, 8), pooled_dim=8), NetworkInfo((4, 8))
    with pytest.raises(MethodError, match="the teacher has no pooled feature"):
        methods.build("ofakd", setting(whole, bare))
    with pytest.raises(MethodError, match="no stages after its stem"):
        methods.build("ofakd", setting(NetworkInfo((4,), pooled_dim=8), whole))
