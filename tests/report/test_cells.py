"""Cells: which rows belong, which never mix, what is comparable, and gains paired by seed."""

from __future__ import annotations

from typing import Any

import pytest

from kdbench import methods
from kdbench.grid.cells import canonical
from kdbench.records.row import Metrics, Row
from kdbench.records.store import share_equal_parts
from kdbench.report.cells import Cell, collect
from kdbench.report.comparability import recipe_differences
from kdbench.report.evidence import Published
from kdbench.spec.recipe import load_recipe
from kdbench.spec.reported import load_reported
from kdbench.spec.reruns import all_reruns, all_settings
from kdbench.spec.scale import Scale
from kdbench.spec.table import MethodEntry, Pair, ReportedTable, Table
from tests.helpers.rows import COCO, expand, full_truth, make_row, mini_truth
from tests.helpers.tables import cifar_table, fixed_table

pytestmark = pytest.mark.usefixtures("without_detectron2")


@pytest.fixture(scope="module")
def akd() -> Table:
    return fixed_table("akd/coco")


@pytest.fixture(scope="module")
def dist() -> Table:
    return fixed_table("dist/coco")


def place(table: Table, label: str, pair: int = 0) -> tuple[Pair, MethodEntry]:
    chosen = table.pairs[pair]
    return chosen, next(entry for entry in table.entries(chosen) if entry.display_name == label)


def cell(table: Table, rows: list[Row], label: str, scale: Scale = "full", pair: int = 0) -> Cell:
    return next(x for x in collect(table, rows, scale) if x.pair is table.pairs[pair] and x.label == label)


def test_one_cell_for_each_pair_and_method_in_order(akd: Table) -> None:
    cells = collect(akd, [], "full")
    expected = [(pair.teacher, entry.display_name) for pair in akd.pairs for entry in akd.entries(pair)]
    named = [(x.pair.teacher, x.label) for x in cells]
    assert named[: len(expected)] == expected
    # RepPoints cannot run and names no method: its reported rows stand as skipped
    assert named[len(expected) :] == [("reppoints_x101_dcn_fpn", name) for name in ("none", "akd", "maskd")]


def test_a_control_has_neither_a_reported_number_nor_evidence_of_others() -> None:
    kd = MethodEntry(method="kd")
    control = kd.model_copy(update={"label": "kd, same T", "options": {"temperature": 2.0}, "control": True})
    table = cifar_table("none", kd, control, reported=(ReportedTable(file="dkd", table="cifar100"),), selection="best")
    published = Published(all_reruns(), all_settings(), [])
    cells = {x.label: x for x in collect(table, [], "full", published=published)}
    assert cells["kd"].reported is not None and cells["kd"].evidence
    assert cells["kd, same T"].reported is None and not cells["kd, same T"].evidence
    assert cells["kd, same T"].settings == ""


def test_reported_numbers_come_from_the_tables_files_in_order(akd: Table) -> None:
    cells = {(x.pair.teacher, x.label): x for x in collect(akd, [], "full")}
    own, quoted = cells["retinanet_r101_fpn", "akd+maskd"], cells["retinanet_r101_fpn", "maskd"]
    alone, without = cells["retinanet_r101_fpn", "none"], cells["retinanet_r101_fpn", "mimic"]
    assert own.reported and (own.reported.paper, own.reported_value) == ("akd", 40.3)
    assert quoted.reported and (quoted.reported.paper, quoted.reported_value) == ("maskd", 39.9)
    assert (alone.reported_value, alone.teacher_reported) == (37.4, 38.9)
    assert without.reported is None


def test_without_rows_cells_are_not_run_or_skipped_with_the_reason(akd: Table) -> None:
    full, mini = ({x.pair.teacher: x.verdict for x in collect(akd, [], scale)} for scale in ("full", "mini"))
    assert full["retinanet_r101_fpn"].word == mini["retinanet_r101_fpn"].word == "not run"
    assert full["cascade_mask_rcnn_x101_fpn"].word == "skipped"
    assert full["cascade_mask_rcnn_x101_fpn"].reason == "detectron2 is not installed"
    assert mini["cascade_mask_rcnn_x101_fpn"].word == "not run"  # small networks run instead
    assert mini["reppoints_x101_dcn_fpn"].word == "skipped"


def test_mini_is_never_compared_with_a_reported_number(akd: Table) -> None:
    cells = [x for x in collect(akd, expand(akd, "mini", (0, 1), mini_truth), "mini") if x.verdict.word != "skipped"]
    assert len(cells) == 21
    for one in cells:
        assert one.verdict.text == "not comparable (mini)"
        assert one.verdict.difference is None
        assert one.measured and one.measured.n == 2


