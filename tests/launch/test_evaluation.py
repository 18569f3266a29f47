"""`kdbench evaluate`: checkpoints of any program on the data of every task, one by one and from manifests."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from kdbench import networks
from kdbench.launch import evaluator as module
from kdbench.launch.check import problems
from kdbench.launch.evaluator import EvaluationRequest, Evaluator
from kdbench.launch.table_lookup import default_dataset, find_network, image_recipe
from kdbench.networks import PublishedFile
from kdbench.records.weights import WeightsRow, read_weights
from kdbench.spec.weights import parse_weights
from tests.helpers import masks
from tests.helpers.command import kdbench

REAL = Path(os.environ.get("KDBENCH_TEST_DATA", "nowhere"))
K = 6

needs_real = pytest.mark.skipif(
    not all((REAL / name).is_dir() for name in ("weights", "cifar100")),
    reason="KDBENCH_TEST_DATA names no folder with weights/ and cifar100/",
)


def save(path: Path, network: str, classes: int, wrap: Callable[[Any], Any] = lambda state: state) -> Path:
    torch.manual_seed(0)
    torch.save(wrap(networks.build(network, classes).state_dict()), path)
    return path


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """Small random images of six classes."""
    draw = np.random.default_rng(0)
    arrays = {"x_train": draw.integers(0, 256, (12, 32, 32, 3), np.uint8), "y_train": np.arange(12) % K}
    arrays |= {"x_test": draw.integers(0, 256, (30, 32, 32, 3), np.uint8), "y_test": np.arange(30) % K}
    np.savez(tmp_path / "mine.npz", **arrays)
    return tmp_path / "mine.npz"


def evaluate(folder: Path, *words: str, data: Path | None = None) -> subprocess.CompletedProcess[str]:
    more = ["--data", str(data)] if data else []
    command = ["evaluate", *words, *more, "--results", "out", "--device", "cpu"]
    return kdbench(*command, folder=folder, environment={"KDBENCH_DATA": str(folder / "none")})


def rows_of(folder: Path) -> list[WeightsRow]:
    rows, invalid = read_weights([folder / "out" / "weights"])
    assert not invalid
    return rows


def test_a_file_is_measured_compared_and_kept_as_a_row(tmp_path: Path, npz: Path) -> None:
    path = save(tmp_path / "r8.pth.tar", "resnet8", K, lambda state: {"state_dict": state, "epoch": 3})
    words = ["--network", "resnet8", "--weights", "r8.pth.tar", "--recorded", "90", "--teacher", "resnet56"]
    done = evaluate(tmp_path, *words, "--method", "kd", "--selection", "best", "--source", "x/y (MIT)", data=npz)
    assert done.returncode == 0, done.stderr
    [row] = rows_of(tmp_path)
    top1 = row.metrics["top1"]
    line = f"r8.pth.tar  resnet8  top1 {top1:.2f}  top5 {row.metrics['top5']:.2f}"
    assert f"{line}  recorded 90.00  difference {top1 - 90:+.2f}\n" in done.stdout
    assert "weights under the key state_dict" in done.stdout and "no better than guessing" in done.stdout
    assert row.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and row.bytes == path.stat().st_size
    assert (row.method, row.teacher, row.selection, row.licence) == ("kd", "resnet56", "best", "MIT")
    assert (row.data.name, row.data.val_images, row.normalisation.stated) == ("mine", 30, "of the data set")
    [file] = (tmp_path / "out" / "weights").iterdir()
    assert file.name == f"{row.sha256[:16]}-mine-{row.data.fingerprint}.json"


def test_the_images_are_normalised_as_the_weights_state(tmp_path: Path, npz: Path) -> None:
    save(tmp_path / "r8.pt", "resnet8", K)
    words = ["--network", "resnet8", "--weights", "r8.pt", "--normalisation", "mean .1 .2 .3, sd .9 .9 .9"]
    assert "normalised with the weights' own constants: mean 0.1000" in evaluate(tmp_path, *words, data=npz).stdout
    [row] = rows_of(tmp_path)
    with np.load(npz) as arrays:
        images = torch.from_numpy(arrays["x_test"]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(arrays["y_test"])
    images = (images - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / 0.9
    network = networks.build("resnet8", K)
    network.load_state_dict(torch.load(tmp_path / "r8.pt"))
    with torch.inference_mode():
        logits = network.eval()(images).logits
    assert isinstance(logits, torch.Tensor)
    top5 = (logits.topk(5).indices == labels[:, None]).any(1).double().mean().item()
    assert row.metrics["top5"] == pytest.approx(100 * top5) and row.normalisation.mean == (0.1, 0.2, 0.3)


def test_detectors_and_segmenters_are_measured_on_own_data(tmp_path: Path, digits_path: Path) -> None:
    save(tmp_path / "fcos.ckpt", "fcos_mini_student", 10, lambda state: {"model": {"ema": 1, "net": state}})
    words = [
        "--network",
        "fcos_mini_student",
        "--weights",
        "fcos.ckpt",
        "--normalisation",
        "mean .5 .5 .5, sd .5 .5 .5",
    ]
    assert "recorded -" in evaluate(tmp_path, *words, data=digits_path).stdout
    pictures = [masks.picture(32, 40, seed) for seed in range(3)]
    masks.write(tmp_path / "streets", pictures, pictures[:2])
    save(tmp_path / "seg.pt", "segmenter_mini_student", len(masks.CLASSES))
    words = ["--network", "segmenter_mini_student", "--weights", "seg.pt", "--recorded", "50"]
    done = evaluate(tmp_path, *words, data=tmp_path / "streets")
    assert "recorded 50.00  difference -" in done.stdout, done.stderr
    rows = {row.task: row for row in rows_of(tmp_path)}
    assert rows["detection"].normalisation.mean == (0.5, 0.5, 0.5) and "ap50" in rows["detection"].metrics
    assert {"miou", "pixel_accuracy", "iou/road"} <= rows["segmentation"].metrics.keys()
    assert rows["segmentation"].recorded == {"miou": 50.0}


def prefixed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Other weights, under the names of DataParallel."""
    return {f"module.{name}": 0.9 * value if value.is_floating_point() else value for name, value in state.items()}


