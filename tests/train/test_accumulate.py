"""Gradient accumulation: a batch in micro-batches trains as the whole one does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from kdbench import datasets, networks
from kdbench.datasets.coco import CocoFolder
from kdbench.errors import SpecError
from kdbench.launch.memory import Memory
from kdbench.launch.roofline import work
from kdbench.methods.base import Batch
from kdbench.networks.base import Network
from kdbench.spec.recipe import Recipe, load_recipe
from kdbench.spec.run import Data, Run
from kdbench.tasks.base import Task
from kdbench.tasks.detection import DetectionTask
from kdbench.tasks.segmentation import SegmentationTask
from kdbench.train import loop as training
from kdbench.train.events import Event, StepEvent
from kdbench.train.job import execute
from kdbench.train.micro_batches import micro_batches
from kdbench.train.step import train_step
from kdbench.train.student import Student
from kdbench.train.timing import StepTimer
from tests.conftest import SHORT
from tests.helpers.pictures import Pictures, done, numbers, short, state_of
from tests.helpers.tensors import equal

pytestmark = pytest.mark.integration

CPU = torch.device("cpu")
SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.02, "warmup_steps": 0}  # AdamW enlarges what rounding leaves


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


def without_batch_norm(network: Network) -> Network:
    """The network with a norm of each image in place of every BatchNorm, and without Dropout's draws."""
    for module in list(network.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(1, child.num_features))
    return network


