"""The samples of the contract, as fixtures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kdbench.contract.samples import Sample, make_sample, segmenter_sample


@pytest.fixture
def sample() -> Callable[..., Sample]:
    return make_sample


@pytest.fixture
def dense() -> Sample:
    return make_sample("dense")


@pytest.fixture
def segmenters() -> Sample:
    return segmenter_sample()


@pytest.fixture
def equal_widths() -> Sample:
    """Two classifiers of the same widths."""
    return make_sample("classification", widths=(6, 6))


@pytest.fixture
def plain() -> Sample:
    """A dense detector whose student is as wide as its teacher, for methods built with align=None."""
    return make_sample("dense", widths=(6, 6))
