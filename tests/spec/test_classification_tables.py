"""The classification tables: every full-scale cell fits its networks, weights are the papers', mini stays short."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch

from kdbench import methods, networks
from kdbench.grid.pairs import networks_at
from kdbench.grid.plan import Plan
from kdbench.methods.ad import CONFIGS
from kdbench.methods.base import Batch, NetworkInfo, Outputs, Setting
from kdbench.networks.imagenet import PUBLISHED
from kdbench.spec.reported import load_reported
from kdbench.spec.run import Data, Run
from kdbench.spec.table import MethodEntry, Pair, Table, load_table
from tests.helpers.plans import Choice, plan, recipes_of

CIFAR_TABLES = (
    "ad/cifar100", "crd/cifar100", "dist/cifar100", "dkd/cifar100", "ekd/cifar100", "granularity/cifar100",
)  # fmt: skip
IMAGENET_TABLES = ("dist/imagenet", "dkd/imagenet", "torchdistill/imagenet")
EVERY = (*CIFAR_TABLES, *IMAGENET_TABLES)

DIGITS = Data(name="digits", fingerprint="d161", train_images=3_584, val_images=1_000, classes=10)
CIFAR = Data(name="cifar100", fingerprint="c1fa", train_images=50_000, val_images=10_000, classes=100)

SLOW_LEARNERS = ("cifar_mobilenet_v2", "cifar_shufflenet_v1", "cifar_shufflenet_v2")


def entry_of(table: Table, pair: Pair, label: str) -> MethodEntry:
    return next(entry for entry in table.entries(pair) if entry.display_name == label)


def device_of(side: int) -> torch.device:
    """Small networks take less time to compute than to trace."""
    return torch.device("cpu" if side == 32 else "meta")


@cache
def shapes(name: str, classes: int, side: int) -> tuple[NetworkInfo, Outputs]:
    """A network's shapes and its outputs for two images; those of large images have shapes alone."""
    with device_of(side), torch.no_grad():
        network = networks.build(name, classes)
        return network.info, network(torch.zeros(2, 3, side, side))


def sizes(info: NetworkInfo, side: int) -> tuple[Any, ...]:
    return info.channels, info.strides, info.pooled_dim, side


TRIED: set[tuple[Any, ...]] = set()
"""Shapes, methods and options that some table's cell was tried with, whichever came first."""


def build_and_apply(
    entry: MethodEntry, options: dict[str, Any], setting: Setting, sides: list[Outputs], device: torch.device
) -> None:
    """One forward of the method on outputs of the pair's shapes; CRD's reads its drawn entries, so it is only built."""
    student, teacher = sides
    others = methods.method_class(entry.method).online_teachers(options) - 1
    teacher = replace(teacher, others=(teacher,) * others)
    with device:
        method = methods.build(entry.method, setting, **options)
        on_cpu = torch.zeros(2, 1, 1, 1, device="cpu")  # autocast does not know the meta device
        batch = Batch(on_cpu, torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long))
        if "crd" in entry.method:
            return
        if method.initial_epochs:
            assert method(batch, student, teacher, initial=True)
        for name, term in method(batch, student, teacher).items():
            assert term.shape == (), name


@pytest.mark.parametrize("name", EVERY)
def test_every_full_scale_cell_fits_the_shapes_of_its_networks(name: str) -> None:
    table = load_table(name)
    side = 32 if table.dataset.full == "cifar100" else 224
    classes, count = table.data_size.classes, 17_000  # CRD wants 16,384 other samples; it sorts them all
    targets = torch.arange(count) % classes
    for pair in table.pairs:
        teacher, student = (shapes(network, classes, side) for network in networks_at(pair, "full"))
        setting = Setting("classification", classes, count, student[0], teacher[0], targets, steps_per_epoch=100)
        for entry in table.entries(pair):
            options = methods.resolve(entry.method, entry.options_at("full"))
            key = (sizes(teacher[0], side), sizes(student[0], side), entry.method, str(options))
            if key not in TRIED:
                build_and_apply(entry, options, setting, [student[1], teacher[1]], device_of(side))
            TRIED.add(key)


