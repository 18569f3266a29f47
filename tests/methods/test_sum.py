"""Sums of methods, as the tables' rows name them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdbench import methods
from kdbench.methods.base import MethodError


def test_terms_are_those_of_the_parts(dense: Any) -> None:
    method = methods.build("dist+mimic", dense.setting, dist={"tau": 2.0}, mimic={"weight": 3.0})
    dist = methods.build("dist", dense.setting, tau=2.0)
    mimic = methods.build("mimic", dense.setting, weight=3.0)
    mimic.load_state_dict(method.submethods()[1].state_dict())
    expected = dist(dense.batch, dense.student, dense.teacher) | mimic(dense.batch, dense.student, dense.teacher)
    assert method(dense.batch, dense.student, dense.teacher) == expected
    assert set(expected) == {"dist", "mimic"}


def test_options_reach_their_part_only(dense: Any) -> None:
    resolved = methods.resolve("dist+mimic", {"mimic": {"weight": 3.0}})
    assert (resolved["dist"]["weight"], resolved["mimic"]["weight"]) == (1.0, 3.0)
    method = methods.build("dist+mimic", dense.setting, mimic={"weight": 3.0})
    assert [part.weight for part in method.submethods()] == [1.0, 3.0]


def test_a_misspelt_option_of_a_part_is_refused(dense: Any) -> None:
    with pytest.raises(MethodError, match="unknown option of dist: 'tauu'. Did you mean 'tau'"):
        methods.build("dist+mimic", dense.setting, dist={"tauu": 2.0})


def test_a_wrapped_method_can_be_a_part(dense: Any) -> None:
    options = {"akd+maskd": {"weight": 2.0, "avatars": 2}, "box_l1": {"beta": 0.11}}
    method = methods.build("akd+maskd+box_l1", dense.setting, **options)
    wrapped, boxes = method.submethods()
    assert (wrapped.base.weight, wrapped.avatars, boxes.beta) == (2.0, 2, 0.11)
    terms = method(dense.batch, dense.student, dense.teacher)
    assert set(terms) == {"akd+maskd", "box_l1"}
    torch.stack(list(terms.values())).sum().backward()
    assert dense.student.boxes[0].grad.any()
    assert dense.student.features[0].grad.any()


@pytest.mark.parametrize("name", ["skd+kd", "ifvd+kd", "cwd+kd", "cirkd+kd", "at+kd", "skd+kd+adversarial"])
def test_segmentation_baselines_carry_pixel_distillation(name: str, sample: Any) -> None:
    data = sample("segmentation")
    options = {"kd": {"weight": 1.0, "task_weight": 1.0, "temperature": 1.0}}
    if name.startswith("cirkd"):
        options["cirkd"] = {"pixel_memory_size": 40, "region_memory_size": 40}
    method = methods.build(name, data.setting, **options)
    assert method.task_weight == 1
    terms = method(data.batch, data.student, data.teacher)
    assert (
        terms["kd"] == methods.build("kd", data.setting, **options["kd"])(data.batch, data.student, data.teacher)["kd"]
    )
    assert len(terms) == {"cirkd+kd": 4, "skd+kd+adversarial": 4}.get(name, 2)
    assert [len(group["params"]) > 0 for group in method.parameter_groups()] == [True] * name.endswith("adversarial")


def test_a_part_without_a_form_for_the_task_is_refused(sample: Any) -> None:
    with pytest.raises(MethodError, match="box_l1 does not support segmentation"):
        methods.build("mimic+box_l1", sample("segmentation").setting)


def test_what_parts_have_learned_is_passed_on_and_led_by_the_part_where_names_collide(
    sample: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = sample("classification").setting
    factors = {"attention": 1.0, "soft_target": 1.0}
    assert methods.build("ad+kd", setting).learned() == factors
    assert methods.build("mag+at+kd", setting).learned() == {}
    monkeypatch.setattr(methods.method_class("at"), "learned", lambda _: {"attention": 2.0, "share": 3.0})
    for at in ("at", "mag+at"):
        both = methods.build(f"ad+{at}", setting).learned()
        assert both == {"ad/attention": 1.0, "soft_target": 1.0, f"{at}/attention": 2.0, "share": 3.0}


def test_a_method_is_named_once() -> None:
    with pytest.raises(MethodError, match="twice"):
        methods.resolve("mimic+mimic", {})
