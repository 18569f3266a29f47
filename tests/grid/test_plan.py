"""What is to be run for the tables and choices that a user names, in which order and in whose company."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kdbench import methods, networks
from kdbench.errors import SpecError
from kdbench.grid.cells import expand
from kdbench.grid.cohorts import cohorts
from kdbench.grid.pairs import skip_reason
from kdbench.grid.plan import Plan
from kdbench.grid.validate import check_request, validate
from kdbench.spec.recipe import load_recipe
from kdbench.spec.table import MethodEntry, Networks, Pair, Table, load_table, table_names
from tests.helpers.plans import Choice, plan, runs_of
from tests.helpers.rows import COCO, DIGITS
from tests.helpers.tables import cifar_table, fixed_table

MINI = Choice("mini", DIGITS)
FULL = Choice("full", COCO)


@pytest.fixture(scope="module")
def tables() -> list[Table]:
    return [fixed_table("akd/coco"), fixed_table("dist/coco")]


def table_of(*pairs: Pair, **changes: Any) -> Table:
    """`dist/coco` with other pairs."""
    return fixed_table("dist/coco").model_copy(update={"pairs": pairs, **changes})


def pair_of(teacher: str, student: str, *entries: str | MethodEntry, **more: Any) -> Pair:
    """A pair of small networks that run under their own names at both scales."""
    shown = tuple(entry if isinstance(entry, MethodEntry) else MethodEntry(method=entry) for entry in entries)
    return Pair(
        teacher=teacher, student=student, mini=Networks(teacher=teacher, student=student), methods=shown, **more
    )


FCOS = ("fcos_mini_teacher", "fcos_mini_student")


def test_both_tables_at_mini_run_every_training_once(tables: list[Table]) -> None:
    whole = plan(tables, MINI)
    ids = [run.id for run in whole.runs]
    assert len(ids) == len(set(ids))
    by_student = {
        name: sorted(run.method for run in whole.runs if run.student == f"{name}_mini_student")
        for name in ("retinanet", "fcos", "faster_rcnn")
    }
    assert by_student == {
        "retinanet": [
            "akd+cwd", "akd+maskd+box_l1", "akd+maskd+box_l1", "akd+maskd+box_l1", "akd+masked_generative", "cwd",
            "dist", "dist+mimic", "maskd+box_l1", "masked_generative", "mimic", "none",
        ],
        "fcos": ["akd+maskd", "maskd", "none"],
        "faster_rcnn": [
            "akd+maskd+box_l1", "akd+masked_generative+dist+box_l1", "dist", "dist+mimic", "maskd+box_l1", "none",
        ],
    }  # fmt: skip


def test_teachers_come_in_the_first_stage_with_their_own_recipe(tables: list[Table]) -> None:
    first, second = plan(tables, MINI).stages
    teachers = [run for cohort in first for run in cohort]
    assert {run.student for run in teachers} == {f"{f}_mini_teacher" for f in ("retinanet", "fcos", "faster_rcnn")}
    assert {(run.method, run.seed, run.recipe.name) for run in teachers} == {("none", 0, "coco_mini_teacher")}
    students = [run for cohort in second for run in cohort]
    assert {run.recipe.name for run in students} == {"coco_mini"}
    assert {run.teacher.id for run in students if run.teacher} == {run.id for run in teachers}


def test_there_is_a_cohort_for_each_seed_and_teacher_and_the_student_alone_is_in_it(tables: list[Table]) -> None:
    groups = plan(tables, replace(MINI, seeds=(0, 1), cohort=99)).stages[1]
    keys = [{(run.seed, run.teacher_network) for run in cohort if run.teacher} for cohort in groups]
    families = ("retinanet", "fcos", "faster_rcnn")
    assert sorted(map(list, keys)) == sorted([(seed, f"{name}_mini_teacher")] for seed in (0, 1) for name in families)
    assert all([run.method for run in cohort].count("none") == 1 for cohort in groups)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_cohort_is_larger_than_asked_and_nothing_is_lost(most: int, tables: list[Table]) -> None:
    whole, split = (plan(tables, replace(MINI, cohort=size)) for size in (99, most))
    sizes = [len(cohort) for stage in split.stages for cohort in stage]
    assert max(sizes) <= most
    assert {run.id for run in split.runs} == {run.id for run in whole.runs} and len(split.runs) == len(whole.runs)
    assert len(split.stages[1]) == sum(-(-len(cohort) // most) for cohort in whole.stages[1])


def test_students_of_different_networks_run_apart_where_no_teacher_hosts_them() -> None:
    retinanet = ("retinanet_mini_teacher", "retinanet_mini_student")
    whole = plan([table_of(pair_of(*FCOS, "none"), pair_of(*retinanet, "none"))], MINI)
    (stage,) = whole.stages
    assert sorted(run.student for (run,) in stage) == ["fcos_mini_student", "retinanet_mini_student"]


def test_a_student_alone_that_two_teachers_could_host_runs_once() -> None:
    other = ("fcos_r50_fpn", "fcos_mini_student")
    whole = plan([table_of(pair_of(*FCOS, "none", "mimic"), pair_of(*other, "none", "mimic"))], MINI)
    assert sorted(len(cohort) for cohort in whole.stages[1]) == [1, 2]
    assert [run.method for run in whole.runs].count("none") == 3  # two teachers, one student


def test_seeds_multiply_students_and_never_teachers(tables: list[Table]) -> None:
    one, three = plan(tables, MINI), plan(tables, replace(MINI, seeds=(0, 1, 7)))
    assert len(three.stages[0]) == len(one.stages[0])
    assert [run.id for cohort in three.stages[0] for run in cohort] == [r.id for c in one.stages[0] for r in c]
    students = [run for cohort in three.stages[1] for run in cohort]
    assert {run.seed for run in students} == {0, 1, 7}
    assert len(students) == 3 * sum(len(cohort) for cohort in one.stages[1])


def test_a_table_brings_its_own_seeds_unless_others_are_asked_for() -> None:
    table = table_of(pair_of(*FCOS, "none"), seeds=(3, 5))
    assert [run.seed for run in plan([table], MINI).runs] == [3, 5]
    assert [run.seed for run in plan([table], replace(MINI, seeds=(0,))).runs] == [0]


def methods_of(whole: Plan) -> set[str]:
    return {run.method for cohort in whole.stages[-1] for run in cohort}


def test_methods_are_chosen_by_method_or_label_and_none_always_runs(tables: list[Table]) -> None:
    assert methods_of(plan(tables, replace(MINI, methods=("cwd",)))) == {"none", "cwd"}
    assert methods_of(plan(tables, replace(MINI, methods=("none",)))) == {"none"}
    assert methods_of(plan(tables, replace(MINI, methods=("cwd", "dist")))) == {"none", "cwd", "dist"}
    (arm,) = [
        run
        for run in plan(tables, replace(MINI, methods=("akd+maskd, perturb",))).runs
        if run.teacher and run.method == "akd+maskd+box_l1"
    ]
    assert arm.options["akd+maskd"]["normalise"] is False
    by_method = plan(tables, replace(MINI, methods=("akd+maskd+box_l1",))).runs
    assert [run.method for run in by_method if "retinanet" in run.student].count("akd+maskd+box_l1") == 3


def test_without_distilled_methods_no_teacher_is_trained(tables: list[Table]) -> None:
    whole = plan(tables, replace(MINI, methods=("none",)))
    assert len(whole.stages) == 1 and all(run.teacher is None for run in whole.runs)


def test_an_unknown_change_is_refused_before_the_data_is_opened(tables: list[Table]) -> None:
    check_request(tables, "full", {"lr": 0.1, "teacher.epochs": 30})
    for field in ("lrr", "teacher.lrr"):
        with pytest.raises(SpecError, match="unknown recipe field: 'lrr'. Did you mean 'lr'"):
            check_request(tables, "full", {field: 0.1})


def test_a_value_that_cannot_be_names_the_option_that_it_is_from(tables: list[Table]) -> None:
    for prefix in ("", "teacher."):
        with pytest.raises(SpecError, match=rf"^--set {prefix}FIELD=VALUE, recipe \w+: lr: Input should be a valid"):
            check_request(tables, "mini", {f"{prefix}lr": True})


def test_a_batch_larger_than_the_data_set_is_refused(tables: list[Table]) -> None:
    few = replace(MINI, data=DIGITS.model_copy(update={"train_images": 7}))
    with pytest.raises(SpecError, match="batch_size 8 is above the 7 training images; lower it with --set"):
        plan(tables, few)
    changes = {"batch_size": 7, "teacher.batch_size": 7}
    assert plan(tables, replace(few, changes=changes)).runs


def test_the_batch_of_a_teacher_that_no_run_trains_is_not_compared_with_the_data(tables: list[Table]) -> None:
    few = replace(MINI, data=DIGITS.model_copy(update={"train_images": 7}), changes={"batch_size": 7})
    with pytest.raises(SpecError, match="batch_size 8 is above the 7 training images"):
        plan(tables, few)
    assert plan(tables, replace(few, methods=("none",))).runs
    assert plan(tables, replace(few, teacher_file="ab" * 32)).runs


@pytest.mark.parametrize(
    ("changes", "milestones"),
    [
        ({}, (16, 22)),
        ({"epochs": 12}, (8, 11)),
        ({"epochs": 2}, (1,)),
        ({"epochs": 1}, ()),
        ({"epochs": 23}, (16, 22)),
        ({"epochs": 10**9}, (16, 22)),
        ({"epochs": 12, "milestones": [5]}, (5,)),
        ({"teacher.epochs": 12}, (16, 22)),
    ],
)
def test_milestones_behind_the_last_epoch_move_along_with_fewer_epochs(
    changes: dict[str, Any], milestones: tuple[int, ...], tables: list[Table]
) -> None:
    recipes = [recipe for cell in expand(tables[0], "full", changes) for recipe in (cell.recipe, cell.teacher_recipe)]
    students, teachers = recipes[::2], recipes[1::2]
    assert {recipe.milestones for recipe in students} == {milestones}
    assert {recipe.milestones for recipe in teachers} == {(8, 11) if "teacher.epochs" in changes else (16, 22)}


@pytest.mark.parametrize("changes", [{"epochs": 12, "milestones": [12]}, {"epochs": "many"}, {"epochs": -1}])
def test_milestones_of_the_user_and_impossible_epochs_are_refused(changes: Any, tables: list[Table]) -> None:
    with pytest.raises(SpecError, match="milestones|epochs"):
        expand(tables[0], "full", changes)


def test_options_are_resolved_and_mini_options_reach_mini_runs_alone(tables: list[Table]) -> None:
    pair = tables[0].pairs[0]
    (entry,) = [entry for entry in pair.methods if entry.label == "maskd"]
    (mini,), (full,) = runs_of(tables[0], pair, entry, MINI), runs_of(tables[0], pair, entry, FULL)
    assert mini.options["maskd"]["mask_steps"] == entry.mini_options["maskd"]["mask_steps"] < 2000
    assert full.options["maskd"]["custom_mask_warmup"] == 7000
    for run in (mini, full):
        assert run.options == methods.resolve(run.method, run.options)  # nothing is left to a default
        assert run.options["maskd"]["weight"] == 7.0


@pytest.mark.usefixtures("without_detectron2")
def test_a_pair_that_full_scale_lacks_is_skipped_with_its_reason(tables: list[Table]) -> None:
    whole = plan(tables, FULL)
    skipped = {(skip.table, skip.cell): skip.reason for skip in whole.skipped if "instead" not in skip.reason}
    assert set(skipped) == {
        ("akd/coco", "cascade_mask_rcnn_x101_fpn -> faster_rcnn_r50_fpn"),
        ("akd/coco", "reppoints_x101_dcn_fpn -> reppoints_r50_fpn"),
        ("dist/coco", "cascade_mask_rcnn_x101_fpn -> faster_rcnn_r50_fpn"),
    }
    reasons = {"RepPoints is in neither torchvision nor detectron2", "detectron2 is not installed"}
    assert set(skipped.values()) == reasons
    assert not any("cascade" in str(run.teacher) for run in whole.runs)


def test_a_pair_without_small_networks_is_skipped_at_mini_with_a_reason(tables: list[Table]) -> None:
    (skip,) = plan(tables, MINI).skipped
    assert "reppoints" in skip.cell and skip.reason == "RepPoints is in neither torchvision nor detectron2"
    assert "no small networks" in skip_reason(Pair(teacher="fcos_r101_fpn", student="fcos_r50_fpn"), "mini")
    assert skip_reason(Pair(teacher="fcos_r101_fpn", student="fcos_r50_fpn"), "full") == ""


def test_a_pair_of_two_families_is_refused_with_its_place() -> None:
    table = table_of(pair_of(*FCOS, "none"), pair_of("fcos_mini_teacher", "retinanet_mini_student", "none", "mimic"))
    with pytest.raises(SpecError, match=r"dist/coco: pairs\[1\].*fcos_mini_teacher cannot teach retinanet_mini"):
        validate(table)


def test_an_unknown_network_is_refused_with_its_place_and_the_nearest() -> None:
    pair = pair_of(*FCOS, "none").model_copy(
        update={"mini": Networks(teacher="fcos_mini_teacher", student="fcos_mini_studnt")}
    )
    with pytest.raises(SpecError, match=r"pairs\[0\]\.mini: unknown network.*Did you mean 'fcos_mini_student'"):
        validate(table_of(pair))
    with pytest.raises(SpecError, match=r"pairs\[0\]: unknown network: 'fcos_r51_fpn'. Did you mean 'fcos_r50_fpn'"):
        validate(table_of(pair.model_copy(update={"teacher": "fcos_r51_fpn"})))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (MethodEntry(method="mimik"), r"method 1 \(mimik\): unknown method: 'mimik'. Did you mean 'mimic'"),
        (
            MethodEntry(method="cwd", options={"wieght": 1.0}, label="ours"),
            r"method 1 \(ours\): unknown option of cwd: 'wieght'. Did you mean 'weight'",
        ),
        (
            MethodEntry(method="dist+mimic", options={"dist": {"tua": 1.0}}),
            r"method 1 \(dist\+mimic\): unknown option of dist: 'tua'. Did you mean 'tau'",
        ),
        (MethodEntry(method="cwd", mini_options={"tua": 1.0}), r"pairs\[0\]\.mini, method 1 \(cwd\): unknown option"),
    ],
)
def test_an_unknown_method_or_option_is_refused_with_its_place(entry: MethodEntry, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        validate(table_of(pair_of(*FCOS, "none", entry)))


def test_an_option_that_real_networks_are_wide_enough_for_is_not_refused() -> None:
    validate(cifar_table("none", MethodEntry(method="simkd", options={"factor": 64})))


@pytest.mark.parametrize("field", ["recipe", "teacher_recipe"])
def test_an_unknown_recipe_field_of_a_pair_is_refused_with_its_place(field: str) -> None:
    pair = pair_of(*FCOS, "none", **{field: {"lrr": 0.1}})
    with pytest.raises(SpecError, match=r"pairs\[0\].*unknown recipe field: 'lrr'. Did you mean 'lr'"):
        validate(table_of(pair))


@pytest.mark.parametrize("name", table_names())
def test_every_table_in_the_tree_can_be_planned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks.detectron2, "unavailable", lambda: "")  # planning needs nothing of it
    table = load_table(name)
    validate(table)
    full = plan([table], FULL)
    assert full.runs or (all(pair.skip for pair in table.pairs) and full.skipped)
    assert plan([table], MINI).runs


def test_changes_reach_students_and_those_that_say_so_their_teachers(tables: list[Table]) -> None:
    plain = plan(tables, MINI)
    changes = {"epochs": 1, "image.shorter": 64, "max_steps": 3, "teacher.epochs": 2, "teacher.image.shorter": 32}
    changed = plan(tables, replace(MINI, changes=changes))
    for cohort in changed.stages[1]:
        for run in cohort:
            assert (run.recipe.epochs, run.recipe.image.shorter, run.recipe.max_steps) == (1, 64, 3)
            assert run.recipe.image.longer == load_recipe("coco_mini").image.longer
    for run in changed.stages[0][0]:
        assert (run.recipe.epochs, run.recipe.image.shorter, run.recipe.max_steps) == (2, 32, None)
    assert not {run.id for run in changed.runs} & {run.id for run in plain.runs}
    students_alone = plan(tables, replace(MINI, changes={"epochs": 1}))
    assert students_alone.stages[0] == plain.stages[0]


def test_changes_win_over_what_a_pair_changes_and_leave_it_as_it_was() -> None:
    pair = pair_of(*FCOS, "none", recipe={"lr": 0.5, "image": {"shorter": 600, "longer": 1000}})
    table = table_of(pair)
    (run,) = plan([table], replace(FULL, changes={"lr": 0.25, "image.shorter": 400})).runs
    assert run.recipe.lr == 0.25 and (run.recipe.image.shorter, run.recipe.image.longer) == (400, 1000)
    assert pair.recipe == {"lr": 0.5, "image": {"shorter": 600, "longer": 1000}}


def test_an_entrys_own_recipe_is_laid_over_the_pairs() -> None:
    own = MethodEntry(method="mimic", label="slow", recipe={"lr": 0.25}, mini_skip="one recipe")
    table = table_of(pair_of(*FCOS, "none", own, "mimic", recipe={"lr": 0.5, "momentum": 0.5}))
    runs = [run for run in plan([table], FULL).runs if run.student == FCOS[1]]
    assert sorted((run.method, run.recipe.lr, run.recipe.momentum) for run in runs) == [
        ("mimic", 0.25, 0.5),
        ("mimic", 0.5, 0.5),
        ("none", 0.5, 0.5),
    ]
    bare = table.model_dump_json().replace("one recipe", "")
    with pytest.raises(ValueError, match="slow has a recipe of its own, and mini has one recipe; add mini_skip"):
        Table.model_validate_json(bare)


def test_a_pairs_own_recipe_applies_at_full_scale_alone() -> None:
    table = table_of(pair_of(*FCOS, "none", "mimic", recipe={"lr": 0.5}, teacher_recipe={"lr": 0.25}))
    full, mini = (
        {run.method: run for run in plan([table], choice).runs if run.student == FCOS[1]} for choice in (FULL, MINI)
    )
    assert full["none"].recipe.lr == full["mimic"].recipe.lr == 0.5
    assert full["mimic"].teacher.recipe.lr == 0.25
    assert mini["none"].recipe == mini["mimic"].recipe == load_recipe("coco_mini")
    assert mini["mimic"].teacher.recipe == load_recipe("coco_mini_teacher")


def test_a_given_teacher_file_drops_the_teacher_stage_and_changes_distilled_runs_alone(tables: list[Table]) -> None:
    trained, given = plan(tables, MINI), plan(tables, replace(MINI, teacher_file="ab" * 32))
    (stage,) = given.stages
    assert all((run.teacher_file is None) == (run.method == "none") for cohort in stage for run in cohort)
    students = {run.id: run for cohort in trained.stages[1] for run in cohort}
    kept = {run.method for run in given.runs if run.id in students}
    assert kept == {"none"}
    assert len(given.runs) == len(students)
    assert {len(cohort) for cohort in stage} == {len(cohort) for cohort in trained.stages[1]}


def test_who_trains_with_whom_does_not_depend_on_the_order_of_the_runs(tables: list[Table]) -> None:
    runs = [run for cohort in plan(tables, MINI).stages[1] for run in cohort]
    there = [{run.id for run in cohort} for cohort in cohorts(runs, 100)]
    back = [{run.id for run in cohort} for cohort in cohorts(runs[::-1], 100)]
    assert there == back


@pytest.mark.usefixtures("without_detectron2")
def test_full_scale_shares_the_student_alone_between_pairs_of_one_recipe(tables: list[Table]) -> None:
    alone = [run for run in plan(tables[:1], FULL).stages[1] for run in run if run.student == "retinanet_r50_fpn"]
    assert [run.method for run in alone].count("none") == 1
    assert len({run.teacher.student for run in alone if run.teacher}) == 2


def test_every_pair_that_runs_at_full_scale_is_of_one_family(tables: list[Table]) -> None:
    taught = [run for run in plan(tables, FULL).runs if run.teacher]
    assert taught
    for run in taught:
        assert networks.family(run.teacher_network) == networks.family(run.student)
