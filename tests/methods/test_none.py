"""The row without distillation."""

from __future__ import annotations

from typing import Any

from kdbench import methods


def test_adds_nothing_and_asks_for_no_teacher(dense: Any) -> None:
    method = methods.build("none", dense.setting)
    assert not method.needs_teacher
    assert method.task_weight == 1.0
    assert method(dense.batch, dense.student, dense.teacher) == {}
    assert not list(method.parameters())
