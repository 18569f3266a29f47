"""A Slurm cluster of two nodes for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.slurm import Cluster, UnavailableError


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster; skips the test, with the reason, where the machine cannot run one."""
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        try:
            made.start()
        except UnavailableError as error:
            pytest.skip(str(error))
        yield made
    finally:
        made.stop()
