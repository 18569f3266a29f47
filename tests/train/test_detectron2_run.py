"""detectron2's detectors from data to row: its table at mini scale, real images, its own evaluator."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench import methods, networks
from kdbench.datasets import open_coco
from kdbench.datasets.coco import CocoFolder
from kdbench.networks import _detectron2_zoo as zoo
from kdbench.networks import detectron2
from kdbench.records import checkpoint as checkpoints
from kdbench.spec.recipe import load_recipe
from kdbench.spec.run import Run
from kdbench.spec.table import load_table
from kdbench.tasks import coco_eval
from kdbench.tasks.detection import DetectionTask
from kdbench.train.job import execute
from tests.conftest import SHORT
from tests.helpers.plans import Choice, plan

pytestmark = [
    pytest.mark.skipif(bool(detectron2.unavailable()), reason=detectron2.unavailable()),
    pytest.mark.filterwarnings("ignore:torch.meshgrid"),  # detectron2 calls it the old way
]

CPU = torch.device("cpu")
METHODS = {"none", "mimic", "dist", "dist+mimic", "akd+masked_generative"}
REAL = Path(os.environ.get("KDBENCH_TEST_DATA", "nowhere")) / "coco_mini"


def test_every_cell_of_its_table_runs_at_mini(digits: CocoFolder, make_job: Any) -> None:
    short = SHORT | {"epochs": 1, "max_steps": 2, "image": {"shorter": 64, "longer": 64, "flip": 0.5}}
    changes = short | {f"teacher.{name}": value for name, value in short.items()}
    table = load_table("detectron2/coco")
    whole = plan([table], Choice("mini", DetectionTask.describe(digits), changes=changes))
    assert whole.skipped == ()
    rows = {}
    for stage in whole.stages:
        for cohort in stage:
            for row in execute(make_job(*cohort), lambda event: None):
                rows[row.id] = row
    assert len(rows) == len(whole.runs)
    for row in rows.values():
        assert (row.status, row.reason) == ("done", ""), row.run.display_name
        assert row.metrics and "ap" in row.metrics.last and row.environment.libraries["detectron2"]
    taught = [row.run for row in rows.values() if row.run.teacher]
    by_teacher = {run.teacher_network for run in taught}
    assert by_teacher == {f"detectron2:{name}" for name in zoo.MINI if name.endswith("teacher")}
    entries = {entry.method for pair in table.pairs for entry in table.entries(pair)}
    assert entries >= METHODS
    for teacher in by_teacher:
        assert {run.method for run in taught if run.teacher_network == teacher} == entries - {"none"}


@pytest.mark.parametrize("family", ["mini_retinanet", "mini_faster_rcnn"])
def test_students_of_a_cohort_end_as_alone(family: str, digits: CocoFolder, make_job: Any, tmp_path: Path) -> None:
    recipe = load_recipe("coco_mini", SHORT | {"epochs": 1, "max_steps": 3})
    data = DetectionTask.describe(digits)
    shared: dict[str, Any] = {"task": "detection", "scale": "mini", "data": data, "recipe": recipe}
    teacher = Run(**shared, student=f"detectron2:{family}_teacher", method="none", options={}, seed=0)
    student = f"detectron2:{family}_student"
    runs = [
        Run(**shared, student=student, teacher=teacher, method=name, options=methods.resolve(name, {}), seed=0)
        for name in ("mimic", "dist")
    ]
    cohort, alone = tmp_path / "cohort", tmp_path / "alone"
    for results in (cohort, alone):
        execute(make_job(teacher, results=results), lambda event: None)
    execute(make_job(*runs, results=cohort), lambda event: None)
    execute(make_job(runs[1], results=alone), lambda event: None)
    one, other = (checkpoints.read(results / runs[1].id / "student.pt")["state"] for results in (cohort, alone))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.skipif(not REAL.is_dir(), reason="KDBENCH_TEST_DATA names no folder with coco_mini/")
def test_a_few_steps_of_retinanet_r50_on_real_images() -> None:
    changes = {"batch_size": 2, "image.shorter": 160, "image.longer": 224, "init": "random"}
    task = DetectionTask(open_coco("coco", REAL.parent, REAL), load_recipe("coco_2x", changes), 0)
    torch.manual_seed(0)
    network = networks.build("detectron2:COCO-Detection/retinanet_R_50_FPN_1x", len(task.classes)).train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for _, batch in zip(range(3), task.batches(0, CPU), strict=False):
        losses = task.outputs(network, batch).losses
        assert losses.keys() == {"loss_cls", "loss_box_reg"}
        assert all(0 < loss.item() < 10 for loss in losses.values())  # not the thousands of a frozen BatchNorm
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())


def test_our_evaluator_says_what_detectron2s_says(digits: CocoFolder) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes, Instances

    task = DetectionTask(digits, load_recipe("coco_mini", dict(SHORT)), 0)
    draw = torch.Generator().manual_seed(0)
    found: list[coco_eval.Detection] = []
    register_coco_instances("kdbench_digits_val", {}, str(digits.val.annotation_file), str(digits.val.image_folder))
    try:
        named = open_coco("coco", Path("nowhere"), Path("detectron2:kdbench_digits_val,kdbench_digits_val")).val
        assert named.image_ids.tolist() == digits.val.image_ids.tolist()
        DatasetCatalog.get("kdbench_digits_val")  # it learns its category ids when it is first read
        evaluator = COCOEvaluator("kdbench_digits_val", ("bbox",), distributed=False, use_fast_impl=False)
        evaluator.reset()
        for i in range(len(digits.val)):
            boxes, labels = (torch.from_numpy(array) for array in digits.val.objects(i))
            boxes = boxes.repeat(2, 1) + torch.randn(2 * len(boxes), 4, generator=draw) * 2
            boxes[:, 2:] = boxes[:, 2:].maximum(boxes[:, :2] + 1)
            labels, scores = labels.repeat(2), torch.rand(len(boxes), generator=draw)
            image_id, (width, height) = int(digits.val.image_ids[i]), digits.val.size(i)
            size = torch.tensor([height, width])
            target = {"size": size, "stored_size": size}
            found += task._as_coco({"boxes": boxes, "scores": scores, "labels": labels}, target, image_id)
            instances = Instances((height, width), pred_boxes=Boxes(boxes), scores=scores, pred_classes=labels)
            evaluator.process([{"image_id": image_id}], [{"instances": instances}])
        theirs = evaluator.evaluate()["bbox"]
    finally:
        DatasetCatalog.remove("kdbench_digits_val")
        MetadataCatalog.remove("kdbench_digits_val")
    ours = coco_eval.evaluate(digits.val.annotation_file, [int(i) for i in digits.val.image_ids], found, reference=True)
    names = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "APs", "ap_medium": "APm", "ap_large": "APl"}
    assert 5 < ours["ap"] < 95
    for name, other in names.items():
        if name in ours:
            assert ours[name] == pytest.approx(theirs[other], abs=1e-9), name