def test_full_rows_get_a_verdict(dist: Table) -> None:
    pair, entry = place(dist, "dist")
    rows = [make_row(dist, pair, entry, "full", seed, value) for seed, value in enumerate((39.7, 39.9, 40.1))]
    found = cell(dist, rows, "dist")
    assert found.measured and found.measured.mean == pytest.approx(39.9)
    assert found.measured.sd == pytest.approx(0.2)
    assert found.verdict.word == "reproduced"
    assert found.verdict.difference == pytest.approx(0.1)
    low = [make_row(dist, pair, entry, "full", seed, value) for seed, value in enumerate((38.0, 38.1, 38.2))]
    assert cell(dist, low, "dist").verdict.word == "below"


def test_a_method_without_a_reported_number_is_measured(akd: Table) -> None:
    pair, entry = place(akd, "mimic")
    assert cell(akd, [make_row(akd, pair, entry, "full")], "mimic").verdict.text == "measured (no reported number)"


def test_rows_of_another_scale_method_option_or_network_do_not_belong(dist: Table) -> None:
    pair, entry = place(dist, "dist")
    other = entry.model_copy(update={"options": {"tau": 4.0}})
    teacher = pair.model_copy(update={"teacher": "retinanet_r101_fpn"})
    student = pair.model_copy(update={"student": "retinanet_r18_fpn"})
    elsewhere = make_row(dist, pair, entry, "full")
    strangers = [
        elsewhere.model_copy(update={"run": elsewhere.run.model_copy(update={"scale": "mini"})}),
        make_row(dist, pair, place(dist, "dist+mimic")[1], "full"),
        make_row(dist, pair, other, "full"),
        make_row(dist, teacher, entry, "full"),
        make_row(dist, student, entry, "full"),
    ]
    assert cell(dist, strangers, "dist").verdict.word == "not run"
    assert cell(dist, [*strangers, make_row(dist, pair, entry, "full")], "dist").rows[0].run.options["tau"] == 1.0


@pytest.mark.parametrize("pair", [0, 1], ids=["torchvision's could run instead", "detectron2 alone has it"])
def test_rows_of_detectron2s_networks_are_shown_where_it_is_not_installed(pair: int, dist: Table) -> None:
    chosen, entry = place(dist, "dist", pair)
    assert chosen.networks
    named = chosen.model_copy(update={"teacher": chosen.networks.teacher, "student": chosen.networks.student})
    row = make_row(dist, named, entry, "full", 0, 39.9, teacher_value=41.0)
    found = cell(dist, [row], "dist", pair=pair)
    assert found.rows == (row,) and (found.teacher, found.student) == (named.teacher, named.student)
    assert found.reported_value == (39.8, 40.4)[pair]
    other = cell(dist, [row], "dist+mimic", pair=pair)  # of the same networks, and not run yet
    assert (other.student, other.verdict.word) == (named.student, "not run")


def test_options_are_equal_whatever_their_json_form() -> None:
    assert canonical({"a": (1, 2.0), "b": {"c": 1.0}}) == canonical({"b": {"c": 1}, "a": [1, 2]})
    assert canonical({"a": 1.5}) != canonical({"a": 1})
    assert canonical({"a": True}) != canonical({"a": 1})


def test_reasons_name_every_field_and_value(dist: Table) -> None:
    pair, entry = place(dist, "dist")
    recipe = load_recipe("coco_2x", {"epochs": 1, "milestones": [], "max_steps": 8, "image.shorter": 320})
    small = COCO.model_copy(update={"train_images": 96, "val_images": 90})
    row = make_row(dist, pair, entry, "full", 0, 0.5, recipe=recipe, data=small, teacher_value=38.1)
    verdict = cell(dist, [row], "dist").verdict
    assert verdict.word == "not comparable"
    for reason in (
        "recipe: epochs 1, not 24; milestones [], not [16, 22]; image.shorter 320, not 800; stopped after 8 steps",
        "96 train images, not 118287",
        "90 val images, not 5000",
        "teacher 38.1, not 41.0",
    ):
        assert reason in verdict.reason
    assert "classes" not in verdict.reason
    assert verdict.difference is None


def test_what_cannot_change_the_last_epoch_is_no_reason(dist: Table) -> None:
    pair, entry = place(dist, "dist")
    recipe = load_recipe("coco_2x", {"eval_every": 4, "channels_last": True}).model_copy(update={"name": "mine"})
    assert (
        cell(dist, [make_row(dist, pair, entry, "full", 0, 39.8, recipe=recipe)], "dist").verdict.word == "reproduced"
    )
    best = dist.model_copy(update={"selection": "best"})
    assert (
        "eval_every 4, not 1" in cell(best, [make_row(dist, pair, entry, "full", recipe=recipe)], "dist").verdict.reason
    )


