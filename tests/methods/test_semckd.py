"""SemCKD: layers as wide as a batch, which every batch must be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.contract.samples import Sample, classifier_sample
from kdbench.launch.planning import make_plans
from kdbench.methods.base import Method, MethodError
from kdbench.spec.recipe import load_recipe
from kdbench.spec.request import RunRequest, parse_methods
from kdbench.spec.table import load_table
from kdbench.train.job import execute
from tests.helpers.pictures import Pictures, done, short


def sample(images: int = 8) -> Sample:
    return classifier_sample(images=images)


def build(images: int | None = 8, **options: Any) -> Method:
    torch.manual_seed(0)
    return methods.build("semckd", replace(sample().setting, batch_size=images), **options)


def test_attention_is_a_distribution_over_the_stages_of_the_teacher() -> None:
    data = sample()
    weights = build().attention(data.student.features[1:], list(data.teacher.features[1:]))  # type: ignore[operator]
    assert weights.shape == (8, 3, 3)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(8, 3))


def test_networks_may_have_different_numbers_of_stages() -> None:
    data = sample()
    teacher = replace(data.setting.teacher, channels=data.setting.teacher.channels[:3])
    method = methods.build("semckd", replace(data.setting, teacher=teacher))
    outputs = replace(data.teacher, features=data.teacher.features[:3])
    assert method(data.batch, data.student, outputs)["semckd"] > 0
    assert len(method.regressors) == 3 and len(method.keys) == 2  # type: ignore[arg-type]


def test_the_student_is_reached_by_the_attention_too() -> None:
    data, method = sample(), build(kd_weight=0.0)
    for parameter in method.regressors.parameters():  # type: ignore[union-attr]
        parameter.data.zero_()  # so that no gradient comes through the projected maps
    method(data.batch, data.student, data.teacher)["semckd"].backward()
    assert all(feature.grad is not None and feature.grad.any() for feature in data.student.features[1:])
    assert all(embed[0].weight.grad.any() for embed in (*method.queries, *method.keys))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (None, {}, "last batch of an epoch is smaller; leave it out with --set drop_last=true"),
        (3, {}, "a batch has 3 images, and factor is 4"),
        (8, {"factor": 0}, "factor 0"),
        (8, {"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_what_cannot_work_is_refused(images: int | None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        build(images, **options)


def test_a_batch_of_another_size_is_refused() -> None:
    data = sample(images=4)
    with pytest.raises(MethodError, match="a batch has 4 images, and its layers are built for 8"):
        build()(data.batch, data.student, data.teacher)


def test_images_at_once_are_those_of_a_micro_batch_of_one_process() -> None:
    recipe = load_recipe("cifar_mini", {"batch_size": 24, "accumulate": 2})
    assert (recipe.images_at_once(100), recipe.images_at_once(100, gpus=3)) == (12, 4)
    kept = recipe.model_copy(update={"drop_last": False})
    assert (kept.images_at_once(100), kept.images_at_once(48)) == (None, 12)
    assert kept.model_copy(update={"epoch_steps": 3}).images_at_once(100) == 12


def test_it_trains_in_micro_batches_and_not_with_a_shorter_last_batch(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path / "data")
    run = pictures.run("semckd", recipe=short(accumulate=2))
    done(execute(pictures.job(tmp_path / "runs", run), lambda _: None))
    short_last = pictures.run("semckd", recipe=short(batch_size=16, drop_last=False))
    (row,) = execute(pictures.job(tmp_path / "runs", short_last), lambda _: None)
    assert row.status != "done" and "drop_last=true" in row.reason


def test_a_shorter_last_batch_is_refused_before_any_training(tmp_path: Path) -> None:
    request = RunRequest(
        scale="mini",
        seeds=(0,),
        methods=parse_methods("semckd"),
        devices=("cpu",),
        results=tmp_path,
        changes={"drop_last": False, "batch_size": 31},
    )
    with pytest.raises(MethodError, match="drop_last=true"):
        make_plans([load_table("dkd/cifar100")], request, lambda _: None)
