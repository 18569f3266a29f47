"""What tests of hostile inputs share."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_shipped_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """`kdbench check` checks what it is given alone."""
    for names in ("table_names", "recipe_names", "reported_names"):
        monkeypatch.setattr(f"kdbench.launch.check.{names}", list)
