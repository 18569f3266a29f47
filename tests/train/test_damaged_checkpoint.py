"""Damaged checkpoints: set aside and said; the run starts from what is whole and ends as if nothing had happened."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from kdbench.errors import CheckpointError
from kdbench.records import checkpoint as checkpoints
from kdbench.records.checksum import is_intact
from kdbench.spec.run import Run
from kdbench.train.events import Event
from kdbench.train.job import execute
from tests.helpers.pictures import STEPS, Pictures, done, numbers, short


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


class Killed(BaseException):
    """As a signal: nothing in the harness may catch it."""


def killed(pictures: Pictures, results: Path, run: Run, step: int) -> Path:
    """The folder of a run that was killed at a step."""

    def kill(event: Event) -> None:
        if event.event == "step" and event.step == step:
            raise Killed

    with pytest.raises(Killed):
        execute(pictures.job(results, run), kill)
    return results / run.id


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << random.Random(place).randrange(8)
    path.write_bytes(bytes(content))


def truncate(path: Path, place: int) -> None:
    path.write_bytes(path.read_bytes()[:place])


@pytest.mark.parametrize("damage", [flip, truncate])
@pytest.mark.parametrize("both", [False, True])
def test_the_run_starts_from_the_checkpoint_before_or_anew(
    damage: Any, both: bool, pictures: Pictures, tmp_path: Path
) -> None:
    run = pictures.run("crd", recipe=short(epochs=3))
    (whole,) = done(execute(pictures.job(tmp_path / "whole", run), lambda _: None))
    folder = killed(pictures, tmp_path / "parts", run, 3 * STEPS)
    files = [folder / "checkpoint.pt", folder / "checkpoint.previous.pt"]
    for file in files[: 1 + both]:
        damage(file, file.stat().st_size // 2)
    events: list[Event] = []
    (row,) = done(execute(pictures.job(tmp_path / "parts", run), events.append))
    notices = [event.text for event in events if event.event == "notice"]
    assert [text.startswith(f"{file} is damaged") for text, file in zip(notices, files, strict=False)] == [True] * (
        1 + both
    )
    assert all("was set aside as checkpoint.damaged.pt" in text for text in notices)
    assert [event.step for event in events if event.event == "resumed"] == ([] if both else [STEPS])
    assert numbers(row) == numbers(whole)
    assert sorted(file.name for file in folder.iterdir()) == ["classes.json", "row.json", "student.pt"]


def test_every_flipped_bit_is_found_or_was_in_no_content(pictures: Pictures, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    content = {"weight": list(range(200)), "run": "some"}
    checkpoints.write(path, content)
    whole = path.read_bytes()
    for place in range(len(whole)):
        flip(path, place)
        try:
            found = checkpoints.read(path)
        except CheckpointError:
            found = content
        assert found == content and (is_intact(path) is not True)
        path.write_bytes(whole)


def test_a_kill_between_two_names_leaves_the_checkpoint_before(pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run(recipe=short(epochs=3))
    folder = killed(pictures, tmp_path, run, 3 * STEPS)
    (folder / "checkpoint.pt").unlink()
    events: list[Event] = []
    done(execute(pictures.job(tmp_path, run), events.append))
    assert [event.step for event in events if event.event == "resumed"] == [STEPS]


def test_a_checkpoint_of_an_earlier_code_of_the_method_is_not_resumed(pictures: Pictures, tmp_path: Path) -> None:
    run = pictures.run(recipe=short(epochs=2))
    path = killed(pictures, tmp_path, run, 2 * STEPS) / "checkpoint.pt"
    checkpoints.write(path, checkpoints.read(path) | {"code": "0" * 16})
    events: list[Event] = []
    done(execute(pictures.job(tmp_path, run), events.append))
    (notice,) = [event.text for event in events if event.event == "notice"]
    assert notice == f"{path} is not used: the code of none has changed since it was written"
    assert not [event for event in events if event.event == "resumed"]


def test_a_checkpoint_of_a_teacher_that_was_trained_again_since_is_not_resumed(
    pictures: Pictures, tmp_path: Path
) -> None:
    run = pictures.run("kd", recipe=short(epochs=2))
    path = killed(pictures, tmp_path, run, 2 * STEPS) / "checkpoint.pt"
    content = checkpoints.read(path)
    assert content["teacher_sha256"] == checkpoints.sha256(tmp_path / pictures.teacher.id / "student.pt")
    for file in (path, path.with_name("checkpoint.previous.pt")):
        if file.exists():
            checkpoints.write(file, checkpoints.read(file) | {"teacher_sha256": "0" * 64})
    events: list[Event] = []
    done(execute(pictures.job(tmp_path, run), events.append))
    notices = [event.text for event in events if event.event == "notice"]
    assert notices[0] == f"{path} is not used: its teacher has been trained again since it was written"
    assert not [event for event in events if event.event == "resumed"]


def test_a_checkpoint_of_another_run_is_refused(pictures: Pictures, tmp_path: Path) -> None:
    run, other = pictures.run(recipe=short(epochs=2)), pictures.run(recipe=short(epochs=3))
    path = killed(pictures, tmp_path, run, 2 * STEPS) / "checkpoint.pt"
    (tmp_path / other.id).mkdir()
    path.rename(tmp_path / other.id / path.name)
    (row,) = execute(pictures.job(tmp_path, other), lambda _: None)
    assert row.status == "failed" and f"is the checkpoint of the run {run.id}" in row.reason