@pytest.mark.parametrize("name", EVERY)
def test_every_pair_has_its_student_alone_and_plain_kd_and_gains_that_can_be_taken(name: str) -> None:
    table = load_table(name)
    for pair in table.pairs:
        entries = table.entries(pair)
        assert {"none", "kd"} <= {entry.method for entry in entries}
        for entry in entries:
            assert entry.gain_over is None or entry.gain_over in {
                other.display_name for other in entries if other is not entry
            }


@pytest.mark.parametrize("name", EVERY)
def test_the_epoch_that_is_compared_is_the_reported_one(name: str) -> None:
    table = load_table(name)
    printed = {row.selection for s in table.reported for row in load_reported(s.file) if row.table == s.table}
    assert printed <= {table.selection, ""}
    assert table.metric == "top1"


@pytest.fixture(scope="module")
def small() -> Plan:
    """The CIFAR tables at mini scale."""
    return plan([load_table(name) for name in CIFAR_TABLES], Choice("mini", DIGITS))


def test_all_cifar_tables_share_one_teacher_and_one_recipe_at_mini_scale(small: Plan) -> None:
    teachers, students = small.stages
    runs = [run for cohort in students for run in cohort]
    taught = {(run.student, run.recipe.name) for cohort in teachers for run in cohort}
    assert taught == {("resnet20", "cifar_mini_teacher")}
    assert {(run.student, run.recipe.name) for run in runs} == {("resnet8", "cifar_mini")}
    assert {"dist", "mag+kd", "mas+kd", "mag+at", "mas+at", "ad", "ekd", "kd", "none"} <= {run.method for run in runs}
    assert {run.options["config"] for run in runs if run.method == "ad"} >= {"equal", "hand_tuned", "adaptive_at_st"}
    variants = [run.data.options for run in runs if run.method == "ekd"]
    assert {} in variants and {"fraction": 0.25} in variants and {"resolution": 16} in variants


def test_imagenet_tables_share_teacher_student_alone_and_kd_with_cifars_at_mini_scale(small: Plan) -> None:
    large = plan([load_table(name) for name in IMAGENET_TABLES], Choice("mini", DIGITS))
    shared = [run for run in large.runs if run.method in ("none", "kd")]
    assert {run.method for run in shared} == {"none", "kd"}
    assert {run.id for run in shared} <= {run.id for run in small.runs}


@pytest.mark.parametrize("name", CIFAR_TABLES)
def test_mobile_students_and_no_others_learn_at_the_lower_rate(name: str) -> None:
    table = load_table(name)
    for pair in table.pairs:
        recipe, teachers = recipes_of(table, pair)
        usual = 0.1 if name == "ad/cifar100" else 0.05
        assert recipe.lr == (0.01 if networks_at(pair, "full")[1] in SLOW_LEARNERS else usual)
        assert teachers.lr == usual
        assert (recipe.precision, recipe.image.kind) == ("ieee", "padded_crop")


@pytest.mark.parametrize("name", IMAGENET_TABLES)
def test_imagenet_teachers_are_published_weights_evaluated_as_the_student_is(name: str) -> None:
    table = load_table(name)
    for pair in table.pairs:
        recipe, teachers = recipes_of(table, pair)
        assert (teachers.epochs, teachers.init) == (0, "published")
        assert networks_at(pair, "full")[0] in PUBLISHED
        for field in ("size", "val_resize", "interpolation"):
            assert getattr(teachers.image, field) == getattr(recipe.image, field)


def test_dist_sees_one_gpus_images_in_each_strategy() -> None:
    table = load_table("dist/imagenet")
    seen = {}
    for pair in table.pairs:
        recipe, _ = recipes_of(table, pair)
        options = entry_of(table, pair, "dist").options
        assert options["weight"] == 2.0 and options["tau"] == 1.0
        seen[pair.strategy] = (recipe.name, recipe.batch_size, options["chunk"])
    assert seen == {
        "b1": ("imagenet_b1", 256, 32),
        "b2": ("imagenet_b2", 768, 96),
        "b3": ("imagenet_b3", 1024, 128),
    }
    cifar = load_table("dist/cifar100")
    assert entry_of(cifar, cifar.pairs[0], "dist").options == {"weight": 2.0, "tau": 4.0}


def test_b2_warms_up_from_a_millionth() -> None:
    table = load_table("dist/imagenet")
    recipe, _ = recipes_of(table, next(pair for pair in table.pairs if pair.strategy == "b2"))
    assert recipe.lr * recipe.warmup_factor == pytest.approx(1e-6, rel=1e-6)


