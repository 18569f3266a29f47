"""A student's files: the checkpoint to resume from, and the weights of the trained networks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..networks.base import Network
from ..records import checkpoint as checkpoints
from ..records.row import Epoch
from .student import EpochStats, Student

CHECKPOINT = "checkpoint.pt"
STUDENT = "student.pt"
TEACHER = "teacher.pt"

FORMAT = 2
"""Of checkpoints; raised when their content changes."""


def save(student: Student) -> None:
    """Write the complete state of a run to its checkpoint; the losses of all steps must have been read."""
    modules = {name: module.state_dict() if module is not None else {} for name, module in _modules(student).items()}
    content = modules | {
        "format": FORMAT,
        "run": student.run.id,
        "optimizer": student.optimizer.state_dict(),
        "random": student.random_state.state_dict(),
        "epoch": student.epoch,
        "steps": student.steps,
        "history": [epoch.model_dump(mode="json") for epoch in student.history],
        "seconds": student.seconds,
        "epoch_stats": asdict(student.epoch_stats),
        "prepared": student.prepared,
        "prepare_seconds": student.prepare_seconds,
        "wall_seconds": student.wall_seconds,
    }
    checkpoints.write(student.folder / CHECKPOINT, content)


def resume(student: Student) -> bool:
    """Restore the state of a run from its checkpoint; False where it has none, or one of another format.

    Raises:
        CheckpointError: the file is damaged or another network's.
    """
    path = student.folder / CHECKPOINT
    if not path.exists():
        return False
    content: dict[str, Any] = checkpoints.read(path)
    if content.get("format") != FORMAT:
        return False
    for name, module in _modules(student).items():
        if module is not None:
            checkpoints.load_strictly(module, content[name], path)
    student.optimizer.load_state_dict(content["optimizer"])
    student.random_state.load_state_dict(content["random"])
    student.epoch, student.steps = content["epoch"], content["steps"]
    student.history = [Epoch(**epoch) for epoch in content["history"]]
    student.seconds, student.epoch_stats = content["seconds"], EpochStats(**content["epoch_stats"])
    student.prepared, student.prepare_seconds = content["prepared"], content["prepare_seconds"]
    student.wall_seconds = content["wall_seconds"]
    return True


def delete(student: Student) -> None:
    """Delete the checkpoint of a finished run."""
    (student.folder / CHECKPOINT).unlink(missing_ok=True)


def save_student(student: Student) -> str:
    """Write the trained student, without modules of the method; returns the file's sha256."""
    return _save_network(student, STUDENT, student.run.student, student.evaluated_network)


def save_teacher(student: Student) -> str:
    """Write the online teacher, the first where there are several; returns the file's sha256."""
    assert student.online_teachers is not None
    assert student.run.online_teacher is not None
    return _save_network(student, TEACHER, student.run.online_teacher, student.online_teachers.first)


def _save_network(student: Student, file: str, name: str, network: Network) -> str:
    state = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    content = {"network": name, "classes": list(student.task.classes), "run": student.run.id, "state": state}
    return checkpoints.write(student.folder / file, content)


def _modules(student: Student) -> dict[str, Any]:
    """The modules of a run by their key in the checkpoint; None where the run has no such module."""
    return {
        "student": student.network,
        "teachers": student.online_teachers,
        "averaged": student.averaged,
        "method": student.method,
    }
