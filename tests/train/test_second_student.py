"""A method that trains a second student: its weights, its resumed run, and initial weights that would be equal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdbench import networks
from kdbench.errors import SpecError
from kdbench.networks.base import Network
from kdbench.train.job import execute
from kdbench.train.student import Student
from tests.helpers.pictures import Pictures, done, numbers, short
from tests.helpers.tensors import equal


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


def test_it_is_another_network_of_the_students_architecture(pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run("dual_students")
    student = Student(run, pictures.task(run), None, tmp_path, torch.device("cpu"))
    second = student.method.second
    assert isinstance(second, Network) and second.info.channels == student.network.info.channels
    first, other = student.network.state_dict(), second.state_dict()
    assert first.keys() == other.keys() and not equal(first, other)
    plain = pictures.run("kd")
    alone = Student(plain, pictures.task(plain), None, tmp_path, torch.device("cpu"))
    assert equal(alone.network.state_dict(), first)
    trained = {id(parameter) for group in student.optimizer.recipe.param_groups for parameter in group["params"]}
    assert {id(parameter) for parameter in second.parameters()} <= trained


def test_it_trains_in_a_cohort_as_alone_and_the_student_alone_is_saved(pictures: Pictures, tmp_path: Path) -> None:
    dual, plain = pictures.run("dual_students"), pictures.run("kd")
    together = done(execute(pictures.job(tmp_path / "all", dual, plain), lambda _: None))
    (alone,) = done(execute(pictures.job(tmp_path / "one", dual), lambda _: None))
    by_method = {row.run.method: row for row in together}
    assert numbers(by_method["dual_students"]) == numbers(alone)
    sizes = {method: (tmp_path / "all" / row.run.id / "student.pt").stat().st_size for method, row in by_method.items()}
    assert abs(sizes["dual_students"] - sizes["kd"]) < 2000  # bytes: specs differ, weights do not


def test_published_weights_would_make_both_equal(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pictures.run("dual_students", recipe=short(init="published"))
    task, build = pictures.task(run), networks.build
    monkeypatch.setattr(networks, "build", lambda name, classes, init="random": build(name, classes))
    with pytest.raises(SpecError, match="dual_students: a second student would start from the weights of init"):
        Student(run, task, None, tmp_path, torch.device("cpu"))
