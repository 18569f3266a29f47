"""Sets of detectron2's catalog by name; a small stand-in for the library where it does not matter which it is."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kdbench.datasets import DataError, open_coco
from kdbench.datasets.digits import write_coco
from kdbench.launch.user_data import detect_format


class Catalog(dict[str, Any]):
    def list(self) -> list[str]:
        return list(self)


class About(SimpleNamespace):
    def get(self, key: str) -> Any:
        return getattr(self, key, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "small"
    path.mkdir()
    write_coco(path, train=4, val=2, size=64)
    return path


@pytest.fixture
def registered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """A catalog of both splits of `folder`, and of a set that is a function."""
    about = {"by_function": About()}
    for split in ("train", "val"):
        (file,) = (folder / "annotations").glob(f"instances_{split}*.json")
        images = next(path for path in folder.iterdir() if path.name.startswith(split))
        about[f"digits_{split}"] = About(json_file=str(file), image_root=str(images))
    module: Any = ModuleType("detectron2.data")
    module.DatasetCatalog, module.MetadataCatalog = Catalog(about), about
    monkeypatch.setitem(sys.modules, "detectron2", ModuleType("detectron2"))
    monkeypatch.setitem(sys.modules, "detectron2.data", module)
    return module.DatasetCatalog  # type: ignore[no-any-return]


def opened(words: str) -> Any:
    return open_coco("coco", Path("nowhere"), Path(words))


def test_two_registered_sets_are_the_folder_that_holds_them(folder: Path, registered: Catalog) -> None:
    named, plain = opened("detectron2:digits_train,digits_val"), open_coco("coco", folder, folder)
    assert named.fingerprint == plain.fingerprint != ""
    assert (named.name, named.classes) == ("digits_train,digits_val", plain.classes)
    assert (len(named.train), len(named.val)) == (4, 2)
    assert named.val.load(1)[0].size == plain.val.load(1)[0].size
    assert detect_format(Path("detectron2:digits_train,digits_val")).task == "detection"


def test_a_module_may_register_them_first(tmp_path: Path, registered: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_sets_of_data.py").write_text(
        "from detectron2.data import DatasetCatalog, MetadataCatalog\n"
        "for split in ('train', 'val'):\n"
        "    DatasetCatalog[f'mine_{split}'] = MetadataCatalog[f'mine_{split}'] = MetadataCatalog[f'digits_{split}']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match="unknown set of detectron2's catalog .*'mine_train'"):
        opened("detectron2:mine_train,mine_val")
    assert len(opened("detectron2:mine_train,mine_val@my_sets_of_data").train) == 4
    with pytest.raises(DataError, match="No module named 'no_such_sets'"):
        opened("detectron2:mine_train,mine_val@no_such_sets")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("detectron2:digits_train", "name a registered set to train on and one to evaluate on"),
        ("detectron2:digits_trian,digits_val", "'digits_trian'. Did you mean 'digits_train'"),
        ("detectron2:digits_train,by_function", "by_function is not registered as COCO files"),
    ],
)
def test_a_wrong_name_is_one_error_that_says_what_to_do(words: str, answer: str, registered: Catalog) -> None:
    with pytest.raises(DataError, match=answer):
        opened(words)


def test_without_detectron2_the_catalog_is_refused_and_folders_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.setitem(sys.modules, "detectron2.data", None)
    with pytest.raises(DataError, match=r"the catalog cannot be imported .*give a COCO folder"):
        opened("detectron2:coco_2017_train,coco_2017_val")
    assert len(open_coco("coco", folder, folder).train) == 4