def trained(
    run: Run, task: Task, teacher: str, folder: Path, steps: int = 4
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The weights of a student and its mean loss terms after some steps, both networks without BatchNorm."""
    torch.manual_seed(1)
    frozen = without_batch_norm(networks.build(teacher, len(task.classes))).eval().requires_grad_(False)
    student = Student(run, task, frozen.info, folder, CPU)
    without_batch_norm(student.network)
    for _, batch in zip(range(steps), task.endless(CPU, "train"), strict=False):
        train_step([student], batch, frozen, StepTimer(CPU, exact=False))
        assert student.active, student.reason
    losses = student.read_losses()
    return {**student.network.state_dict(), **student.method.state_dict()}, losses


def assert_alike(first: tuple[dict[str, Tensor], dict[str, float]], *others: Any) -> None:
    for state, losses in others:
        assert losses == pytest.approx(first[1], rel=1e-4)
        for name, value in first[0].items():
            torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_classification_trains_as_with_the_whole_batch(pictures: Pictures, tmp_path: Path) -> None:
    runs = [pictures.run("kd", recipe=short(**SGD, accumulate=n)) for n in (1, 4)]
    assert_alike(*(trained(run, pictures.task(run), "resnet14", tmp_path) for run in runs))


def test_a_shorter_last_batch_has_unequal_micro_batches_with_their_weights(pictures: Pictures, tmp_path: Path) -> None:
    changes = SGD | {"batch_size": 15, "drop_last": False}  # of 24: then one of 9, in parts of 4 and 5
    runs = [pictures.run("dist", recipe=short(**changes, accumulate=n)) for n in (1, 3)]
    task = pictures.task(runs[1])
    assert [[len(b.inputs) for b, _ in micro_batches(batch, 5)] for batch in task.batches(0, CPU)] == [[5] * 3, [4, 5]]
    plain = [run.model_copy(update={"method": "kd", "options": pictures.run("kd").options}) for run in runs]
    assert_alike(*(trained(run, pictures.task(run), "resnet14", tmp_path) for run in plain))
    whole, parts = (trained(run, pictures.task(run), "resnet14", tmp_path)[1] for run in runs)
    assert parts["dist"] != pytest.approx(whole["dist"], rel=1e-4)  # its intra-class term is over the images of a part


def test_segmentation_trains_as_with_the_whole_batch(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, channels in (("images", (3,)), ("masks", ())):
            (tmp_path / kind / split).mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 3 if kind == "masks" else 256, (32, 48, *channels), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / kind / split / f"{i}.png")
    (tmp_path / "classes.txt").write_text("a\nb\nc")
    data = datasets.open_masks("", tmp_path, tmp_path)
    image = {"image.height": 32, "image.width": 48, "image.scale": [1.0, 1.0]}  # nothing is ignored
    results = []
    for accumulate in (1, 4):
        recipe = load_recipe("cityscapes_mini", SGD | image | {"batch_size": 8, "accumulate": accumulate})
        task = SegmentationTask(data, recipe, 0)
        run = run_of(task, "segmenter_mini_student", "segmenter_mini_teacher", "kd", recipe)
        results.append(trained(run, task, "segmenter_mini_teacher", tmp_path))
    assert_alike(*results)


def test_detection_trains_as_with_the_whole_batch(digits: CocoFolder, tmp_path: Path) -> None:
    results = []
    for accumulate in (1, 4):
        changes = SHORT | SGD | {"batch_size": 4, "accumulate": accumulate, "clip_norm": 5.0}
        recipe = load_recipe("coco_mini", changes)
        task = DetectionTask(digits, recipe, 0)
        run = run_of(task, "retinanet_mini_student", "retinanet_mini_teacher", "mimic", recipe)
        results.append(trained(run, task, "retinanet_mini_teacher", tmp_path))
    assert_alike(*results)


def run_of(task: Task, student: str, teacher: str, method: str, recipe: Recipe) -> Run:
    from kdbench import methods

    data = Data(name="mine", fingerprint="0" * 16, train_images=8, val_images=8, classes=len(task.classes))
    common: dict[str, Any] = {"task": task.name, "scale": "mini", "data": data, "recipe": recipe, "seed": 0}
    taught = Run(student=teacher, method="none", options={}, **common)
    return Run(student=student, teacher=taught, method=method, options=methods.resolve(method, {}), **common)


METHODS = ("none", "kd", "crd", "mag+kd", "ab", "dml", "ekd", "reviewkd", "mlkd")


def test_every_kind_of_method_trains_in_a_cohort_as_alone(pictures: Pictures, tmp_path: Path) -> None:
    recipe = short(accumulate=2, ema=0.9)
    runs = [pictures.run(method, recipe=recipe) for method in METHODS]
    runs.append(pictures.run("ekd", recipe=recipe, options={"guided": False, "snapshots": 1}))
    together, alone = tmp_path / "together", tmp_path / "alone"
    rows = done(execute(pictures.job(together, *runs), lambda _: None))
    for run, row in zip(runs, rows, strict=True):
        (solo,) = done(execute(pictures.job(alone, run), lambda _: None))
        assert equal(state_of(together, run), state_of(alone, run)), run.method
        assert numbers(row) == numbers(solo), run.method
        assert [epoch.steps for epoch in row.history] == [3]


@pytest.mark.parametrize("method", ["crd", "ekd"])
def test_a_killed_run_is_resumed(
    method: str, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pictures.run(method, recipe=short(accumulate=4, epochs=2))
    (whole,) = done(execute(pictures.job(tmp_path / "whole", run), lambda _: None))

    class Killed(BaseException):
        pass

    def kill(event: Event) -> None:
        if event.event == "epoch":
            raise Killed

    monkeypatch.setattr(training, "SAVE_SHARE", 1.0)
    with pytest.raises(Killed):
        execute(pictures.job(tmp_path / "killed", run), kill)
    (resumed,) = done(execute(pictures.job(tmp_path / "killed", run), lambda _: None))
    assert numbers(resumed) == numbers(whole)


def test_loss_terms_and_steps_in_events_are_those_of_whole_steps(pictures: Pictures, tmp_path: Path) -> None:
    events: list[StepEvent] = []

    def listen(event: Event) -> None:
        if isinstance(event, StepEvent):
            events.append(event)

    run = pictures.run("kd", recipe=short(accumulate=4))
    (row,) = done(execute(pictures.job(tmp_path, run), listen))
    assert [(event.step, event.steps) for event in events] == [(3, 3)]
    assert events[0].losses[run.id] == pytest.approx(row.history[0].losses, rel=1e-6)


def test_one_forward_of_the_teacher_serves_all_students_of_a_cohort(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench.train import step

    sizes: list[int] = []
    forward = step.teacher_forward

    def counted(teacher: Network, batch: Batch, recipe: Recipe, *options: bool) -> Any:
        sizes.append(len(batch.inputs))
        return forward(teacher, batch, recipe, *options)

    monkeypatch.setattr(step, "teacher_forward", counted)
    runs = [pictures.run(method, recipe=short(accumulate=4)) for method in ("kd", "dist", "none")]
    done(execute(pictures.job(tmp_path, *runs), lambda _: None))
    assert sizes == [2] * 4 * 3


def test_a_student_that_fails_in_a_micro_batch_leaves_the_others_alone(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench import methods

    calls: list[int] = []
    forward = methods.method_class("dist").forward

    def breaking(self: Any, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:  # the second micro-batch of the second step
            raise RuntimeError("no such kernel")
        return forward(self, *given)

    runs = [pictures.run(method, recipe=short(accumulate=4)) for method in ("dist", "kd")]
    done(execute(pictures.job(tmp_path / "whole", runs[1]), lambda _: None))
    monkeypatch.setattr(methods.method_class("dist"), "forward", breaking)
    broken, whole = execute(pictures.job(tmp_path / "parts", *runs), lambda _: None)
    assert (broken.status, whole.status, len(calls)) == ("failed", "done", 6)
    assert equal(state_of(tmp_path / "whole", runs[1]), state_of(tmp_path / "parts", runs[1]))


def test_micro_batches_keep_order_and_every_field() -> None:
    targets = [{"labels": torch.tensor([i])} for i in range(7)]
    batch = Batch(torch.arange(7.0).view(7, 1, 1, 1), targets, torch.arange(7), torch.arange(7.0) + 10)
    parts = micro_batches(batch, 3)
    assert [len(part.inputs) for part, _ in parts] == [2, 2, 3]
    assert [share for _, share in parts] == [2 / 7, 2 / 7, 3 / 7]
    assert torch.equal(torch.cat([part.inputs for part, _ in parts]), batch.inputs)
    assert [target for part, _ in parts for target in part.targets] == targets
    assert torch.equal(torch.cat([part.index for part, _ in parts]), batch.index)
    assert torch.equal(torch.cat([part.teacher_inputs for part, _ in parts]), batch.teacher_inputs)
    whole = replace(batch, full_inputs=None)
    assert micro_batches(whole, 7) == [(whole, 1.0)] and micro_batches(whole, 7)[0][0] is whole
    assert micro_batches(whole, 4)[0][0].full_inputs is None


def test_memory_falls_and_the_time_does_not(pictures: Pictures) -> None:
    memory = Memory("cpu", 8 * 2**30, stored=(32, 32))

    def runs(**changes: Any) -> list[Run]:
        recipe = short(**{"batch_size": 1024} | changes)
        return [pictures.run(method, recipe=recipe) for method in ("none", "mag+kd")]

    whole, parts = runs(), runs(accumulate=8)
    base = memory.needed(runs(batch_size=128))
    assert base < memory.needed(parts) < base + 0.3 * (memory.needed(whole) - base)  # the batch itself is read whole
    assert memory.needed(parts) < memory.bound(parts)
    assert work(parts, memory).flops == pytest.approx(work(whole, memory).flops)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 5}, "batch_size 16 is not divisible into accumulate 5 micro-batches of equal size; set "
         "accumulate to 4, or batch_size to 20"),
        ({"accumulate": 32}, "set accumulate to 16, or batch_size to 32"),
        ({"accumulate": 2**31 - 1, "batch_size": 2**31 - 2}, "set accumulate to"),
        ({"accumulate": 0}, "accumulate: Input should be greater than 0"),
        ({"accumulate": -4}, "accumulate: Input should be greater than 0"),
        ({"accumulate": 2.0}, "accumulate: Input should be a valid integer"),
        ({"accumulate": "4"}, "accumulate: Input should be a valid integer"),
        ({"accumulate": True}, "accumulate: Input should be a valid integer"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_recipe("coco_2x", changes, "--set FIELD=VALUE")


def test_earlier_ids_stay_and_accumulation_is_another_run(pictures: Pictures) -> None:
    plain, one, four = (pictures.run(recipe=short(**more)) for more in ({}, {"accumulate": 1}, {"accumulate": 4}))
    assert plain.id == one.id != four.id
    assert "accumulate" not in plain.model_dump(mode="json")["recipe"]


@pytest.mark.parametrize(("images", "fitting"), [(15, {"batch_size": 12}), (3, {"batch_size": 3, "accumulate": 3})])
def test_advice_for_few_images_keeps_batches_divisible(images: int, fitting: dict[str, int]) -> None:
    recipe = load_recipe("coco_2x", {"accumulate": 4})
    assert recipe.batch_within(images) == fitting
    assert load_recipe("coco_2x", {"accumulate": 4, **fitting}).batch_size == fitting["batch_size"]


def test_a_preparation_takes_whole_batches_and_a_first_phase_micro_batches(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench import methods
    from kdbench.train.preparation import prepare

    torch.manual_seed(1)
    teacher = networks.build("resnet14", 10).eval().requires_grad_(False)
    prepared = []
    for accumulate in (1, 4):
        run = pictures.run("mag+kd", recipe=short(accumulate=accumulate))
        student = Student(run, pictures.task(run), teacher.info, tmp_path / run.id, CPU)
        prepare(student, teacher, {})
        prepared.append({name: v for name, v in student.method.state_dict().items() if name.startswith("teacher_")})
    assert prepared[0] and equal(*prepared)

    sizes: list[int] = []
    initial = methods.method_class("fsp").initial

    def counted(self: Any, batch: Batch, *given: Any) -> Any:
        sizes.append(len(batch.inputs))
        return initial(self, batch, *given)

    monkeypatch.setattr(methods.method_class("fsp"), "initial", counted)
    run = pictures.run("fsp", recipe=short(accumulate=4))
    prepare(Student(run, pictures.task(run), teacher.info, tmp_path / run.id, CPU), teacher, {})
    assert sizes == [2] * 4 * 3
