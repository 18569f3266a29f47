"""A job's frozen teacher: loaded strictly and measured again before any student trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdbench.methods.base import Outputs

from ..errors import TeacherError
from ..networks.base import Network
from ..networks.load import load_network
from ..records import checkpoint
from ..records.row import TeacherRecord
from ..records.store import Store
from ..spec.run import Run
from ..tasks.base import Task
from ..tasks.measurement import ByClass
from . import ranks
from .checkpointing import STUDENT

TOLERANCE = 0.5  # points; a re-measured teacher further from its record than this is another teacher


@dataclass(frozen=True)
class MeasuredTeacher:
    """A teacher as it was measured again.

    Attributes:
        record: of its score.
        by_class: its score of each class.
        predictions: which students' agreement is measured by (`Measurement.predictions`).
        warning: that it is no better than guessing; empty where it is better.
    """

    record: TeacherRecord
    by_class: ByClass
    predictions: Tensor | None
    warning: str = ""


def load_teacher(
    spec: Run, file: Path | None, store: Store, task: Task, channels_last: bool, device: torch.device
) -> tuple[Network, Path, float | None]:
    """The teacher, its file and its score on record, which a given `file` does not have.

    Raises:
        TeacherError: it has no finished run, or its file is missing or another one.
        CheckpointError: the file is damaged, another network's, or for other classes.
    """
    recorded = None
    if file is None:
        file, recorded = _trained(spec, store, task)
    network = load_network(file, spec.student, task.classes, device).eval().requires_grad_(False)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    return network, file, recorded


def measure_teacher(
    spec: Run,
    network: Network,
    file: Path,
    recorded: float | None,
    teacher_task: Task,
    task: Task,
    device: torch.device,
) -> MeasuredTeacher:
    """Measure a teacher again on the data that it was trained on.

    Args:
        spec: the teacher's run.
        network: the teacher.
        file: that it was loaded from.
        recorded: its score on record; None where there is none.
        teacher_task: the data that it was trained on.
        task: the students' data, whose validation images differ where they are noisy.
        device: where.

    Raises:
        TeacherError: its outputs are not finite, or its score is off its record.
    """
    with finite_logits(f"teacher {spec.student}", file, network):
        found = teacher_task.measure(network, device, full=True, shard=ranks.shard())
    measured, predictions = found.metrics[task.headline], found.predictions
    if recorded is not None and abs(measured - recorded) > TOLERANCE:
        raise TeacherError(
            f"teacher {spec.student} scores {measured:.2f} {task.headline} and {recorded:.2f} is on record: the data, "
            f"a library or the machine changed under it; move {file.parent} away and the teacher is trained again"
        )
    if teacher_task is not task and predictions is not None:
        predictions = task.measure(network, device, full=True, shard=ranks.shard()).predictions
    sha256 = checkpoint.sha256(file)
    record = TeacherRecord(network=spec.student, sha256=sha256, recorded=recorded, measured=measured)
    warning = task.guesses(f"the teacher {spec.student}", measured, spec.data)
    return MeasuredTeacher(record, found.by_class, predictions, warning)


@contextmanager
def finite_logits(name: str, file: Path, network: Network) -> Iterator[None]:
    """Refuse a network whose logits inside are not finite, before a student learns from them.

    Raises:
        TeacherError: begins with `name`, such as "teacher resnet56", and names the file.
    """
    finite: list[Tensor] = []

    def check(_module: object, _images: object, outputs: Outputs) -> None:
        logits = outputs.logits if isinstance(outputs.logits, tuple) else (outputs.logits,)
        finite.extend(level.isfinite().all() for level in logits)

    hook = network.register_forward_hook(check)
    try:
        yield
    finally:
        hook.remove()
    if not all(torch.stack(finite).tolist() if finite else ()):
        raise TeacherError(
            f"{name}: its outputs are NaN or infinite on the validation images, though the weights in {file} "
            "are finite; give a checkpoint from before the training diverged"
        )


def _trained(spec: Run, store: Store, task: Task) -> tuple[Path, float]:
    """The file and the score of a teacher that was trained here."""
    file, row = store.folder(spec.id) / STUDENT, store.row(spec.id)
    if row is None or row.status != "done" or row.metrics is None or row.student is None:
        raise TeacherError(f"teacher {spec.student} has no finished run ({spec.id}); run its table again")
    if not file.exists():
        raise TeacherError(f"{file} is gone; move {file.parent} away and the teacher is trained again")
    if checkpoint.sha256(file) != row.student.sha256:
        raise TeacherError(
            f"{file} is not the file that was measured (its sha256 differs from the one in row.json); "
            f"move {file.parent} away and the teacher is trained again"
        )
    return file, row.metrics.last[task.headline]
