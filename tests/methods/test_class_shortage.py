"""Methods need two classes only where they compare classes."""

from __future__ import annotations

import pytest

from kdbench import methods

ONE_CLASS = ["none", "mimic", "cwd", "maskd", "masked_generative", "box_l1", "akd+cwd", "akd+maskd+box_l1", "fitnet"]


@pytest.mark.parametrize("name", ONE_CLASS)
def test_methods_on_features_and_boxes_train_on_one_class(name: str) -> None:
    assert methods.class_shortage(name, 1) == ""


@pytest.mark.parametrize("name", ["kd", "dist", "dml", "crd", "mag+kd", "ekd", "mimic+dist"])
def test_methods_that_compare_classes_need_two(name: str) -> None:
    assert methods.class_shortage(name, 2) == ""
    summand = name.removeprefix("mimic+")
    assert methods.class_shortage(name, 1) == f"{summand} needs at least 2 classes; the data has 1"


def test_the_strictest_part_of_a_sum_counts() -> None:
    assert methods.class_shortage("kd+dkd", 2) == "dkd needs at least 3 classes; the data has 2"