def test_the_pairs_own_recipe_is_what_counts(akd: Table) -> None:
    pair, entry = place(akd, "akd+maskd")
    assert cell(akd, [make_row(akd, pair, entry, "full", 0, 40.3)], "akd+maskd").verdict.word == "reproduced"
    plain = make_row(akd, pair, entry, "full", 0, 40.3, recipe=load_recipe("coco_2x"))
    reason = cell(akd, [plain], "akd+maskd").verdict.reason
    assert reason == "recipe: lr 0.01, not 0.02; warmup_steps 500, not 1000; clip_norm none, not 35"


def test_what_the_table_says_differs_is_a_reason(akd: Table) -> None:
    pair, entry = place(akd, "maskd")
    verdict = cell(akd, [make_row(akd, pair, entry, "full", 0, 39.9)], "maskd").verdict
    assert (verdict.word, verdict.reason) == ("not comparable", entry.differs[0])


def test_the_group_that_follows_the_table_wins_over_a_newer_one(dist: Table) -> None:
    pair, entry = place(dist, "dist")
    quick = load_recipe("coco_2x", {"max_steps": 8})
    rows = [make_row(dist, pair, entry, "full", seed, 39.8, finished="2026-01-01") for seed in (0, 1)]
    rows += [make_row(dist, pair, entry, "full", 2, 1.0, recipe=quick, finished="2026-02-01")]
    found = cell(dist, rows, "dist")
    assert [row.run.seed for row in found.rows] == [0, 1]
    assert found.notes == ("1 other row under another recipe, data set or teacher left out",)


def test_a_recipe_without_a_field_that_the_tables_has_is_another_one_also_where_the_row_does_not_write_it(
    dist: Table,
) -> None:
    pair, entry = place(dist, "dist")
    plain = load_recipe("imagenet_b2")
    earlier = plain.model_copy(update={"warmup_by": "step", "decay_after_warmup": False})
    row = Row.model_validate_json(make_row(dist, pair, entry, "full", recipe=earlier).model_dump_json())
    assert recipe_differences(row, earlier, dist) == []
    expected = ["warmup_by step, not epoch", "decay_after_warmup false, not true"]
    assert recipe_differences(row, plain, dist) == expected


def test_a_run_under_an_earlier_id_is_not_another_recipe(dist: Table) -> None:
    pair, entry = place(dist, "dist")
    row = make_row(dist, pair, entry, "full", 0, 39.8, finished="2026-02-01")
    earlier = row.model_copy(update={"id": "0" * 16, "finished": "2026-01-01"})
    found = cell(dist, [earlier, row], "dist")
    assert found.rows == (row,) and found.notes == ()


def test_of_groups_that_do_not_follow_the_table_the_nearest_wins(dist: Table) -> None:
    pair, none = place(dist, "none")
    near = load_recipe("coco_2x", {"epochs": 1, "milestones": []})
    far = load_recipe("coco_2x", {"epochs": 1, "milestones": [], "lr": 0.02})  # as a pair of another table has it
    rows = [
        make_row(dist, pair, none, "full", value=31.0, recipe=near, finished="2026-01-01T00:00:00+00:00"),
        make_row(dist, pair, none, "full", value=32.0, recipe=far, finished="2026-02-01T00:00:00+00:00"),
    ]
    found = cell(dist, rows, "none")
    assert found.measured is not None and found.measured.mean == 31.0


def test_between_equals_the_newer_group_wins_and_none_are_mixed(dist: Table) -> None:
    pair, entry = place(dist, "dist")
    older, newer = load_recipe("coco_2x", {"epochs": 25}), load_recipe("coco_2x", {"epochs": 26})
    rows = [make_row(dist, pair, entry, "full", 0, 30.0, recipe=newer, finished="2026-02-01")]
    rows += [make_row(dist, pair, entry, "full", seed, 20.0, recipe=older, finished="2026-01-01") for seed in (0, 1)]
    found = cell(dist, rows, "dist")
    assert found.measured and (found.measured.mean, found.measured.n) == (30.0, 1)
    assert "2 other rows" in found.notes[0]


def test_rows_under_different_teachers_are_not_mixed(dist: Table) -> None:
    pair, entry = place(dist, "dist")
    row = make_row(dist, pair, entry, "full", 1, 20.0, finished="2026-02-01")
    run = row.run.model_copy(update={"teacher_file": "cd" * 32})
    rows = [make_row(dist, pair, entry, "full", 0, 30.0), row.model_copy(update={"run": run, "id": "other"})]
    found = cell(dist, rows, "dist")
    assert found.measured and (found.measured.mean, found.measured.n) == (20.0, 1)


