"""Tables in users' files: what they may leave out, and one error for each fault."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from kdbench.errors import SpecError
from kdbench.grid.validate import validate
from kdbench.launch import execution
from kdbench.spec.request import RunRequest
from kdbench.spec.table import ByScale, Networks, Table, load_table, table_names

GUIDE = Path(__file__).parents[2] / "docs" / "own-table.md"
LEAST = 'dataset: cifar100\nrecipe: cifar_240\npairs: ["resnet56->resnet20"]\n'


def table_at(folder: Path, text: str, name: str = "mine.yaml") -> Table:
    (folder / name).write_text(text)
    return load_table(str(folder / name))


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.S))
def test_the_examples_of_the_guide_are_valid(example: str, tmp_path: Path) -> None:
    validate(table_at(tmp_path, example))


def test_a_least_table_has_a_default_for_everything_else(tmp_path: Path) -> None:
    table = table_at(tmp_path, LEAST)
    validate(table)
    (pair,) = table.pairs
    assert (table.name, table.task, table.metric, table.seeds) == ("mine", "classification", "top1", (0,))
    assert table.dataset == ByScale(full="cifar100", mini="digits")
    assert table.recipe == ByScale(full="cifar_240", mini="cifar_mini")
    assert table.teacher_recipe == ByScale(full="cifar_240", mini="cifar_mini_teacher")
    assert pair.mini == Networks(teacher="resnet20", student="resnet8")
    assert [entry.method for entry in table.entries(pair)] == ["none", "kd"]
    assert table.data_size is None and not table.reported


@pytest.mark.parametrize(
    ("text", "mini", "metric"),
    [
        ("dataset: coco\nrecipe: coco_2x\npairs: [fcos_r101_fpn->fcos_r50_fpn]", "fcos_mini_student", "ap"),
        (
            "dataset: coco\nrecipe: coco_2x\npairs: [faster_rcnn_r101_fpn->faster_rcnn_r50_fpn]",
            "faster_rcnn_mini_student",
            "ap",
        ),
        (
            "dataset: cityscapes\nrecipe: cityscapes_cirkd\npairs: [deeplabv3_r101->pspnet_r18]",
            "segmenter_mini_student",
            "miou",
        ),
    ],
)
def test_every_task_has_defaults(text: str, mini: str, metric: str, tmp_path: Path) -> None:
    table = table_at(tmp_path, text)
    validate(table)
    assert table.pairs[0].mini is not None
    assert (table.pairs[0].mini.student, table.metric) == (mini, metric)


def test_what_the_file_says_is_kept(tmp_path: Path) -> None:
    text = """
title: mine
task: classification
dataset: {full: cifar100}
recipe: {full: cifar_240, mini: cifar_mini_teacher}
teacher_recipe: {mini: cifar_mini}
methods: [dist, {method: kd, label: warm, options: {temperature: 8.0}}]
pairs: [{teacher: resnet56, student: resnet20, mini: {teacher: resnet14, student: resnet8}, methods: [none, mimic]}]
"""
    table = table_at(tmp_path, text)
    assert table.title == "mine" and table.dataset == ByScale(full="cifar100", mini="digits")
    assert table.recipe.mini == "cifar_mini_teacher"
    assert table.teacher_recipe == ByScale(full="cifar_240", mini="cifar_mini")
    assert [entry.display_name for entry in table.methods] == ["none", "dist", "warm"]
    assert [entry.method for entry in table.pairs[0].methods] == ["none", "mimic"]
    assert table.pairs[0].mini == Networks(teacher="resnet14", student="resnet8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping of fields, found NoneType"),
        ("[1, 2]", "expected a mapping of fields, found list"),
        ("{", "not valid YAML"),
        ("title: x", "has no dataset and no recipe and no pairs; a table needs dataset, recipe and pairs: docs/own"),
        ("dataset: cifar100\nrecipe: cifar_240\npairs: []", "has no pairs; a table needs"),
        ("dataset: cifar100\nrecipee: cifar_240\npairs: [a]", "unknown field: 'recipee'. Did you mean 'recipe'?"),
        (LEAST + "metod: [kd]", "unknown key: 'metod'. Did you mean 'methods'?"),
        (LEAST + "seeds: all", "seeds: Input should be a valid array"),
        (LEAST + "methods: kd", "methods: Input should be a valid array"),
        (LEAST + "methods: [3]", "methods[1]: Input should be an object"),
        (LEAST + "methods: [kd, kd]", "kd appears twice"),
        (LEAST + "task: clasification", "unknown task: 'clasification'. Did you mean 'classification'?"),
        (LEAST + "task: 3", "task: Input should be a valid string"),
        (LEAST.replace("cifar_240", "cifar_24"), "unknown recipe: 'cifar_24'. Did you mean 'cifar_240'?"),
        (LEAST.replace("cifar_240", "[cifar_240]"), "recipe must be a name"),
        (LEAST.replace("cifar_240", "{ful: cifar_240}"), "recipe must be a name, or a name for each scale"),
        (LEAST.replace("->", "-"), "the pair 'resnet56-resnet20' must be written \"TEACHER->STUDENT\""),
        (LEAST.replace('"resnet56->resnet20"', "3"), "pairs[0]: Input should be an object"),
        (LEAST.replace('["resnet56->resnet20"]', "resnet56->resnet20"), "pairs: Input should be a valid array"),
        (LEAST.replace('"resnet56->resnet20"', "{teacher: resnet56}"), "pairs[0].student: Field required"),
        (LEAST.replace('"resnet56->resnet20"', "{teacher: a, student: b, studnt: c}"), "Did you mean 'student'?"),
        (LEAST.replace("cifar100", "cifra100"), "unknown dataset of mine: 'cifra100'. Did you mean 'cifar100'?"),
        (LEAST.replace("resnet56", "resnet57"), "unknown network: 'resnet57'"),
        (LEAST + "reported: [{file: dist, table: cifar100}]", "data_size is missing"),
    ],
)
def test_a_fault_is_one_error_that_names_the_file(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=re.escape(message)) as error:
        validate(table_at(tmp_path, text))
    assert "mine" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="gone.yml: cannot be read: No such file or directory"):
        load_table(str(tmp_path / "gone.yml"))
    with pytest.raises(SpecError, match="cannot be read: is a folder, not a file"):
        load_table(str(tmp_path))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="is not a text file in UTF-8"):
        load_table(str(tmp_path / "binary.yaml"))


def test_tables_of_papers_spell_everything_out() -> None:
    assert all(load_table(name).data_size is not None for name in table_names())


def test_the_command_that_prints_a_table_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my tables"
    folder.mkdir()
    table = table_at(folder, LEAST)

    class Final:
        tables = (table, load_table("dist/cifar100"))
        request = RunRequest(results=tmp_path / "my runs")
        settings = request

    words = shlex.split(execution._command(Final()))  # type: ignore[arg-type]
    assert words == [
        *("kdbench", "table", str(folder / "mine.yaml"), "dist/cifar100"),
        *("--results", str(tmp_path / "my runs")),
    ]
    assert load_table(words[2]) == table
    assert table.model_copy(update={"name": "x"}).argument == shlex.quote(words[2])
