"""What a row says about where it was measured."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest
import torch

from kdbench.records import environment


def test_a_library_that_is_not_installed_has_no_version_and_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    known = environment.version

    def version(name: str) -> str:
        if name == "pycocotools":  # which classification does not need
            raise PackageNotFoundError(name)
        return known(name)

    whole = environment.describe(torch.device("cpu")).libraries
    monkeypatch.setattr(environment, "version", version)
    assert environment.describe(torch.device("cpu")).libraries.keys() == whole.keys() - {"pycocotools"}
    assert {"torch", "pycocotools"} <= whole.keys()