MANIFEST = """\
network,file,dataset,recorded_top1,sha256,bytes,teacher,method
resnet8,r8.pt,cifar100,20,,,,
resnet20,r8.pt,cifar100,,,,,
resnet8,gone.pt,cifar100,,,,,
resnet8,other.pt,cifar100,,{wrong},,,
resnet8,other.pt,cifar10,,,5,,
resnet8,text.pt,cifar100,,,,,
resnet800,r8.pt,cifar100,,,,,
fcos_mini_student,r8.pt,cifar100,20,,,,
resnet8,other.pt,,,,,ResNet56,rdamkd
"""


def test_a_bad_file_of_a_manifest_does_not_lose_the_others(tmp_path: Path, npz: Path) -> None:
    save(tmp_path / "r8.pt", "resnet8", K)
    save(tmp_path / "other.pt", "resnet8", K, prefixed)
    (tmp_path / "text.pt").write_text("<html>404</html>")
    (tmp_path / "m.csv").write_text(MANIFEST.format(wrong="ab" * 32))
    done = evaluate(tmp_path, "--manifest", "m.csv", data=npz)
    assert done.returncode == 1 and not done.stderr
    assert [row.file for row in sorted(rows_of(tmp_path), key=lambda row: row.file)] == ["other.pt", "r8.pt"]
    assert "2 of 9 files evaluated; rows in out/weights" in done.stdout
    failed = {line.split(": ")[0]: line for line in done.stdout.splitlines() if line.startswith("failed")}
    assert len(failed) == 7
    assert "resnet8" in failed["failed  m.csv:3"] and "It has" in failed["failed  m.csv:3"]
    assert "gone.pt cannot be read: No such file" in failed["failed  m.csv:4"]
    assert f"sha256: is {hashlib.sha256((tmp_path / 'other.pt').read_bytes()).hexdigest()}" in failed["failed  m.csv:5"]
    assert "and 5 is stated" in failed["failed  m.csv:6"] and "a web page" in failed["failed  m.csv:7"]
    assert "unknown network: 'resnet800'. Did you mean" in failed["failed  m.csv:8"]
    assert "recorded_top1: unknown metric of detection" in failed["failed  m.csv:9"]
    assert next(row for row in rows_of(tmp_path) if row.file == "other.pt").teacher == "resnet56"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "r8.pt"], "--network is missing"),
        (["--network", "resnet8"], "--weights is missing"),
        (["--manifest", "m.csv", "--weights", "r8.pt"], "--weights is for one file"),
        (["--manifest", "m.csv", "--recorded", "3"], "--recorded is for one file"),
        (
            ["--network", "resnet8", "--weights", "r8.pt", "--recorded", "nan"],
            "--recorded: Input should be a finite",
        ),
        (["--network", "resnet8", "--weights", "r8.pt", "--selection", "x"], "--selection: Input should be"),
        (
            ["--network", "resnet8", "--weights", "r8.pt", "--data", "cifra100"],
            "unknown data set, and no path that exists: 'cifra100'. Did you mean 'cifar100'",
        ),
        (
            ["--network", "resnet8", "--weights", "r8.pt", "--data", "camvid"],
            "no table evaluates classification on camvid",
        ),
        (["--network", "resnet8", "--weights", "gone.pt"], "gone.pt cannot be read"),
        (["--network", "resnet8", "--weights", "r8.pt", "--data", "folder"], "for classification"),
        (["--network", "resnet8", "--weights", "r8.pt", "--recipe", "mine"], "unknown recipe: 'mine'"),
    ],
)
def test_a_wrong_option_is_one_error(words: list[str], message: str, tmp_path: Path) -> None:
    save(tmp_path / "r8.pt", "resnet8", K)
    (tmp_path / "m.csv").write_text("file,network\nr8.pt,resnet8\n")
    (tmp_path / "folder" / "masks").mkdir(parents=True)
    done = kdbench("evaluate", *words, "--device", "cpu", folder=tmp_path, environment={"KDBENCH_DATA": str(tmp_path)})
    assert done.returncode == 2 and done.stderr.startswith("error: ") and message in done.stderr
    assert not (tmp_path / "results").exists()


