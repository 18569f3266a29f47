"""Tasks by name: what each declares, and that a new task or metric is added in one place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kdbench import methods, networks, tasks
from kdbench.datasets import open_coco
from kdbench.datasets.coco import CocoFolder
from kdbench.errors import SpecError
from kdbench.grid.cells import expand
from kdbench.grid.validate import validate
from kdbench.launch.user_data import detect_format
from kdbench.methods.none import NoDistillation
from kdbench.report.terminal import print_tables
from kdbench.report.verdicts import noise_budget
from kdbench.spec import recipe as recipes
from kdbench.spec.recipe import ScaledCrop, load_recipe, recipe_names
from kdbench.spec.table import ByScale, ReportedTable, Table
from kdbench.tasks.base import DataFormat, Metric
from kdbench.tasks.classification import ClassificationTask
from kdbench.tasks.detection import DetectionTask
from tests.helpers.plans import Choice, plan
from tests.helpers.rows import DIGITS, make_row
from tests.helpers.tables import cifar_table

NEW_TASK = """
from kdbench.tasks.base import DataFormat, Metric
from kdbench.tasks.classification import ClassificationTask


class RankingTask(ClassificationTask):
    name = "ranking"
    metrics = (Metric("ndcg", "normalized gain", 1), Metric("top1", "first hit", 3))
    noise_budget = 0.75

    @classmethod
    def recognizes(cls, path):
        return DataFormat(cls.name, "a set of rankings", "padded_crop") if path.suffix == ".rank" else None
