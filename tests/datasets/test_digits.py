"""The embedded data set: the same bytes each time, whole or not there at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdbench import datasets
from kdbench.datasets import DataError, _preparation, _scenes, digits
from kdbench.datasets.coco import CocoFolder
from tests.helpers.command import jobs_environment


def tree(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def prepare(folder: Path) -> tuple[str, ...]:
    return digits.prepare(folder, train=4, val=2)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        digests.append(digits.write_coco(tmp_path / name, seed=seed, train=4, val=2))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert digests[0] == digests[1] != digests[2]


def test_content_of_version_4(tmp_path: Path) -> None:
    assert _scenes.VERSION == 4
    assert digits.write_coco(tmp_path, train=4, val=2) == CONTENT, "what is drawn has changed: raise VERSION"


CONTENT = "8d22411e7176f07a41bbcc1a4d524182cceab2304140736ccddd681bac94e803"


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    for name, train in (("few", 3), ("many", 5)):
        digits.prepare(tmp_path / name, train=train, val=1)
    few, many = tree(tmp_path / "few"), tree(tmp_path / "many")
    assert all(many[file] == few[file] for file in few if file.endswith(".png"))


def test_train_and_val_share_no_digit() -> None:
    train, val = (_scenes.strokes(split) for split in ("train", "val"))
    assert len(train.labels) + len(val.labels) == 1797
    assert not {x.tobytes() for x in train.levels} & {x.tobytes() for x in val.levels}
    assert set(train.labels) == set(val.labels) == set(range(10))


def test_scenes_hold_all_of_cocos_sizes_every_class_and_some_empty_images(tmp_path: Path) -> None:
    source = _scenes.strokes("train")
    scenes = [_scenes.scene(np.random.default_rng(i), source)[1] for i in range(300)]
    areas = np.array([box.width * box.height for boxes in scenes for box in boxes])
    assert (areas < 32**2).mean() > 0.3
    assert ((areas >= 32**2) & (areas < 96**2)).mean() > 0.3
    assert (areas >= 96**2).mean() > 0.02
    labels = np.bincount([box.label for boxes in scenes for box in boxes], minlength=10)
    assert labels.min() > 0.07 * labels.sum()
    assert 0 < sum(not boxes for boxes in scenes) < 20
    assert max(len(boxes) for boxes in scenes) == _scenes.OBJECTS[1]


def test_boxes_are_tight_around_visible_ink() -> None:
    owner = np.zeros((9, 9), dtype=bool)
    owner[2:5, 3:8] = True
    assert _scenes._visible_box(owner, 6) == _scenes.Box(6, x=3, y=2, width=5, height=3)


def test_no_object_is_mostly_covered() -> None:
    rng = np.random.default_rng(0)
    owner = np.zeros((128, 128), dtype=np.int64)  # one object, everywhere
    inks = [128 * 128]
    assert _scenes._free_position(rng, np.ones((128, 110), dtype=np.float32), owner, inks) is None
    assert _scenes._free_position(rng, np.ones((40, 40), dtype=np.float32), owner, inks) is not None


def test_identity_is_known_without_drawing(tmp_path: Path) -> None:
    folder = datasets.open_coco("digits", tmp_path, train=4, val=2)
    assert folder.fingerprint == digits.identity(train=4, val=2)["identity"] != digits.identity()["identity"]
    assert json.loads((folder.path / "fingerprint.json").read_text())["content_sha256"] == CONTENT


def test_opened_folder_is_named_and_says_once_that_it_was_prepared(
    open_small: Callable[[str], CocoFolder],
) -> None:
    open_small("digits")
    again = open_small("digits")
    assert again.name == "digits" and again.classes == tuple("0123456789") and again.category_ids == tuple(range(1, 11))
    assert again.train.counts.images == 40 and again.val.counts.images == 20
    assert not again.preparation


def test_a_whole_folder_is_left_alone(tmp_path: Path) -> None:
    assert prepare(tmp_path / "digits") == (f"{tmp_path / 'digits'}: prepared",)
    before = (tmp_path / "digits").stat().st_mtime_ns
    assert prepare(tmp_path / "digits") == ()
    assert (tmp_path / "digits").stat().st_mtime_ns == before


def drop_manifest(folder: Path) -> None:
    (folder / "fingerprint.json").unlink()


def cut_manifest(folder: Path) -> None:
    (folder / "fingerprint.json").write_text("{")


def other_version(folder: Path) -> None:
    manifest = json.loads((folder / "fingerprint.json").read_text())
    (folder / "fingerprint.json").write_text(json.dumps({**manifest, "version": 0}))


def drop_image(folder: Path) -> None:
    next((folder / "train2017").iterdir()).unlink()


def empty_image(folder: Path) -> None:
    next((folder / "val2017").iterdir()).write_bytes(b"")


def drop_images(folder: Path) -> None:
    shutil.rmtree(folder / "val2017")


@pytest.mark.parametrize("damage", [drop_manifest, cut_manifest, other_version, drop_image, empty_image, drop_images])
def test_a_damaged_folder_is_written_anew_and_says_so(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "digits"
    prepare(folder)
    whole = tree(folder)
    damage(folder)
    (notice,) = prepare(folder)
    assert str(folder) in notice and "written again" in notice
    assert tree(folder) == whole
    assert [file.name for file in tmp_path.iterdir()] == ["digits"]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".digits.tmp-abc").mkdir()
    prepare(tmp_path / "digits")
    assert [file.name for file in tmp_path.iterdir()] == ["digits"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_gives_one_error_and_no_half_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, "disk refuses")

    monkeypatch.setattr(digits, "_annotation", refuse)
    with pytest.raises(DataError, match=r"digits: cannot be written \(disk refuses\).*KDBENCH_DATA"):
        prepare(tmp_path / "digits")
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_no_half_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, "_annotation", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "digits")
    assert not list(tmp_path.iterdir())


def test_a_root_that_is_a_file_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written .*KDBENCH_DATA"):
        prepare(tmp_path / "file" / "digits")


PREPARE = """
import sys
from pathlib import Path
from kdbench.datasets import digits
print(len(digits.prepare(Path(sys.argv[1]), seed=0, train=4, val=2)), end="")
"""


def test_processes_that_prepare_at_once_both_find_it_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PREPARE, str(tmp_path / "digits")]
    environment = os.environ | jobs_environment()
    several = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    assert sorted(process.communicate(timeout=300)[0] for process in several) == ["0", "0", "1"]
    assert not _preparation.defect(tmp_path / "digits", digits.identity(train=4, val=2))
    assert [file.name for file in tmp_path.iterdir()] == ["digits"]


def test_without_locks_the_second_leaves_what_the_first_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(_preparation.FileLock, "acquire", unsupported)
    wanted = digits.identity(train=4, val=2)

    def write(new: Path) -> str:
        if not (tmp_path / "digits").exists():
            prepare(tmp_path / "digits")  # another process was faster
        return digits.write_coco(new, train=4, val=2)

    _preparation.prepare(tmp_path / "digits", wanted, write)
    assert not _preparation.defect(tmp_path / "digits", wanted)
    assert [file.name for file in tmp_path.iterdir()] == ["digits"]
