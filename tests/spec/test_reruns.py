"""What others published: the files of reruns, and whether authors tuned their options pair by pair."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.errors import SpecError
from kdbench.spec.reruns import RERUNS, Rerun, Setting, all_reruns, all_settings, load_reruns, rerun_names, tuning

LINE = {
    "dataset": "cifar100", "teacher": "resnet56", "teacher_value": "72.34", "student": "resnet20", "method": "kd",
    "metric": "top1", "value": "70.5", "selection": "best", "by": "independent", "code": "someone/code",
    "source": "someone/else#1", "differs": "", "note": "",
}  # fmt: skip


def write(folder: Path, **changes: str) -> Path:
    path = folder / "reruns.csv"
    path.write_text(f"{','.join(LINE)}\n{','.join((LINE | changes).values())}\n")
    return path


@pytest.mark.parametrize("name", rerun_names())
def test_every_committed_file_fits_the_schema(name: str) -> None:
    runs = load_reruns(RERUNS / f"{name}.csv")
    assert runs
    for run in runs:
        assert run.by == "independent" or name == "lskd", "logs of authors are in a file of their own"


def test_committed_settings_fit_the_schema() -> None:
    assert all(setting.source for setting in all_settings())


def test_a_line_is_read_with_its_types(tmp_path: Path) -> None:
    [run] = load_reruns(write(tmp_path, teacher_value=""))
    assert run == Rerun.model_validate(LINE | {"teacher_value": None})
    assert (run.value, run.teacher_value) == (70.5, None)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("value", "", "value"),
        ("value", "150", "less than or equal to 100"),
        ("value", "nan", "value"),
        ("by", "me", "'independent' or 'authors'"),
        ("selection", "first", "'last' or 'best'"),
        ("source", "", "at least 1 character"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_line(tmp_path: Path, field: str, value: str, reason: str) -> None:
    path = write(tmp_path, **{field: value})
    with pytest.raises(SpecError, match=rf"{path}:2: {field}") as error:
        load_reruns(path)
    assert reason in str(error.value)


def test_an_imagenet_log_is_of_imagenet() -> None:
    of_imagenet = [run for run in all_reruns() if "logs/imagenet/" in run.source]
    assert of_imagenet
    assert {run.dataset for run in of_imagenet} == {"imagenet"}


def setting(student: str, options: str, teacher: str = "resnet32x4") -> Setting:
    return Setting(method="new", teacher=teacher, student=student, options=options, source="a file")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], ""),
        ([setting("resnet8x4", "T=4")], ""),
        ([setting("resnet8x4", "T=4"), setting("resnet20", "T=4", "resnet56")], "one setting"),
        ([setting("resnet8x4", "T=4"), setting("resnet20", "T=3", "resnet56")], "tuned per pair"),
        ([setting("resnet8x4", "T=4; LR=0.05"), setting("mobilenet_v2", "T=4; LR=0.01")], "one setting"),
        ([setting("vgg8", "T=4; LR=0.05"), setting("resnet8x4", "T=4; LR=0.025")], "tuned per pair"),
    ],
)
def test_options_that_differ_between_pairs_are_tuned(settings: list[Setting], expected: str) -> None:
    assert tuning(settings) == expected
