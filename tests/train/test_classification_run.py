"""Classification runs of methods with phases, banks and online teachers: alone and in a cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import datasets, methods, networks
from kdbench.datasets.base import ArraySplit
from kdbench.methods._granularity import Granularity
from kdbench.networks.base import Network
from kdbench.records import checkpoint as checkpoints
from kdbench.records.row import Row
from kdbench.records.store import Store
from kdbench.tasks import augment
from kdbench.tasks.classification import ClassificationTask
from kdbench.train import job as harness
from kdbench.train.events import Event
from kdbench.train.job import execute
from kdbench.train.student import Student
from tests.helpers.pictures import EKD, OPTIONS, Pictures, counted, done, numbers, short, state_of
from tests.helpers.tensors import equal

MIXED = (
    "none",
    "mas+at",
    "kd",
    "dist",
    "mag+kd",
    "crd",
    "ad",
    "ekd",
    "ab",
    "ft",
    "uskd",
    "ls+ctkd",
    "mlkd",
    "simkd",
    "sskd",
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


def quiet(event: Event) -> None:
    assert event.event != "error"


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_mixed_cohort_ends_bitwise_as_its_students_do_alone(
    precision: str, pictures: Pictures, tmp_path: Path
) -> None:
    recipe = short(precision=precision)
    runs = [pictures.run(method, recipe=recipe) for method in MIXED]
    runs += [pictures.run("ekd", recipe=recipe, options=options) for options in EKD]
    together, alone = tmp_path / "together", tmp_path / "alone"
    rows = done(execute(pictures.job(together, *runs), quiet))
    for run, row in zip(runs, rows, strict=True):
        (solo,) = done(execute(pictures.job(alone, run), quiet))
        assert equal(state_of(together, run), state_of(alone, run)), run.method
        assert numbers(row) == numbers(solo), run.method
        assert (row.cost and row.cost.cohort, solo.cost and solo.cost.cohort) == (len(runs), 1)
    assert len({row.student.sha256 for row in rows if row.student}) == len(runs)  # no method leaves a student as it was


def test_students_of_two_networks_under_one_teacher_end_as_they_do_alone(pictures: Pictures, tmp_path: Path) -> None:
    runs = [pictures.run(method, student) for method in ("mag+kd", "ft") for student in ("resnet8", "resnet14")]
    together, alone = tmp_path / "together", tmp_path / "alone"
    done(execute(pictures.job(together, *runs), quiet))
    for run in runs:
        done(execute(pictures.job(alone, run), quiet))
        assert equal(state_of(together, run), state_of(alone, run)), (run.method, run.student)


def test_a_phase_that_methods_share_is_done_once_and_counts_for_each(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, Granularity)
    runs = [pictures.run(method) for method in ("mag+kd", "mas+at", "kd")]
    other = pictures.run("mag+kd", options={"abstract_dim": 32})
    mag, mas, kd, apart = (row.cost for row in done(execute(pictures.job(tmp_path, *runs, other), quiet)))
    assert calls == [1, 2]  # other codes are another phase
    assert mag and mas and kd and apart
    assert mag.prepare_seconds == mas.prepare_seconds >= 0.05
    assert apart.prepare_seconds >= 0.05 and kd.prepare_seconds == 0


def test_a_student_that_fails_in_its_earlier_phase_ends_and_the_others_continue(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [pictures.run(method) for method in ("mag+kd", "mas+at", "none")]
    done(execute(pictures.job(tmp_path / "whole", *runs), quiet))
    calls = counted(monkeypatch, Granularity, fail=lambda call: call == 1)
    mag, mas, none = execute(pictures.job(tmp_path / "parts", *runs), quiet)
    assert (mag.status, mas.status, none.status) == ("failed", "done", "done")
    assert "no such kernel" in mag.reason
    assert calls == [1, 2]
    for run in runs[1:]:
        assert equal(state_of(tmp_path / "whole", run), state_of(tmp_path / "parts", run))


def test_a_loss_that_breaks_in_the_methods_first_epochs_is_divergence(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = methods.method_class("fsp")
    initial = target.initial
    monkeypatch.setattr(
        target, "initial", lambda *given: {name: value * float("nan") for name, value in initial(*given).items()}
    )
    broken, whole = execute(pictures.job(tmp_path, pictures.run("fsp"), pictures.run("kd")), quiet)
    assert (broken.status, whole.status) == ("diverged", "done")
    assert "fsp is nan in the method's initial phase" in broken.reason


@pytest.mark.parametrize("part", ["student", "method", "teachers"])
def test_weights_that_only_the_last_update_broke_are_divergence_too(
    part: str, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_epoch = Student.finish_epoch
    attribute = {"student": "network", "method": "method", "teachers": "online_teachers"}[part]

    def breaking(self: Student, *given: Any) -> None:
        finish_epoch(self, *given)
        torch.nn.init.constant_(next(getattr(self, attribute).parameters()), float("inf"))

    monkeypatch.setattr(Student, "finish_epoch", breaking)
    (row,) = execute(pictures.job(tmp_path, pictures.run("ekd")), quiet)
    assert row.status == "diverged"
    assert f"weight of the {part} is not finite after the last step" in row.reason
    assert row.metrics is None and row.history


def test_data_is_read_no_further_when_every_student_has_failed(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    read: list[int] = []
    batches = ClassificationTask.batches

    def counted(self: Any, epoch: int, *given: Any, **named: Any) -> Any:
        for batch in batches(self, epoch, *given, **named):
            read.append(epoch)
            yield batch

    job = pictures.job(tmp_path, pictures.run("kd", recipe=short(epochs=2)))  # the first one trains the teacher
    monkeypatch.setattr(methods.method_class("kd"), "forward", broken)
    monkeypatch.setattr(ClassificationTask, "batches", counted)
    (row,) = execute(job, quiet)
    assert row.status == "failed" and "no such kernel" in row.reason
    assert read == [0]


@pytest.mark.parametrize("method", ["ekd", "dml"])
def test_an_online_teacher_learns_beside_its_student_and_is_kept_and_measured(
    method: str, pictures: Pictures, tmp_path: Path
) -> None:
    run = pictures.run(method)
    (row,) = done(execute(pictures.job(tmp_path, run), quiet))
    file = tmp_path / run.id / "teacher.pt"
    assert row.teacher and row.cost
    assert (row.teacher.network, row.teacher.recorded) == ("resnet14", None)
    assert row.teacher.sha256 == checkpoints.sha256(file)
    teacher = networks.build("resnet14", 10)
    teacher.load_state_dict(state_of(tmp_path, run, "teacher.pt"))
    measured = pictures.task(run).evaluate(teacher, torch.device("cpu"), reference=True)
    assert row.teacher.measured == measured["top1"]
    assert row.cost.teacher_seconds == 0  # its forward and backward are a part of the step
    assert row.cost.params == sum(p.numel() for p in networks.build("resnet8", 10).parameters())


def test_of_several_online_teachers_the_first_is_kept_and_measured(pictures: Pictures, tmp_path: Path) -> None:
    several, alone = runs = [pictures.run("ekd", options={"teachers": count, "guided": False}) for count in (3, 1)]
    first, only = done(execute(pictures.job(tmp_path, *runs), quiet))
    assert first.teacher and only.teacher and first.teacher.measured == only.teacher.measured
    # It learns from its labels alone, so a second teacher changes nothing.
    assert equal(state_of(tmp_path, several, "teacher.pt"), state_of(tmp_path, alone, "teacher.pt"))
    assert not equal(state_of(tmp_path, several), state_of(tmp_path, alone))


def shown(pictures: Pictures, variant: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The validation images of a variant as a teacher and as a student sees them."""
    data = datasets.open_images("digits", pictures.root, **OPTIONS, **variant)
    assert isinstance(data.val, ArraySplit)
    images = augment.normalize(torch.from_numpy(data.val.images).permute(0, 3, 1, 2), data.mean, data.std)
    return images, augment.reduce_resolution(images, data.resolution) if data.resolution else images


