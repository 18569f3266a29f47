"""What makes two runs the same: ids, and the seeds that follow from a spec."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kdbench.spec.recipe import Recipe, Resize, load_recipe
from kdbench.spec.run import Data, Run, current_version
from kdbench.spec.schema import digest
from kdbench.spec.table import load_table

RECIPE = Recipe(
    name="fixed", source="a test", task="detection", epochs=24, batch_size=16, lr=0.01, milestones=(16, 22),
    init="random", image=Resize(shorter=800, longer=1333),
)  # fmt: skip
DATA = Data(name="coco", fingerprint="c0c0", train_images=100, val_images=10, classes=80)
TEACHER = Run(
    task="detection", scale="full", data=DATA, student="fcos_r101_fpn", method="none", options={}, recipe=RECIPE, seed=0
)
RUN = Run(
    task="detection", scale="full", data=DATA, student="fcos_r50_fpn", teacher=TEACHER, method="dist+mimic",
    options={"dist": {"tau": 1.0, "beta": 1}, "mimic": {"align": None}}, recipe=RECIPE, seed=1,
)  # fmt: skip

OTHER_RUN: dict[str, Any] = {
    "version": 2,
    "task": "segmentation",
    "scale": "mini",
    "data": DATA.model_copy(update={"fingerprint": "c0c1"}),
    "student": "fcos_r101_fpn",
    "teacher": TEACHER.model_copy(update={"seed": 1}),
    "teacher_file": "ab" * 32,
    "method": "dist",
    "options": {"dist": {"tau": 1.0, "beta": 2}, "mimic": {"align": None}},
    "recipe": RECIPE.model_copy(update={"lr": 0.02}),
    "seed": 2,
    "online_teacher": "resnet56",
}
OTHER_RECIPE: dict[str, Any] = {
    "name": "other",
    "source": "another",
    "task": "segmentation",
    "epochs": 23,
    "max_steps": 5,
    "batch_size": 8,
    "accumulate": 2,
    "sync_batchnorm": True,
    "optimizer": "adamw",
    "lr": 0.011,
    "momentum": 0.8,
    "nesterov": True,
    "weight_decay": 2e-4,
    "schedule": "cosine",
    "milestones": (16,),
    "gamma": 0.2,
    "warmup_steps": 1,
    "warmup_factor": 0.1,
    "clip_norm": 1.0,
    "precision": "bfloat16",
    "teacher_precision": "bfloat16",
    "cudnn_benchmark": True,
    "compile": True,
    "channels_last": True,
    "init": "imagenet",
    "image": Resize(shorter=800, longer=1333, flip=0.0),
    "eval_every": 2,
    "drop_last": False,
    "decay_all": False,
    "decay_epochs": 2.4,
    "min_lr": 1e-5,
    "warmup_epochs": 3,
    "label_smoothing": 0.1,
    "ema": 0.9999,
    "epoch_steps": 400,
    "power": 1.0,
    "aux_weight": 0.0,
    "warmup_by": "epoch",
    "decay_after_warmup": True,
}
OTHER_DATA: dict[str, Any] = {
    "name": "other",
    "fingerprint": "c0c1",
    "train_images": 101,
    "val_images": 11,
    "classes": 81,
    "options": {"fraction": 0.25},
}


@pytest.mark.parametrize("field", Run.model_fields)
def test_any_field_of_a_run_is_part_of_its_identity(field: str) -> None:
    assert RUN.model_copy(update={field: OTHER_RUN[field]}).id != RUN.id


@pytest.mark.parametrize("field", Recipe.model_fields)
def test_any_field_of_the_recipe_but_prose_is_part_of_its_identity_and_of_its_teachers(field: str) -> None:
    recipe = RECIPE.model_copy(update={field: OTHER_RECIPE[field]})
    teacher = TEACHER.model_copy(update={"recipe": recipe})
    prose = field in ("name", "source")
    assert (RUN.model_copy(update={"recipe": recipe}).id == RUN.id) == prose
    assert (RUN.model_copy(update={"teacher": teacher}).id == RUN.id) == prose


@pytest.mark.parametrize("field", Data.model_fields)
def test_any_field_of_the_data_is_part_of_its_identity(field: str) -> None:
    other = DATA.model_copy(update={field: OTHER_DATA[field]})
    assert RUN.model_copy(update={"data": other}).id != RUN.id


def test_equal_specs_have_equal_ids_whatever_the_order_of_their_options() -> None:
    options = {"mimic": {"align": None}, "dist": {"beta": 1, "tau": 1.0}}
    assert RUN.model_copy(update={"options": options}).id == RUN.id
    assert Run(**{name: getattr(RUN, name) for name in Run.model_fields}).id == RUN.id


def test_the_id_of_a_spec_never_changes() -> None:
    # A new literal here means that every finished run is repeated: say so in the changelog.
    assert (RUN.id, TEACHER.id) == ("7b5a96f247a69b2b", "9e1825e33c5ff48f")


@pytest.mark.parametrize("field", ["warmup_by", "decay_after_warmup", "cudnn_benchmark"])
def test_a_field_that_recipes_got_later_leaves_the_ids_of_earlier_runs_as_they_are(field: str) -> None:
    written = RUN.model_dump(mode="json")
    assert field not in written["recipe"] and field not in written["teacher"]["recipe"]
    assert Run.model_validate_json(RUN.model_dump_json()).recipe == RECIPE


def test_the_earlier_name_of_a_precision_is_read_and_leaves_ids_as_they_are() -> None:
    written = RUN.model_dump(mode="json")
    assert written["recipe"]["precision"] == written["teacher"]["recipe"]["precision"] == "ieee"
    written["recipe"]["precision"] = written["teacher"]["recipe"]["precision"] = "float32"
    again = Run.model_validate_json(json.dumps(written))
    assert again == RUN and again.id == RUN.id
    assert load_recipe("cifar_240", {"precision": "float32"}).precision == "ieee"
    tf32 = RUN.model_copy(update={"recipe": RECIPE.model_copy(update={"precision": "tf32"})})
    assert tf32.id != RUN.id


def test_runs_whose_results_changed_without_their_fields_have_another_version() -> None:
    versions = {
        1: [{}, {"precision": "bfloat16", "task": "segmentation"}],
        2: [{"ema": 0.99}, {"precision": "bfloat16"}],  # the mean's first step; the precision of evaluation
    }
    for version, recipes in versions.items():
        assert {current_version(RECIPE.model_copy(update=changes)) for changes in recipes} == {version}


def test_the_id_survives_a_json_round_trip() -> None:
    again = Run.model_validate_json(RUN.model_dump_json())
    assert again == RUN and again.id == RUN.id
    table = load_table("akd/coco")
    assert type(table).model_validate_json(table.model_dump_json()) == table


def test_an_id_is_sixteen_hex_digits_that_depend_on_the_value_alone() -> None:
    assert digest({"b": [1, 2], "a": "é"}) == digest({"a": "é", "b": [1, 2]})
    assert len(digest(None)) == 16 and int(digest(None), 16) >= 0
    assert digest([1]) != digest([1.0]) != digest(["1"])


def test_initial_weights_are_shared_by_methods_and_teachers_and_differ_by_student_seed_and_data() -> None:
    none = RUN.model_copy(update={"method": "none", "teacher": None, "options": {}})
    other = RUN.model_copy(update={"recipe": OTHER_RUN["recipe"], "teacher_file": "ab"})
    assert none.init_seed == other.init_seed == RUN.init_seed
    changed = [RUN.model_copy(update={field: OTHER_RUN[field]}) for field in ("student", "seed", "data")]
    assert len({run.init_seed for run in [RUN, *changed]}) == 4


def test_data_order_is_shared_by_all_networks_and_methods_and_differs_by_seed_and_data() -> None:
    shared = [RUN.model_copy(update={field: OTHER_RUN[field]}) for field in ("student", "method", "recipe", "teacher")]
    assert {run.data_seed for run in shared} == {RUN.data_seed}
    changed = [RUN.model_copy(update={field: OTHER_RUN[field]}) for field in ("seed", "data")]
    assert len({run.data_seed for run in [RUN, *changed]}) == 3
    assert RUN.data_seed != RUN.init_seed
    assert all(0 <= seed < 2**63 for seed in (RUN.data_seed, RUN.init_seed))
