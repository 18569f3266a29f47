"""Plans whose jobs take several GPUs each."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.engines.base import Resources
from kdbench.engines.probe import visible_alone
from kdbench.errors import SpecError
from kdbench.launch.devices import grouped
from kdbench.launch.inputs import check_divisible
from kdbench.launch.memory import Memory, shapes_of
from kdbench.launch.planning import make_plans
from kdbench.records.environment import shared_machine
from kdbench.spec.recipe import UnfitRecipeError, load_recipe
from kdbench.spec.request import RunRequest, parse_methods
from kdbench.spec.table import load_table


def test_each_job_gets_its_gpus_and_idle_ones_are_named() -> None:
    said: list[str] = []
    devices = tuple(f"cuda:{i}" for i in range(5))
    assert grouped(devices, 1, said.append) == devices
    assert grouped(devices, 2, said.append) == ("cuda:0,1", "cuda:2,3")
    assert said == ["--gpus 2: cuda:4 stay idle"]
    assert grouped(("cpu",), 2, said.append) == ("cpu",)
    with pytest.raises(SpecError, match="--gpus 8: cuda:0, cuda:1, .* can be used here"):
        grouped(devices, 8, said.append)


def test_a_job_sees_its_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_alone("cuda:2,3") == ("cuda:0", {"CUDA_VISIBLE_DEVICES": "2,3"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-abc,6")
    assert visible_alone("cuda:1,2") == ("cuda:0", {"CUDA_VISIBLE_DEVICES": "GPU-abc,6"})
    assert visible_alone("cuda:1") == ("cuda:0", {"CUDA_VISIBLE_DEVICES": "GPU-abc"})


@pytest.mark.parametrize(
    ("name", "changes", "gpus", "batch"),
    [
        ("cifar_mini", {"batch_size": 30}, 4, 28),
        ("cifar_mini", {"batch_size": 24, "accumulate": 3}, 4, 24),
        ("cifar_mini", {"batch_size": 30, "accumulate": 3}, 4, 24),
        ("cifar_mini", {"batch_size": 2}, 4, 4),
        ("imagenet_b2", {"batch_size": 20, "image.mixup": 0.2}, 4, 16),
    ],
)
def test_a_batch_that_gpus_cannot_share_is_refused_with_one_that_they_can(
    name: str, changes: dict[str, object], gpus: int, batch: int
) -> None:
    recipe = load_recipe(name, changes)
    check_divisible(recipe, 1)
    if recipe.batch_size == batch:
        check_divisible(recipe, gpus)
        return
    with pytest.raises(UnfitRecipeError, match=f"--gpus 4 .*--set teacher.batch_size={batch}$"):
        check_divisible(recipe, gpus, "teacher.")
    check_divisible(load_recipe(name, changes | {"batch_size": batch}), gpus)


def test_a_plan_gives_each_gpu_its_part_of_the_batch(tmp_path: Path, embedded_data: Path) -> None:
    request = RunRequest(
        scale="mini",
        seeds=(0,),
        methods=parse_methods("kd"),
        devices=("cpu",),
        results=tmp_path,
        gpus=2,
        data_root=embedded_data,
    )
    (plan,) = make_plans([load_table("dist/cifar100")], request, lambda _: None)
    run = plan.schedule.jobs[0].runs[0]
    assert plan.settings.world_size == 2 and plan.memory.world_size == 2
    assert plan.target.machine == shared_machine(plan.target.machine.removesuffix(", 2 a run"), 2)
    assert 2 * shapes_of(run, (32, 32), 2).batch == shapes_of(run, (32, 32)).batch == run.recipe.batch_size
    alone, shared = Memory("cuda", 1e12, (32, 32)), Memory("cuda", 1e12, (32, 32), world_size=2)
    assert shared.needed([run]) < alone.needed([run])


def test_cores_and_gpus_of_a_job() -> None:
    assert Resources("cuda:0,1,2,3", 1, workers=8, world_size=4).cores == 12
    assert Resources("cpu", 4, workers=8, world_size=2).cores == 4