def test_check_names_a_damaged_row(tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for names in ("table_names", "recipe_names", "reported_names"):
        monkeypatch.setattr(f"kdbench.launch.check.{names}", list)
    save(tmp_path / "r8.pt", "resnet8", K)
    evaluate(tmp_path, "--network", "resnet8", "--weights", "r8.pt", data=npz)
    [path] = (tmp_path / "out" / "weights").iterdir()
    assert not [line for line, wrong in problems(tmp_path, [tmp_path / "out"]) if wrong and path.name in line]
    path.write_bytes(path.read_bytes().replace(b'"bytes": ', b'"bytes": 1'))
    [line] = [line for line, wrong in problems(tmp_path, [tmp_path / "out"]) if wrong and path.name in line]
    assert line == f"{path}: checksum: differs from the file's content, which is damaged or was edited by hand"


def test_weights_whose_outputs_are_not_finite_are_refused(tmp_path: Path, npz: Path) -> None:
    save(
        tmp_path / "r8.pt",
        "resnet8",
        K,
        lambda state: {name: v * 1e30 if v.ndim == 4 else v for name, v in state.items()},
    )
    done = evaluate(tmp_path, "--network", "resnet8", "--weights", "r8.pt", data=npz)
    assert done.returncode == 2 and "resnet8: its outputs are NaN or infinite" in done.stderr


def test_a_file_of_a_library_is_prepared_and_compared_as_the_library_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, count in (("train", 1), ("val", 2)):
        for label in ("cat", "dog"):
            (tmp_path / "set" / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / split / label / f"{i}.png")
    stated = PublishedFile(
        {"top1": 69.76, "top5": 89.08}, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 32, 36, "bicubic", "a library", "MIT"
    )
    monkeypatch.setattr(module.networks, "published", lambda name, file, sha256: stated)
    path = save(tmp_path / "resnet18.pth", "resnet18", 2)
    request = EvaluationRequest(data=str(tmp_path / "set"), data_root=tmp_path)
    row = Evaluator(request).measure(path, parse_weights({"file": str(path), "network": "resnet18"})).row
    assert row.recorded == {"top1": 69.76, "top5": 89.08} and (row.source, row.licence) == ("a library", "MIT")
    assert row.normalisation.mean == (0.5, 0.5, 0.5) and row.image.kind == "resized_crop"
    assert (row.image.size, row.image.val_resize, row.image.interpolation) == (32, 36, "bicubic")


def test_the_names_of_papers_are_known() -> None:
    assert find_network("mobilenet_v2", "cifar100") == ("mobilenet_v2", ["cifar_mobilenet_v2", "mobilenet_v2"])
    assert find_network("MobileNetV2", "cifar100").name == "mobilenet_v2"
    assert find_network("ShuffleV1", "cifar100").candidates == ["cifar_shufflenet_v1"]
    assert find_network("wrn-40-2", "cifar100") == ("wrn_40_2", ["wrn_40_2"])
    assert find_network("mobilenet_v2", None).candidates[0] == "mobilenet_v2"


def test_a_network_has_the_data_set_and_the_recipe_of_its_table() -> None:
    names = ("resnet20", "resnet8", "mobilenet_v2", "deeplabv3_r18", "fcos_mini_student")
    assert [default_dataset(name) for name in names] == ["cifar100", "cifar100", "imagenet", "cityscapes", "digits"]
    assert image_recipe("detection", "fcos_mini_student", None, ("resize",)).name == "coco_mini"
    assert image_recipe("detection", "retinanet_r50_fpn", None, ("resize",)).name == "coco_2x"
    folder = ("resized_crop", "padded_crop")
    kinds = [image_recipe("classification", name, None, folder).image.kind for name in ("resnet18", "resnet20")]
    assert kinds == ["resized_crop", "padded_crop"]
    assert image_recipe("classification", "resnet18", "imagenet").image.kind == "resized_crop"


def published(folder: Path, *files: str) -> list[WeightsRow]:
    """Measure files of the published weights, all of them where none is named, on every test image of CIFAR-100."""
    unpack = [sys.executable, str(REAL / "cifar100" / "unpack.py"), str(folder / "cifar100.npz")]
    subprocess.run(unpack, check=True)
    table = pd.read_csv(REAL / "weights" / "manifest.csv", dtype=str, keep_default_na=False)
    chosen = table[table.file.isin(files)] if files else table
    chosen.assign(file=[str(REAL / "weights" / file) for file in chosen.file]).to_csv(folder / "m.csv", index=False)
    words = ["--manifest", "m.csv", "--results", "out", "--device", "cpu"]
    done = kdbench("evaluate", *words, folder=folder, environment={"KDBENCH_DATA": str(folder)})
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_of(folder)
    assert len(rows) == len(chosen) > 0
    assert all(abs(row.metrics["top1"] - row.recorded["top1"]) <= 0.03 for row in rows), done.stdout
    return rows


@needs_real
@pytest.mark.integration
def test_a_published_student_of_cifar100_scores_what_is_recorded(tmp_path: Path) -> None:
    [row] = published(tmp_path, "resnet20_kd_from_resnet56.pth")
    assert (row.method, row.teacher) == ("kd", "resnet56")


@needs_real
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_published_weights_of_cifar100_score_what_is_recorded(tmp_path: Path) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    rows = published(tmp_path)
    assert len(rows) >= 5
    teacher = next(row for row in rows if row.file == "cifar100_resnet56-f2eff4c8.pt")
    assert teacher.metrics["top5"] == pytest.approx(91.94, abs=0.03)