"""

REPORTED = """\
paper,table,dataset,strategy,teacher,teacher_value,student,student_value,method,metric,value,std,selection,source,evidence,note
test,small,digits,,resnet56,,resnet20,,none,{metric},41.25,,,a test,primary,
"""


@pytest.fixture
def ranking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """A table of a task that is one file and one entry.

    Networks, methods and recipes declare the tasks that they are for, here the new one instead of classification.
    """
    (tmp_path / "ranking_task.py").write_text(NEW_TASK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tasks, "TASKS", {"ranking": "ranking_task:RankingTask"} | tasks.TASKS)
    monkeypatch.setattr(networks, "task", lambda name: "ranking")
    monkeypatch.setattr(NoDistillation, "tasks", frozenset({"ranking"}))
    for name in ("cifar_240", "cifar_mini", "cifar_mini_teacher"):
        text = (recipes.RECIPES / f"{name}.yaml").read_text()
        (tmp_path / f"{name}.yaml").write_text(text.replace("task: classification", "task: ranking"))
    monkeypatch.setattr(recipes, "RECIPES", tmp_path)
    return cifar_table("none", task="ranking", metric="ndcg", seeds=(0, 1))


@pytest.fixture
def data(tmp_path: Path) -> CocoFolder:
    return open_coco("digits", tmp_path, train=40, val=4)


def printed(table: Table, tmp_path: Path) -> str:
    """The table at full scale with a measured and a reported number."""
    file = tmp_path / "small.csv"
    file.write_text(REPORTED.format(metric=table.metric))
    table = table.model_copy(update={"reported": (ReportedTable(file=str(file), table="small"),)})
    rows = [make_row(table, table.pairs[0], table.methods[0], "full", value=41.5)]
    return print_tables([table], rows, scale="full", out=None)


def test_a_new_task_is_one_file_and_one_entry(ranking: Table, tmp_path: Path) -> None:
    validate(ranking)
    runs = plan([ranking], Choice("mini", DIGITS)).runs
    assert [(run.task, run.student, run.seed) for run in runs] == [("ranking", "resnet8", seed) for seed in (0, 1)]
    text = printed(ranking, tmp_path)
    assert "normalized gain in percent" in text
    assert "41.50" in text and " 41.2 " in text  # the reported number with the metric's one decimal
    assert noise_budget("rankings", "ranking") == 0.75
    (tmp_path / "mine.rank").touch()
    assert detect_format(tmp_path / "mine.rank") == DataFormat("ranking", "a set of rankings", "padded_crop")


def test_a_new_metric_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = cifar_table("none", metric="top3")
    with pytest.raises(SpecError, match=r"unknown metric of test/cifar100: 'top3'. Did you mean 'top5'\?"):
        validate(table)
    metrics = (*ClassificationTask.metrics, Metric("top3", "top-3 accuracy", 1))
    monkeypatch.setattr(ClassificationTask, "metrics", metrics)
    validate(table)
    text = printed(table, tmp_path)
    assert "top-3 accuracy in percent" in text and " 41.2 " in text
    assert tasks.headline("classification").key == "top1"


def test_an_unknown_task_or_metric_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"unknown task: 'classifikation'. Did you mean 'classification'\?"):
        tasks.get("classifikation")
    with pytest.raises(SpecError, match=r"unknown metric of detection: 'map'. Did you mean 'ap'\?"):
        tasks.metric("detection", "map")
    with pytest.raises(SpecError, match=r"unknown task of test/cifar100: 'classifikation'"):
        validate(cifar_table("none", task="classifikation"))


def test_names_are_known_without_torch_and_metrics_without_torchvision() -> None:
    check = (
        "import sys; from kdbench import tasks; names = tasks.names(); assert 'torch' not in sys.modules; "
        "[tasks.headline(name) for name in names]; sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_declares_itself(name: str) -> None:
    task = tasks.get(name)
    assert task.name == name
    keys = [metric.key for metric in task.metrics]
    assert len(set(keys)) == len(keys) and tasks.headline(name) is task.metrics[0]
    assert all(tasks.metric(name, key).digits >= 0 for key in keys)
    setting = task.example_setting(40, 10)
    assert (setting.task, setting.num_samples, setting.num_classes) == (name, 40, 10)
    assert methods.build("none", setting).name == "none"


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_in_the_tree_has_images_of_its_task(name: str) -> None:
    recipe = load_recipe(name)
    for task in map(tasks.get, tasks.names()):
        if task.name == recipe.task:
            task.check_image_kind(recipe)
        else:
            with pytest.raises(SpecError, match=f"image.kind .* does not fit the task {task.name}, which takes"):
                task.check_image_kind(recipe)


def test_a_recipe_with_images_of_another_task_is_refused_in_tables_and_by_the_task(
    data: CocoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = yaml.safe_load((recipes.RECIPES / "cifar_mini.yaml").read_text())
    resize = {"kind": "resize", "shorter": 32, "longer": 32}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values | {"image": resize}))
    monkeypatch.setattr(recipes, "RECIPES", tmp_path)
    table = cifar_table(
        "none", recipe=ByScale(full="mine", mini="mine"), teacher_recipe=ByScale(full="mine", mini="mine")
    )
    words = (
        "recipe mine: image.kind resize does not fit the task classification, which takes padded_crop or resized_crop"
    )
    with pytest.raises(SpecError, match=words):
        expand(table, "mini")
    recipe = load_recipe("mine")
    assert DetectionTask(data, recipe, 0).batch_size == recipe.batch_size
    cropped = recipe.model_copy(update={"image": ScaledCrop(height=8, width=8)})
    with pytest.raises(SpecError, match="recipe mine: image.kind scaled_crop does not fit the task detection"):
        DetectionTask(data, cropped, 0)


@pytest.mark.parametrize(
    ("folder", "task", "kind"),
    [
        ("annotations", "detection", "resize"),
        ("masks", "segmentation", "scaled_crop"),
        ("train", "classification", "resized_crop"),
    ],
)
def test_a_users_folder_is_recognized_by_one_task(folder: str, task: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    found = detect_format(tmp_path)
    assert (found.task, found.image_kind) == (task, kind)
    assert kind in tasks.get(task).image_kinds
    others = [name for name in tasks.names() if name != "classification" and tasks.get(name).recognizes(tmp_path)]
    assert others == ([] if task == "classification" else [task])


def test_a_file_and_a_catalog_entry_are_recognized(tmp_path: Path) -> None:
    assert detect_format(Path("detectron2:train,val")).task == "detection"
    (tmp_path / "mine.npz").touch()
    assert detect_format(tmp_path / "mine.npz").image_kind == "padded_crop"
