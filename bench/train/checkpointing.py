"""A student's files: the checkpoint to resume from, and the weights of the trained networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..networks.base import Network
from ..networks.with_head import content_of
from ..records import checkpoint as checkpoints
from ..records.checksum import is_intact
from ..records.row import Epoch
from ..text import counted
from . import ranks
from .student import EpochStats, Student

CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
DAMAGED = "checkpoint.damaged.pt"
STUDENT = "student.pt"
TEACHER = "teacher.pt"

FORMAT = 2
"""Of checkpoints; raised when their content changes."""


def save(student: Student) -> None:
    """Write the complete state of a run to its checkpoint; the losses of all steps must have been read.

    Where several processes train together, each calls it and the first one writes.
    """
    random = ranks.of_all(student.random_state.state_dict())
    if ranks.rank() == 0:
        _write(student, random)


def _write(student: Student, random: list[dict[str, Any]]) -> None:
    modules = {name: module.state_dict() if module is not None else {} for name, module in _modules(student).items()}
    content = modules | {
        "format": FORMAT,
        "run": student.run.id,
        "code": student.code,
        "teacher_sha256": student.teacher_sha256,
        "optimizer": student.optimizer.state_dict(),
        "random": random[0] if len(random) == 1 else random,
        "epoch": student.epoch,
        "steps": student.steps,
        "history": [epoch.model_dump(mode="json") for epoch in student.history],
        "seconds": student.seconds,
        "epoch_stats": asdict(student.epoch_stats),
        "prepared": student.prepared,
        "prepare_seconds": student.prepare_seconds,
        "wall_seconds": student.wall_seconds,
    }
    checkpoints.replace(student.folder / CHECKPOINT, student.folder / PREVIOUS, content)


def resume(student: Student, log: Callable[[str], None] = lambda _: None) -> bool:
    """Restore the state of a run from its checkpoint; False where it has none that can be used.

    A checkpoint that is damaged is set aside and the one before it is used, if there is one.

    Args:
        student: new.
        log: receives what was wrong with a checkpoint.

    Raises:
        CheckpointError: the file cannot be read, or is another run's.
    """
    for name in (CHECKPOINT, PREVIOUS):
        path = student.folder / name
        if path.exists() and (content := _content(path, student, log)):
            _restore(student, content, path)
            return True
    return False


def _content(path: Path, student: Student, log: Callable[[str], None]) -> dict[str, Any] | None:
    """What a checkpoint holds; None where it cannot be used.

    Raises:
        CheckpointError: it is whole and cannot be read.
    """
    try:
        content: dict[str, Any] = checkpoints.read(path)
    except CheckpointError as error:
        if not path.is_file() or is_intact(path):
            raise
        aside = path.with_name(DAMAGED)
        path.replace(aside)
        log(f"{error}; it was set aside as {aside.name}, and the run starts from what is whole")
        return None
    if reason := _outdated(content, student):
        log(f"{path} is not used: {reason}")
        return None
    return content


def _outdated(content: dict[str, Any], student: Student) -> str:
    """Why the run cannot be resumed from a checkpoint that is whole; empty where it can be."""
    if content.get("format") != FORMAT:
        return f"it is of format {content.get('format')}, not {FORMAT}"
    if content.get("code", student.code) != student.code:
        return f"the code of {student.run.method} has changed since it was written"
    if content.get("teacher_sha256", student.teacher_sha256) != student.teacher_sha256:
        return "its teacher has been trained again since it was written"
    return ""


def _restore(student: Student, content: dict[str, Any], path: Path) -> None:
    for name, module in _modules(student).items():
        if module is not None:
            checkpoints.load_strictly(module, content[name], path)
    if content["run"] != student.run.id:
        raise CheckpointError(f"{path} is the checkpoint of the run {content['run']}; move it to that run's folder")
    if (count := len(_random_states(content))) != ranks.world_size():
        raise CheckpointError(
            f"{path} was written by a training on {counted(count, 'GPU')}, and on {ranks.world_size()} the rest would "
            f"see other batches; give --gpus {count}, or delete the file to train the run anew"
        )
    student.optimizer.load_state_dict(content["optimizer"])
    student.random_state.load_state_dict(_random_states(content)[ranks.rank()])
    student.epoch, student.steps = content["epoch"], content["steps"]
    student.history = [Epoch(**epoch) for epoch in content["history"]]
    student.seconds, student.epoch_stats = content["seconds"], EpochStats(**content["epoch_stats"])
    student.prepared, student.prepare_seconds = content["prepared"], content["prepare_seconds"]
    student.wall_seconds = content["wall_seconds"]


def _random_states(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each process that wrote a checkpoint."""
    return content["random"] if isinstance(content["random"], list) else [content["random"]]


def delete(folder: Path) -> None:
    """Delete the checkpoints of a finished run."""
    for name in (CHECKPOINT, PREVIOUS, DAMAGED):
        (folder / name).unlink(missing_ok=True)


def save_student(student: Student) -> str:
    """Write the trained student, of the method's modules its head alone; returns the file's sha256."""
    return _save_network(student, STUDENT, student.run.student, student.evaluated_network)


def save_teacher(student: Student) -> str:
    """Write the online teacher, the first where there are several; returns the file's sha256."""
    assert student.online_teachers is not None
    assert student.run.online_teacher is not None
    return _save_network(student, TEACHER, student.run.online_teacher, student.online_teachers.first)


def _save_network(student: Student, file: str, name: str, network: Network) -> str:
    content = {"network": name, "classes": list(student.task.classes), "run": student.run.id}
    return checkpoints.write(student.folder / file, content | content_of(network))


def _modules(student: Student) -> dict[str, Any]:
    """The modules of a run by their key in the checkpoint; None where the run has no such module."""
    return {
        "student": student.network,
        "teachers": student.online_teachers,
        "averaged": student.averaged,
        "method": student.method,
    }