def test_dkd_has_its_own_beta_for_each_pair() -> None:
    table = load_table("dkd/cifar100")
    paper = {
        ("resnet56", "resnet20"): 2.0, ("resnet110", "resnet32"): 2.0, ("resnet32x4", "resnet8x4"): 8.0,
        ("wrn_40_2", "wrn_16_2"): 6.0, ("wrn_40_2", "wrn_40_1"): 6.0, ("vgg13", "vgg8"): 6.0,
        ("vgg13", "mobilenet_v2"): 6.0, ("resnet50", "mobilenet_v2"): 8.0, ("resnet32x4", "shufflenet_v1"): 8.0,
        ("resnet32x4", "shufflenet_v2"): 8.0, ("wrn_40_2", "shufflenet_v1"): 8.0,
    }  # fmt: skip
    pairs = {(pair.teacher, pair.student): pair for pair in reversed(table.pairs)}
    assert {names: entry_of(table, pairs[names], "dkd").options["beta"] for names in paper} == paper


def test_mag_and_mas_are_set_against_their_base_with_the_same_soft_targets() -> None:
    table = load_table("granularity/cifar100")
    pair = table.pairs[0]
    for wrapper, base in product(("mag", "mas"), ("kd", "fitnet", "at", "sp", "vid", "rkd", "crd")):
        entry = entry_of(table, pair, f"{wrapper}+{base}")
        fair = entry_of(table, pair, entry.gain_over or "")
        assert fair.method == ("kd" if base == "kd" else f"{base}+kd")
        if base != "kd":
            own = methods.resolve(entry.method, entry.options_at("full"))
            soft = methods.resolve(fair.method, fair.options_at("full"))["kd"]
            assert soft == {"weight": 1.0, "task_weight": 1.0, "temperature": own["soft_temperature"]}
            assert own["ce_weight"] is None and own["soft_weight"] is None


def test_every_released_configuration_of_ad_is_in_its_table() -> None:
    table = load_table("ad/cifar100")
    released = [{"config": name} for name in CONFIGS]
    assert all(config in [entry.options for entry in table.methods if entry.method == "ad"] for config in released)
    recipe, teachers = recipes_of(table, table.pairs[0])
    assert (recipe.weight_decay, teachers.weight_decay, recipe.batch_size) == (1e-4, 5e-4, 128)


def full_runs(name: str) -> list[Run]:
    return [run for cohort in plan([load_table(name)], Choice("full", CIFAR)).stages[1] for run in cohort]


def test_few_images_reach_teacher_and_student_and_low_resolution_the_student_alone() -> None:
    runs = [run for run in full_runs("ekd/cifar100") if run.student == "resnet20"]
    taught = [run for run in runs if run.method == "kd" and run.teacher_network == "resnet56"]
    teachers = {str(run.data.options): run.teacher for run in taught if run.teacher}
    seen = {variant: teacher.data.options for variant, teacher in teachers.items()}
    expected: dict[str, dict[str, Any]] = {
        "{}": {},
        **{str({"fraction": f}): {"fraction": f} for f in (0.25, 0.5, 0.75)},
        **{str({"resolution": r}): {} for r in (16, 8)},
    }
    assert {variant: seen[variant] for variant in expected} == expected
    assert teachers["{}"] == teachers[str({"resolution": 8})]


def test_ekds_ablations_change_one_thing_each() -> None:
    table = load_table("ekd/cifar100")
    plain = methods.resolve("ekd", {})
    forms = [entry for entry in table.methods if entry.display_name.startswith("EKD (our reading)")]
    changes = []
    for entry in forms:
        rival = next((other.options for other in forms if other.display_name == entry.gain_over), {})
        options = plain | entry.options
        changes += [{name: value for name, value in options.items() if value != (plain | rival)[name]}]
    promised: list[dict[str, Any]] = [
        {}, {"pretrained": True}, {"guided": False}, {"beta": 0.0}, {"guided_task": False}, {"teachers": 2},
        {"snapshots": 4},
    ]  # fmt: skip
    assert all(changes.count(change) == 1 for change in promised)
    assert "our reading" in table.title
