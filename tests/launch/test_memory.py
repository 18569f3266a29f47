"""Memory of a cohort before it runs: against what a job really takes, and how a cohort is split by it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench import networks
from kdbench.engines.driver import Driver
from kdbench.grid.plan import Plan
from kdbench.launch import memory, tracing
from kdbench.launch.memory import GIB, MARGIN, Memory, available
from kdbench.launch.schedule import make_schedule, threads_of
from kdbench.spec.run import Run
from tests.helpers.engines import InProcess
from tests.helpers.pictures import Pictures, short, state_of


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


def estimate(room: float = 8 * GIB) -> Memory:
    return Memory("cpu", room, stored=(32, 32))


def test_what_a_forward_keeps_is_what_autograd_keeps_of_real_tensors(pictures: Pictures) -> None:
    run = pictures.run()
    found = tracing.traced("resnet8", estimate().shapes(run))
    network = networks.build("resnet8", 10)
    kept: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    images = torch.rand(run.recipe.batch_size, 3, 32, 32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network.train()(images)
    own = {parameter.data_ptr() for parameter in network.parameters()} | {images.data_ptr()}
    saved = sum(storage.nbytes() for place, storage in kept.items() if place not in own)
    assert saved < found.saved < 1.3 * saved  # the stem's and the shown maps are there besides
    assert found.weights == sum(4 * parameter.numel() for parameter in network.parameters())


def test_half_precision_keeps_about_half(pictures: Pictures) -> None:
    full, half = (
        tracing.traced("resnet8", estimate().shapes(pictures.run(recipe=short(precision=precision)))).saved
        for precision in ("float32", "bfloat16")
    )
    assert 0.45 < half / full < 0.65


def test_each_member_adds_its_states_and_the_largest_step_counts_once(pictures: Pictures) -> None:
    large = short(batch_size=256)
    none, kd, heavy = (pictures.run(method, recipe=large) for method in ("none", "kd", "reviewkd"))
    hot = pictures.run("kd", recipe=large, options={"temperature": 8.0})
    own = tracing.traced("resnet8", estimate().shapes(none))
    one, two = estimate().needed([kd]), estimate().needed([kd, hot])
    assert two - one == pytest.approx(MARGIN * (4 * own.weights + own.buffers))  # AdamW: weight, gradient, two states
    shapes = estimate().shapes(none)
    assert tracing.loss_of(heavy, shapes).saved > 10 * tracing.loss_of(kd, shapes).saved
    gap = estimate().needed([heavy]) - one
    assert gap > MARGIN * tracing.loss_of(heavy, shapes).saved
    assert estimate().needed([kd, hot, heavy]) - two == pytest.approx(gap + MARGIN * (4 * own.weights + own.buffers))


def test_an_online_teacher_counts_as_a_student(pictures: Pictures) -> None:
    alone, beside = (pictures.run(method, recipe=short(batch_size=256)) for method in ("none", "dml"))
    other = tracing.traced("resnet14", estimate().shapes(alone))
    more = estimate().needed([beside]) - estimate().needed([alone])
    assert more > MARGIN * (4 * other.weights + other.saved)


def test_each_of_several_online_teachers_counts_and_a_copy_as_a_frozen_one(pictures: Pictures) -> None:
    recipe = short(batch_size=256)

    def needed(**options: Any) -> float:
        return estimate().needed([pictures.run("ekd", recipe=recipe, options={"guided": False} | options)])

    other = tracing.traced("resnet14", estimate().shapes(pictures.run(recipe=recipe)))
    trained = MARGIN * (4 * other.weights + other.buffers + other.saved + other.forward)
    assert needed(teachers=3) - needed(teachers=2) == pytest.approx(trained, rel=1e-3)
    frozen = MARGIN * (other.weights + other.buffers + other.output_bytes)
    assert needed(snapshots=4) - needed() == pytest.approx(frozen, rel=1e-3)


def test_losses_against_several_teachers_and_copies_are_traced(pictures: Pictures) -> None:
    def loss(**options: Any) -> tracing.Loss:
        run = pictures.run("ekd", options=options)
        return tracing.loss_of(run, estimate().shapes(run))

    one, two = loss(), loss(teachers=2)
    assert (one.rule, two.rule, loss(guided=False, snapshots=2).rule) == ("", "", "")
    assert one.weights < two.weights < 2 * one.weights  # the student's modules count once
    assert one.saved < two.saved < 2 * one.saved


def test_a_method_without_a_teacher_is_traced_and_the_student_alone_takes_nothing(pictures: Pictures) -> None:
    alone, uskd = (pictures.run(method) for method in ("none", "uskd"))
    nothing, loss = (tracing.loss_of(run, estimate().shapes(run)) for run in (alone, uskd))
    assert (nothing.weights, nothing.saved) == (0, 0)
    assert loss.weights == 4 * (32 + 1) * 10 and loss.saved > 0 and not loss.rule


def test_a_method_whose_shapes_depend_on_values_is_counted_by_a_rule_with_its_bank(pictures: Pictures) -> None:
    run = pictures.run("crd")
    loss = tracing.loss_of(run, estimate().shapes(run))
    assert "bincount" in loss.rule
    assert loss.buffers == 24 * (2 * 128 * 4 + 8)
    assert loss.saved > loss.buffers


@pytest.mark.parametrize("method", ["none", "dml", "reviewkd", "crd"])
@pytest.mark.parametrize("student", ["resnet8", "resnet32x4", "cifar_resnet50"])
def test_the_bound_that_needs_no_tracing_is_above_the_estimate(method: str, student: str, pictures: Pictures) -> None:
    run = pictures.run(method, student=student)
    assert estimate().needed([run]) < estimate().bound([run])


@pytest.mark.parametrize("options", [{"teachers": 3}, {"guided": False, "snapshots": 4}])
@pytest.mark.parametrize("teacher", ["resnet14", "cifar_resnet50"])
def test_so_it_is_with_more_networks_beside_the_student(
    options: dict[str, Any], teacher: str, pictures: Pictures
) -> None:
    run = pictures.run("ekd", online_teacher=teacher, options=options)
    assert estimate().needed([run]) < estimate().bound([run])


def test_nothing_is_traced_where_the_room_is_large(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [pictures.run(), pictures.run("kd")]
    monkeypatch.setattr(memory, "traced", None)
    assert estimate(room=estimate().bound(runs)).split(runs).parts == (tuple(runs),)
    with pytest.raises(TypeError):
        estimate(room=estimate().bound(runs) - 1).split(runs)


JOB = """
import json, sys
from pathlib import Path
import torch
from kdbench.records.environment import peak_memory
from kdbench.train.job import Job, execute
from kdbench.tasks import classification
torch.set_num_threads(1)
rows = execute(Job.model_validate_json(Path(sys.argv[1]).read_bytes()), lambda event: None)
print(json.dumps([rows[0].reason, peak_memory(torch.device("cpu"))]))
"""


@pytest.mark.integration
def test_a_job_takes_what_was_foreseen(pictures: Pictures, tmp_path: Path) -> None:
    """Two steps of a wide network."""
    run = pictures.run(student="resnet32x4", recipe=short(batch_size=24, epochs=2))
    (tmp_path / "job.json").write_text(pictures.job(tmp_path / "runs", run).model_dump_json())
    line = [sys.executable, "-c", JOB, str(tmp_path / "job.json")]
    done = subprocess.run(line, capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS="1"), check=False)
    assert done.returncode == 0, done.stderr
    reason, peak = json.loads(done.stdout.splitlines()[-1])
    assert reason == ""
    expected = estimate().needed([run])
    assert expected / 2 < peak < expected


class Scales(Memory):
    """Every run takes a GiB beside the one of its job; those of the method `ad` take nine."""

    def needed(self, runs: Sequence[Run]) -> float:
        return GIB * (1 + sum(9 if run.method == "ad" else 1 for run in runs))


@pytest.mark.parametrize(
    ("room", "sizes"), [(9.0, [7]), (8.0, [7]), (7.9, [3, 4]), (5.0, [3, 4]), (4.0, [2, 2, 3]), (3.0, [1, 2, 2, 2])]
)
def test_a_cohort_is_split_into_the_fewest_equal_parts_that_fit(
    room: float, sizes: list[int], pictures: Pictures
) -> None:
    runs = [pictures.run(seed=seed) for seed in range(7)]
    split = Scales("cpu", room * GIB).split(runs, exact=True)
    assert [len(part) for part in split.parts] == sizes
    assert [run.seed for part in split.parts for run in part] == list(range(7))
    assert split.words == (
        "8.0 GiB"
        if len(sizes) == 1
        else f"split into {len(sizes)}, because together they take 8.0 GiB and a job has {room:.1f}"
    )


def test_a_run_that_is_too_large_even_alone_is_tried_with_what_adds_little(pictures: Pictures) -> None:
    runs = [pictures.run(), pictures.run("ad"), pictures.run("kd")]
    split = Scales("cpu", 4 * GIB).split(runs, exact=True)
    assert [[run.method for run in part] for part in split.parts] == [["none"], ["ad", "kd"]]
    assert "one run takes 10.0 GiB and a job has 4.0: it is still attempted" in split.words
    (part,) = Scales("cpu", GIB).split(runs[1:2], exact=True).parts
    assert [run.method for run in part] == ["ad"]


def test_a_cohort_is_not_split_where_that_would_save_next_to_nothing(pictures: Pictures) -> None:
    runs = [pictures.run(seed=seed) for seed in range(7)]
    memory = estimate(room=estimate().needed(runs[:1]) - 1)
    assert memory.split(runs, exact=True).parts == (tuple(runs),)


def test_a_network_that_cannot_be_traced_stops_nobody_and_is_tried_once(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def broken(name: str, *_: object) -> Any:
        tried.append(name)
        raise RuntimeError("no fake tensors, please\nat all")

    monkeypatch.setattr(tracing, "_attempted", functools.cache(tracing._attempted.__wrapped__))
    monkeypatch.setattr(networks, "build", broken)
    runs = [pictures.run(student="wrn_16_1"), pictures.run("kd", student="wrn_16_1")]
    split = estimate(room=1.0).split(runs, exact=True)
    assert estimate(room=1.0).split(runs, exact=True) == split
    assert tried == ["wrn_16_1"]
    assert estimate(room=1.0).split(runs) == split
    assert split.parts == (tuple(runs),)
    assert split.words == "memory unknown (wrn_16_1: RuntimeError: no fake tensors, please)"


def numbers(results: Path, run: Run) -> tuple[Any, ...]:
    row = json.loads((results / run.id / "row.json").read_text())
    assert row["status"] == "done", row["reason"]
    return row["metrics"], row["history"], row["student"]["sha256"], row["teacher"]


def test_a_split_cohort_leaves_the_same_rows(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tuple(pictures.run(method) for method in ("none", "kd", "mag+kd", "ekd", "dist"))
    jobs: list[int] = []

    for folder, room in (("whole", 9), ("parts", 4)):
        driver = Driver(InProcess(), pictures.job(tmp_path / folder, *runs).settings)
        plan = Plan(((runs,),), ())
        schedule = make_schedule(plan, driver.store, Scales("cpu", room * GIB), threads_of(plan, ["cpu"]), exact=True)
        jobs += sorted((len(job.runs) for job in schedule.jobs), reverse=True)
        driver.execute(schedule.jobs, schedule.runs)
    assert jobs == [5, 3, 2]
    for run in runs:
        assert numbers(tmp_path / "whole", run) == numbers(tmp_path / "parts", run), run.method
        whole, parts = (state_of(tmp_path / folder, run) for folder in ("whole", "parts"))
        assert all(torch.equal(whole[name], parts[name]) for name in whole)


def files(root: Path, **contents: str) -> Path:
    """Files below `root`; a double underscore in a name is a slash."""
    for name, text in contents.items():
        file = root / name.replace("__", "/").replace("DOT", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


MEMINFO = "MemTotal: 9000 kB\nMemFree: 1000 kB\nMemAvailable: 8000 kB\n"


def test_free_memory_is_what_the_machine_has_available(tmp_path: Path) -> None:
    assert available("cpu", files(tmp_path, proc__meminfo=MEMINFO)) == 8000 * 1024
    files(tmp_path, proc__self__cgroup="0::/\n", sys__fs__cgroup__memoryDOTmax="max\n")
    files(tmp_path, sys__fs__cgroup__memoryDOTcurrent="5\n")
    assert available("cpu", tmp_path) == 8000 * 1024
    assert 0 < available("cpu") < 2**50


def test_a_container_leaves_what_is_below_its_limit_file_caches_aside(tmp_path: Path) -> None:
    files(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/user/job\n")
    files(tmp_path, sys__fs__cgroup__user__memoryDOTmax="5000\n", sys__fs__cgroup__user__memoryDOTcurrent="4000\n")
    files(tmp_path, sys__fs__cgroup__user__memoryDOTstat="anon 1500\ninactive_file 2500\n")
    assert available("cpu", tmp_path) == 5000 - 4000 + 2500
    files(tmp_path, sys__fs__cgroup__user__job__memoryDOTmax="700\n")
    files(tmp_path, sys__fs__cgroup__user__job__memoryDOTcurrent="600\n")
    assert available("cpu", tmp_path) == 100


def test_the_older_control_groups_count_as_well(tmp_path: Path) -> None:
    files(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="8:pids:/\n4:memory:/elsewhere\n0::/\n")
    files(tmp_path, sys__fs__cgroup__memory__memoryDOTlimit_in_bytes="6000\n")
    files(tmp_path, sys__fs__cgroup__memory__memoryDOTusage_in_bytes="1000\n")
    files(tmp_path, sys__fs__cgroup__memory__memoryDOTstat="total_inactive_file 10\n")
    assert available("cpu", tmp_path) == 5010
