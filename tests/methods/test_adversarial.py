"""The discriminator between teacher's and student's logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench import methods
from kdbench.methods.adversarial import Discriminator, SelfAttention
from kdbench.methods.base import MethodError


def build(data: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return methods.build("adversarial", data.setting, **options)


def run(method: Any, data: Any) -> dict[str, Tensor]:
    return dict(method(data.batch, data.student, data.teacher))


def test_terms_are_the_hinge_loss_and_the_students_score(segmenters: Any) -> None:
    method = build(segmenters, weight=2.0, discriminator_weight=3.0).eval()
    method.discriminator.layers[-1].weight.data *= 30  # so that some scores are past the hinge
    terms = run(method, segmenters)
    false, true = (method.discriminator(shown.logits).detach() for shown in (segmenters.student, segmenters.teacher))
    scores = [false.flatten().tolist(), true.flatten().tolist()]
    hinge = sum(max(0, 1 + x) for x in scores[0]) / len(scores[0]) + sum(max(0, 1 - x) for x in scores[1]) / len(
        scores[1]
    )
    expected = {"generator": -2 * sum(scores[0]) / len(scores[0]), "discriminator": 3 * hinge}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_weights_are_the_scripts(segmenters: Any) -> None:
    own, scaled = run(build(segmenters), segmenters), run(build(segmenters, weight=1.0), segmenters)
    assert (scaled["generator"] / own["generator"]).item() == pytest.approx(1000, rel=1e-4)
    scaled = run(build(segmenters, discriminator_weight=1.0), segmenters)
    assert (scaled["discriminator"] / own["discriminator"]).item() == pytest.approx(10, rel=1e-4)


def test_each_term_trains_its_own_side_alone(segmenters: Any) -> None:
    method = build(segmenters)
    terms = run(method, segmenters)
    terms["generator"].backward(retain_graph=True)
    assert segmenters.student.logits.grad.any()
    assert all(parameter.grad is None for parameter in method.parameters())
    segmenters.student.logits.grad = None
    terms["discriminator"].backward()
    assert segmenters.student.logits.grad is None and segmenters.teacher.logits.grad is None
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters())


def test_the_discriminator_learns_to_tell_and_the_student_to_pass(segmenters: Any) -> None:
    method = build(segmenters)
    student = segmenters.student.logits
    optimizer = torch.optim.Adam([*method.parameters()], lr=1e-3)
    for _ in range(15):
        optimizer.zero_grad()
        run(method, segmenters)["discriminator"].backward()
        optimizer.step()
    method.eval()
    false, true = (method.discriminator(shown.logits).mean() for shown in (segmenters.student, segmenters.teacher))
    assert true > false + 0.5
    (gradient,) = torch.autograd.grad(run(method, segmenters)["generator"], student)
    segmenters.student.logits = (student - 50 * gradient / gradient.norm()).detach()
    assert method.discriminator(segmenters.student.logits).mean() > false


def test_convolutions_are_spectrally_normalised() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(5)
    with torch.no_grad():
        for _ in range(30):
            discriminator(torch.randn(2, 5, 64, 64))
    convs = [layer for layer in discriminator.layers if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [64, 128, 256, 512, 1]
    for conv in convs[:-1]:
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), ord=2).item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("size", "shape"), [((64, 128), (1, 5)), ((64, 64), (1, 1)), ((16, 32), (1, 1))])
def test_scores_of_small_logits_are_those_of_enlarged_ones(size: tuple[int, int], shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    discriminator, logits = Discriminator(5).eval(), torch.randn(2, 5, *size)
    scores = discriminator(logits)
    assert scores.shape == (2, 1, *shape)
    if size == (16, 32):
        assert torch.equal(scores, discriminator(nn.functional.interpolate(logits, (64, 64), mode="bilinear")))


def test_attention_begins_as_the_identity_and_reads_all_positions() -> None:
    torch.manual_seed(0)
    attention, x = SelfAttention(16), torch.randn(2, 16, 3, 4)
    assert torch.equal(attention(x), x)
    attention.gamma.data.fill_(0.5)
    query, key, value = (conv(x).flatten(2) for conv in (attention.query, attention.key, attention.value))
    for n in range(2):
        for i in range(12):
            shares = torch.stack([query[n, :, i] @ key[n, :, j] for j in range(12)]).softmax(dim=0)
            read = sum(share * value[n, :, j] for j, share in enumerate(shares))
            expected = x.flatten(2)[n, :, i] + 0.5 * read
            assert torch.allclose(attention(x).flatten(2)[n, :, i], expected, atol=1e-5)


def test_the_discriminator_trains_by_an_adam_of_its_own(segmenters: Any) -> None:
    method = build(segmenters)
    (group,) = method.parameter_groups()
    assert {id(parameter) for parameter in group.pop("params")} == {id(p) for p in method.parameters()}
    assert group == {"optimizer": "adam", "lr": 4e-4, "betas": (0.9, 0.99)}
    (group,) = build(segmenters, lr=0.01, beta1=0.5, beta2=0.0).parameter_groups()
    assert (group["lr"], group["betas"]) == (0.01, (0.5, 0.0))


@pytest.mark.parametrize(
    ("options", "message"), [({"lr": 0.0}, "lr is 0"), ({"beta1": 1.0}, "beta1 is 1"), ({"beta2": -0.1}, "beta2 -0.1")]
)
def test_settings_out_of_range_are_refused(options: dict[str, float], message: str, segmenters: Any) -> None:
    with pytest.raises(MethodError, match=message):
        build(segmenters, **options)


def test_a_resumed_discriminator_goes_on(segmenters: Any) -> None:
    method, resumed = build(segmenters), methods.build("adversarial", segmenters.setting)
    for _ in range(3):
        run(method, segmenters)
    resumed.load_state_dict(method.state_dict())
    for _ in range(2):
        assert run(resumed, segmenters) == run(method, segmenters)