def test_cells_are_the_same_whether_or_not_rows_share_their_parts(dist: Table) -> None:
    one = [row for row in expand(dist, "full", (0, 1), full_truth) if row.run.teacher]
    changed = [COCO.model_copy(update={"train_images": 9}), COCO.model_copy(update={"options": {"fraction": 0.5}})]
    pair, entry = place(dist, "dist")
    other = [make_row(dist, pair, entry, "full", seed, data=data) for data in changed for seed in (0, 1)]
    other += [make_row(dist, pair, entry, "full", recipe=load_recipe("coco_2x", {"lr": 0.02}))]
    for row in one:
        assert row.run.teacher
        teacher = row.run.teacher.model_copy(update={"seed": 7})
        run = row.run.model_copy(update={"teacher": teacher, "seed": row.run.seed + 2})
        other.append(row.model_copy(update={"run": run, "id": run.id}))
    rows = [*one, *other]
    cells = collect(dist, rows, "full")
    assert collect(dist, share_equal_parts(rows), "full") == cells
    found = next(x for x in cells if x.label == "dist" and x.rows)
    assert len(found.rows) == 2 and any(
        "other rows under another recipe, data set or teacher" in n for n in found.notes
    )


def test_gains_are_paired_by_seed(dist: Table) -> None:
    pair, entry = place(dist, "dist")
    alone = place(dist, "none")[1]
    rows = [make_row(dist, pair, alone, "full", seed, value) for seed, value in enumerate((37.0, 38.0, 39.0))]
    rows += [make_row(dist, pair, entry, "full", seed, value) for seed, value in {1: 40.0, 2: 40.5, 7: 50.0}.items()]
    gain = cell(dist, rows, "dist").gain
    assert gain and (gain.mean, gain.n) == (1.75, 2)  # +2.0 and +1.5; seeds 0 and 7 have no partner
    assert gain.sd == pytest.approx(0.35355, abs=1e-5)
    assert cell(dist, rows, "none").gain is None


def test_gains_want_the_same_recipe_and_data(dist: Table) -> None:
    pair, entry = place(dist, "dist")
    alone = place(dist, "none")[1]
    row = make_row(dist, pair, entry, "full", 0, 40.0)
    foreign = make_row(dist, pair, alone, "full", 0, 30.0, recipe=load_recipe("coco_2x", {"lr": 0.02}))
    elsewhere = make_row(dist, pair, alone, "full", 0, 30.0, data=COCO.model_copy(update={"fingerprint": "x"}))
    assert cell(dist, [row, foreign, elsewhere], "dist").gain is None
    same = make_row(dist, pair, alone, "full", 0, 37.0, recipe=row.run.recipe)
    gain = cell(dist, [row, foreign, elsewhere, same], "dist").gain
    assert gain and gain.mean == 3.0


def test_cost_is_that_of_none_on_the_same_machine_and_counts_the_earlier_phase(akd: Table) -> None:
    pair, entry = place(akd, "maskd")
    alone = make_row(akd, pair, place(akd, "none")[1], "mini", slowdown=1.0)
    row = make_row(akd, pair, entry, "mini", slowdown=1.5)
    cost = cell(akd, [alone, row], "maskd", "mini").cost
    assert row.cost and alone.cost and cost and cost.factor
    steps = row.history[-1].steps
    assert cost.factor == pytest.approx((row.cost.step_seconds + 4.0 / steps) / alone.cost.step_seconds)
    assert cost.params == 620_000
    assert cost.step_seconds == pytest.approx(0.12)
    away = make_row(akd, pair, entry, "mini", slowdown=1.5, machine="8-core arm")
    other = cell(akd, [alone, away], "maskd", "mini")
    assert other.cost and other.cost.factor is None
    assert other.machines == ("8-core arm",)


@pytest.mark.parametrize("status", ["failed", "diverged", "timeout", "out-of-memory", "skipped"])
def test_a_run_that_left_no_number_gives_its_status_and_reason(dist: Table, status: str) -> None:
    pair, entry = place(dist, "dist")
    row = make_row(dist, pair, entry, "full", status=status, reason="loss dist is nan\n  at step 12")
    verdict = cell(dist, [row], "dist").verdict
    assert (verdict.word, verdict.reason) == (status, "loss dist is nan at step 12")