@torch.no_grad()
def answer(name: str, state: dict[str, Tensor], images: Tensor) -> Tensor:
    network = networks.build(name, 10).eval()
    network.load_state_dict(state)
    logits: Tensor = network(images).logits
    return logits


def many_minded(pictures: Pictures, file: Path) -> dict[str, Any]:
    """A teacher's file whose answers differ from picture to picture, as those of a few steps of training do not."""
    torch.manual_seed(0)
    state = networks.build("resnet14", 10).state_dict()
    state["fc.bias"] = state["fc.bias"] - answer("resnet14", state, shown(pictures, {})[0]).mean(dim=0)
    return {"teacher_file": checkpoints.write(file, {"state": state})}


@pytest.mark.parametrize(
    ("teacher", "variant"),
    [
        ("run", {}),
        ("file", {}),
        ("file", {"resolution": 16}),
        ("file", {"noise": 0.5}),
        ("online", {}),
        ("online", {"resolution": 16}),
    ],
)
def test_a_students_last_metrics_hold_its_agreement_with_the_teacher_that_it_had(
    teacher: str, variant: dict[str, Any], pictures: Pictures, tmp_path: Path
) -> None:
    given = tmp_path / "given.pt"
    more = many_minded(pictures, given) if teacher == "file" else {}
    data = pictures.data.model_copy(update={"options": OPTIONS | variant})
    run = pictures.run("ekd" if teacher == "online" else "kd", recipe=short(epochs=2), data=data, **more)
    job = pictures.job(tmp_path, run, teacher_files={"resnet14": given} if more else {})
    (row,) = done(execute(job, quiet))
    files = {"run": (pictures.teacher, "student.pt"), "online": (run, "teacher.pt")}
    state = checkpoints.read(given)["state"] if more else state_of(tmp_path, *files[teacher])
    whole, seen = shown(pictures, variant)
    best = answer("resnet8", state_of(tmp_path, run), seen).topk(5).indices
    hits = best == answer("resnet14", state, whole).argmax(dim=1)[:, None]
    assert row.metrics
    assert {name: value for name, value in row.metrics.last.items() if name not in ("top1", "top5")} == {
        "agreement": pytest.approx(100 * hits[:, 0].double().mean().item()),
        "agreement5": pytest.approx(100 * hits.any(1).double().mean().item()),
    }
    others = [row.metrics.best, row.metrics.mean_last10, *(epoch.metrics for epoch in row.history)]
    assert all(set(metrics) == {"top1", "top5"} for metrics in others)


