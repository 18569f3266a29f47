"""Teachers given as files: for the network that they fit or are given for, and the pairs that then run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import timm
import torch
from safetensors.torch import save_file

from kdbench import networks
from kdbench.errors import CheckpointError, SpecError
from kdbench.grid.choose import choose
from kdbench.grid.join import with_pairs
from kdbench.launch.teachers import GivenTeachers, assign, check_networks
from kdbench.spec.choice import MethodChoice
from kdbench.spec.request import RunRequest, TeacherFile, parse_teachers
from kdbench.spec.table import MethodEntry, Networks, Pair, Table
from kdbench.tasks.opened import OpenedData
from tests.helpers.tables import cifar_table

CLASSES = ("cat", "dog", "fox")
DATA = SimpleNamespace(classes=CLASSES, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
SMALL = {"batch_size": 8, "teacher.batch_size": 8}


def pair(teacher: str, student: str) -> Pair:
    return Pair(teacher=f"big_{teacher}", student=student, networks=Networks(teacher=teacher, student=student))


TABLE = cifar_table("none", MethodEntry(method="kd"), pairs=(pair("resnet14", "resnet8"), pair("resnet20", "resnet8")))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "teacher.pth", "resnet14")


def write(path: Path, name: str, classes: int = len(CLASSES)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"net": networks.build(name, classes).state_dict(), "acc": 72.3}, path)
    return path


def given(*teachers: Any, table: Table = TABLE, **more: Any) -> GivenTeachers:
    request = RunRequest(teacher=parse_teachers(teachers), changes=SMALL, **more)
    return assign([table], "full", request, cast(OpenedData, DATA))


def pairs(found: GivenTeachers) -> list[str]:
    return [pair.teacher for table in found.tables for pair in table.pairs]


def test_a_file_is_for_the_teacher_that_it_fits_and_the_other_pairs_are_left_out_and_named(file: Path) -> None:
    found = given(file)
    assert found.files == {"resnet14": file} and pairs(found) == ["big_resnet14"]
    assert found.notices[0] == f"teacher resnet14: {file}; weights under the key net (the file also has acc)"
    assert "left out, because their teachers have no file" in found.notices[1]
    assert "test/cifar100 big_resnet20->resnet8" in found.notices[1]


@pytest.mark.parametrize("name", ["resnet14", "big_resnet14"])
def test_a_file_for_a_network_leaves_the_other_teachers_to_be_trained(name: str, file: Path) -> None:
    found = given(f"{name}={file}")
    assert found.files == {"resnet14": file} and pairs(found) == ["big_resnet14", "big_resnet20"]
    assert found.notices[-1] == "teachers trained here, because --teacher gives no file for them: resnet20"


def test_a_file_for_each_network_and_a_folder_of_them_give_every_teacher(file: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "more" / "resnet20" / "last.pth", "resnet20")
    (tmp_path / "more" / "log.txt").write_text("no checkpoint")
    assert given(file, other).files == given(tmp_path).files == {"resnet14": file, "resnet20": other}
    assert given({"resnet14": file}.popitem()[1], f"resnet20={other}").files == {"resnet14": file, "resnet20": other}


def test_a_folder_says_what_it_does_not_use(file: Path) -> None:
    write(file.parent / "vgg.pth", "vgg8")
    file.with_name("broken.pth").write_bytes(b"")
    notices = "\n".join(given(file.parent).notices)
    assert f"not used: {file.parent / 'vgg.pth'} fits no teacher" in notices
    assert f"not used: {file.parent / 'broken.pth'} is truncated" in notices


def test_a_file_that_fits_no_teacher_says_what_it_holds_and_what_it_fits(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"another network's.* It has net \(37 entries\).*It fits vgg8 \(tri"):
        given(write(tmp_path / "vgg.pth", "vgg8"))
    with pytest.raises(CheckpointError, match=r"fc\.weight is \(10, 64\) there and \(3, 64\).* resnet20 with 10 class"):
        given(write(tmp_path / "ten.pth", "resnet20", 10))


def test_a_file_for_a_network_that_it_does_not_fit_is_refused(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is another network's.*It fits resnet14$"):
        given(f"resnet20={file}")
    with pytest.raises(CheckpointError, match=r"^at scale full the teacher big_resnet20 is the network resnet20: .*an"):
        given(f"big_resnet20={file}")


def test_two_files_for_one_teacher_a_file_for_two_and_an_empty_folder_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="are both for the teacher resnet14"):
        given(file, write(tmp_path / "again.pth", "resnet14"))
    twins = cifar_table("none", "kd", pairs=(pair("resnet50", "resnet8"), pair("resnet50_sb", "resnet8")))
    with pytest.raises(SpecError, match=r"fits resnet50 and resnet50_sb; say which with --teacher resnet50="):
        given(write(tmp_path / "fifty.pth", "resnet50"), table=twins)
    folder = tmp_path / "none"
    folder.mkdir()
    with pytest.raises(SpecError, match="holds no checkpoint"):
        given(folder)


def test_a_network_that_is_no_teacher_of_the_tables_is_refused_with_the_nearest(file: Path) -> None:
    request = RunRequest(teacher=parse_teachers(f"resnet41={file}"), changes=SMALL)
    with pytest.raises(SpecError, match="Did you mean 'resnet14'"):
        check_networks({"full": [TABLE]}, request)


def test_a_request_without_distillation_says_that_its_teacher_is_not_used(file: Path) -> None:
    found = given(file, table=choose([TABLE], [MethodChoice("none")])[0])
    assert found.files == {} and len(pairs(found)) == 2
    assert found.notices == ["--teacher is not used: no run has a teacher that is trained before"]


def test_an_equals_sign_in_the_path_of_an_existing_file_is_no_network(tmp_path: Path) -> None:
    path = tmp_path / "lr=0.1.pth"
    assert parse_teachers(str(path))[0].network is not None
    path.touch()
    assert parse_teachers(str(path)) == parse_teachers([path]) == (TeacherFile(None, path),)
    assert parse_teachers({"resnet20": str(path)}) == (TeacherFile("resnet20", path),)
    assert parse_teachers(None) == ()


def test_a_library_s_network_teaches_with_its_published_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDBENCH_DATA", str(tmp_path))
    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights" / "resnet10t.c3_in1k.safetensors"
    save_file(timm.create_model("resnet10t").state_dict(), file)
    request = RunRequest(teacher=parse_teachers("timm:resnet10t"), changes=SMALL)
    (table,) = with_pairs([TABLE], request, print)
    thousand = SimpleNamespace(**{**vars(DATA), "classes": tuple(map(str, range(1000)))})
    found = assign([table], "full", request, cast(OpenedData, thousand))
    assert found.files == {"timm:resnet10t": file} and pairs(found) == ["timm:resnet10t"]
    assert (
        "its images were normalised by mean 0.485 0.456 0.406, sd 0.229 0.224 0.225, and here by" in found.notices[-1]
    )
    with pytest.raises(SpecError, match="the published weights are for 1000 classes and the data has"):
        assign([table], "full", request, cast(OpenedData, DATA))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("timm:resnet10t", TeacherFile("timm:resnet10t", None)),
        ("timm:vit_tiny:img_size=32", TeacherFile("timm:vit_tiny:img_size=32", None)),
        ("timm:vit_tiny:img_size=32=a.pth", TeacherFile("timm:vit_tiny:img_size=32", Path("a.pth"))),
        ("./net.py:build=a=b.pth", TeacherFile("./net.py:build=a", Path("b.pth"))),
        ("./net.py:build=b.pth", TeacherFile("./net.py:build", Path("b.pth"))),
        ("resnet56=a=b.pth", TeacherFile("resnet56", Path("a=b.pth"))),
        ("a.pth", TeacherFile(None, Path("a.pth"))),
    ],
)
def test_a_network_with_options_is_told_from_its_file(text: str, expected: TeacherFile) -> None:
    assert parse_teachers(text) == (expected,)
