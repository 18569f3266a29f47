"""What several methods share: pairing the student's tensors with the teacher's."""

from __future__ import annotations

from torch import Tensor

from .base import MethodError, Outputs


def target(name: str, student: Tensor, teacher: Tensor, what: str) -> Tensor:
    """The teacher's tensor as a target for the student's: of the same shape, without gradient.

    Raises:
        MethodError: the shapes differ (torch would broadcast some of them in silence).
    """
    if student.shape != teacher.shape:
        raise MethodError(
            f"{name}: the student's {what} have shape {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}; "
            "choose a teacher and a student of the same family, with the same head"
        )
    return teacher.detach()


def level_pairs(
    name: str, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], what: str
) -> list[tuple[Tensor, Tensor]]:
    """Student and teacher tensors of every pyramid level, checked by `target`.

    Raises:
        MethodError: there are no levels, their number differs, or a pair's shapes do.
    """
    if not student or len(student) != len(teacher):
        raise MethodError(
            f"{name}: the student shows {len(student)} levels of {what} and the teacher {len(teacher)}; "
            "both must show the same number, and at least one"
        )
    return [(s, target(name, s, t, what)) for s, t in zip(student, teacher, strict=True)]


def roi_pair(name: str, key: str, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """`extra[key]` of two detectors whose RoI heads read the same proposals, so that row i is one box in both.

    Raises:
        MethodError: the teacher does not show `key`, or the number of rows or columns differs.
    """
    own, other = student.extra[key], teacher.extra.get(key)
    if not isinstance(own, Tensor) or not isinstance(other, Tensor):
        raise MethodError(f"{name}: the student shows {key} and the teacher does not; both must be two-stage detectors")
    if own.shape[0] != other.shape[0]:
        raise MethodError(
            f"{name}: {own.shape[0]} student rows and {other.shape[0]} teacher rows of {key}; "
            "the teacher's RoI head must read the student's proposals"
        )
    return own, target(name, own, other, key)