def test_students_without_a_teacher_have_no_agreement_beside_students_with_one(
    pictures: Pictures, tmp_path: Path
) -> None:
    rows = done(execute(pictures.job(tmp_path, pictures.run(), pictures.run("kd")), quiet))
    more = {row.run.method: set(row.metrics.last) - {"top1", "top5"} for row in rows if row.metrics}
    assert more == {"none": set(), "kd": {"agreement", "agreement5"}}


def test_a_row_tells_the_weights_that_its_method_ended_with(pictures: Pictures, tmp_path: Path) -> None:
    adaptive, summed, fixed = (
        pictures.run("ad", options={"config": "adaptive_all_layer_wise", "safe": True}),
        pictures.run("ad+dkd", options={"ad": {"config": "adaptive_at_st"}}),
        pictures.run("ad", options={"config": "equal", "safe": False}),
    )
    ended: list[dict[str, float]] = []
    finish = harness.finish

    def finished(student: Any, *given: Any) -> Row:
        alphas = {name: value for name, value in student.method.named_parameters() if name.endswith("alphas")}
        ended.append({name: (-value).exp().tolist() for name, value in alphas.items()})
        return finish(student, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "finish", finished)
        job = pictures.job(tmp_path, adaptive, summed, fixed)
        done(execute(job, quiet))
    rows = [Store(job.results).row(one.id) for one in job.runs]
    learned = [row.learned for row in rows if row]
    assert [len(one) for one in learned] == [8, 2, 0]
    assert list(learned[1]) == ["attention", "soft_target"]
    for own, factors in zip(learned, ended, strict=True):
        assert list(own.values()) == pytest.approx([one for factor in factors.values() for one in factor])
        assert all(value != 1 for value in own.values())


def test_frozen_teachers_methods_and_online_ones_share_a_cohort_without_touching_the_teacher(
    pictures: Pictures, tmp_path: Path
) -> None:
    runs = [pictures.run(method) for method in ("kd", "ekd")]
    kd, ekd = done(execute(pictures.job(tmp_path, *runs), quiet))
    assert kd.teacher and ekd.teacher and kd.cost
    assert kd.teacher.recorded == kd.teacher.measured and kd.cost.teacher_seconds > 0
    assert kd.teacher.sha256 != ekd.teacher.sha256
    assert kd.teacher.sha256 == checkpoints.sha256(tmp_path / pictures.teacher.id / "student.pt")


def test_published_weights_are_taken_as_they_are_and_can_teach(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = networks.build

    def published(name: str, classes: int, init: str = "random") -> Network:
        network = build(name, classes)
        if init == "published":
            torch.nn.init.constant_(network.info.classifier.bias, 0.25)  # type: ignore[union-attr,arg-type]
        return network

    monkeypatch.setattr(networks, "build", published)
    taken = pictures.run(student="resnet14", recipe=short(epochs=0, init="published", ema=0.9))
    (row,) = done(execute(pictures.job(tmp_path, taken), quiet))
    (epoch,) = row.history
    assert row.metrics and row.cost
    assert (epoch.epoch, epoch.steps, epoch.losses, epoch.metrics) == (0, 0, {}, row.metrics.last)
    assert (row.metrics.best_epoch, row.metrics.evaluated) == (0, 1)
    assert row.cost.step_seconds == row.cost.images_per_second == 0
    assert state_of(tmp_path, taken)["fc.bias"].unique().tolist() == [0.25]
    (student,) = done(execute(pictures.job(tmp_path, pictures.run("kd", teacher=taken)), quiet))
    assert student.teacher and student.teacher.measured == row.metrics.last["top1"]
