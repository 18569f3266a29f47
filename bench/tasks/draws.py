"""The random generators of a process: seeded for a sample or a batch, and left as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed(key: tuple[int, ...]) -> None:
    """Seed Python's, NumPy's and torch's CPU generators, all of which timm and torchvision draw from."""
    number = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.default_generator.manual_seed(number)


@contextmanager
def kept() -> Iterator[None]:
    """A block after which these generators are as they were before."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)