def test_a_lost_seed_is_no_ground_for_a_verdict_on_the_others(dist: Table) -> None:
    pair, entry = place(dist, "dist")
    rows = [make_row(dist, pair, entry, "full", seed, 39.8) for seed in (0, 1)]
    rows += [make_row(dist, pair, entry, "full", 2, status="diverged", reason="nan at step 12")]
    found = cell(dist, rows, "dist")
    assert found.measured and found.measured.n == 2
    assert found.verdict.word == "not comparable"
    assert found.verdict.reason == "seed 2 diverged: nan at step 12; the mean leaves it out"
    mini = [make_row(dist, pair, entry, "mini", 0), make_row(dist, pair, entry, "mini", 1, status="failed", reason="x")]
    assert cell(dist, mini, "dist", "mini").notes == ("seed 1 failed: x; the mean leaves it out",)


@pytest.mark.parametrize("last", [{"ap50": 50.0}, {"ap": float("nan")}])
def test_a_row_without_the_metric_is_no_measurement(dist: Table, last: dict[str, float]) -> None:
    pair, entry = place(dist, "dist")
    row = make_row(dist, pair, entry, "full")
    assert row.metrics
    broken: Metrics = row.metrics.model_copy(update={"last": last})
    found = cell(dist, [row.model_copy(update={"metrics": broken})], "dist")
    assert found.measured is None
    assert found.verdict.text == "failed (its row lacks the metric)"


def test_a_number_reported_at_the_best_epoch_is_compared_at_the_best(
    dist: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, entry = place(dist, "dist")
    rows = [
        make_row(dist, pair, entry, "full", 0, 39.0, best=39.8),
        make_row(dist, pair, place(dist, "none")[1], "full"),
    ]
    assert cell(dist, rows, "dist").verdict.word == "below"
    numbers = load_reported("dist")
    best = [one.model_copy(update={"selection": "best"}) for one in numbers]
    monkeypatch.setattr("kdbench.report.cells.load_reported", lambda _: best)
    found = cell(dist, rows, "dist")
    assert (found.selection, found.verdict.word) == ("best", "reproduced")
    assert found.measured and found.measured.mean == 39.8
    assert any("compared at the best epoch" in note for note in found.notes)
    assert found.gain and found.gain.mean == pytest.approx(9.8)  # both sides at their best epoch


def test_mini_rows_under_another_recipe_are_noted(dist: Table) -> None:
    pair, entry = place(dist, "dist")
    recipe = load_recipe("coco_mini", {"epochs": 1})
    found = cell(dist, [make_row(dist, pair, entry, "mini", recipe=recipe)], "dist", "mini")
    assert found.verdict.text == "not comparable (mini)"
    assert found.notes == ("recipe: epochs 1, not 5",)


@pytest.mark.parametrize(("changes", "noted"), [({"epochs": 1}, True), ({"epochs": 0, "init": "published"}, False)])
def test_a_teacher_trained_under_another_recipe_is_noted(dist: Table, changes: dict[str, Any], noted: bool) -> None:
    row = make_row(dist, *place(dist, "dist"), "mini")
    taught = row.run.teacher.model_copy(update={"recipe": load_recipe(dist.teacher_recipe.mini, changes)})  # type: ignore[union-attr]
    row = row.model_copy(update={"run": row.run.model_copy(update={"teacher": taught})})
    notes = cell(dist, [row], "dist", "mini").notes
    assert [note.startswith("the teacher's recipe: epochs 1, not ") for note in notes] == [True] * noted


def test_options_are_resolved_once_an_entry_however_many_rows(dist: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = expand(dist, "full", tuple(range(40)), full_truth)
    calls: list[str] = []
    resolve = methods.resolve

    def counted(name: str, options: dict[str, Any]) -> dict[str, Any]:
        calls.append(name)
        return resolve(name, options)

    monkeypatch.setattr(methods, "resolve", counted)
    found = {x.label: x for x in collect(dist, rows, "full") if x.pair is dist.pairs[0]}
    assert len(rows) == 120
    assert all(one.measured and one.measured.n == 40 for one in found.values())
    assert len(calls) <= 2 * 3  # a method and its `none` for each of three entries; the other pair is skipped


def test_a_teacher_that_is_no_better_than_guessing_is_a_note_of_its_cells(dist: Table) -> None:
    pair, entry = place(dist, "dist")
    guessing = cell(dist, [make_row(dist, pair, entry, "full", 0, 30.0, teacher_value=0.05)], "dist")
    assert any("no better than guessing" in note for note in guessing.notes)
    learned = cell(dist, [make_row(dist, pair, entry, "full", 0, 30.0)], "dist")
    assert not any("guessing" in note for note in learned.notes)
