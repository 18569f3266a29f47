"""The precision in which a process computes with float32 tensors: set for every library of torch, and checked.

By torch's default cuDNN's convolutions round float32 to TF32 and cuBLAS's matrix products do not; environment variables
(`NVIDIA_TF32_OVERRIDE`, `TORCH_ALLOW_TF32_CUBLAS_OVERRIDE`, `ONEDNN_DEFAULT_FPMATH_MODE`) change either.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import SpecError
from ..spec.recipe import Recipe, UnfitRecipeError

AMPERE = (8, 0)
"""Compute capability of the first GPUs with TF32."""

ROUNDED = 2.0**-12
"""Beside 1, what float32 keeps and TF32 and bfloat16 round away."""


def use(recipe: Recipe, device: torch.device) -> None:
    """Train by a recipe in this process from now on: precision of float32 tensors, and cuDNN's choice of algorithms.

    Raises:
        SpecError: the device has no TF32, which the recipe asks for, or rounds float32, which it does not ask for.
    """
    if recipe.precision == "tf32" and (problem := _without_tf32(device)):
        raise without_tf32(recipe, problem)
    torch.backends.cudnn.benchmark = recipe.cudnn_benchmark
    _set(recipe.precision == "tf32")
    if recipe.precision != "tf32":
        _check_exact(device)


def autocast(recipe: Recipe, device: torch.device, teacher: bool = False) -> torch.autocast:
    """The precision of a recipe's forward passes in training: a student's, or its frozen teacher's."""
    precision = (teacher and recipe.teacher_precision) or recipe.precision
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def evaluation() -> Iterator[None]:
    """Compute with float32 as it is, in whatever precision networks train."""
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    _set(False)
    try:
        yield
    finally:
        _set(tf32)


def without_tf32(recipe: Recipe, problem: str, owner: str = "") -> SpecError:
    """The error for a recipe in TF32 where there is none.

    Args:
        recipe: in TF32.
        problem: what its runs would be trained on.
        owner: whose recipe it is, as in `UnfitRecipeError`.
    """
    text = f"precision is tf32, which {problem} does not have; train with"
    return UnfitRecipeError(recipe, text, {"precision": "ieee"}, (owner,))


def _without_tf32(device: torch.device) -> str:
    """Which device it is that has no TF32; empty for one that has."""
    if device.type != "cuda":
        return "a processor"
    if torch.cuda.get_device_capability(device) < AMPERE:
        return torch.cuda.get_device_name(device)
    return f"{device} under NVIDIA_TF32_OVERRIDE=0" if os.environ.get("NVIDIA_TF32_OVERRIDE") == "0" else ""


def _set(tf32: bool) -> None:
    backends: Any = torch.backends
    # The older flags as well: torch refuses to read them where they contradict the newer.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    # One that was set by itself does not follow the first any more.
    for each in (backends, backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv):
        each.fp32_precision = "tf32" if tf32 else "ieee"


def _check_exact(device: torch.device) -> None:
    """Multiply numbers that only float32 holds by 1.

    Raises:
        SpecError: they were rounded; names what does so.
    """
    size = 64
    numbers = torch.full((size, size), 1 + ROUNDED, device=device)
    ones = torch.eye(size, device=device)
    products = {
        "matrix products": numbers @ ones,
        "convolutions": F.conv2d(numbers[None, :, :, None], ones[:, :, None, None])[0, :, :, 0],
    }
    for name, product in products.items():
        if not torch.allclose(product, numbers, rtol=0, atol=ROUNDED / 16):
            raise SpecError(
                f"{device} rounds float32 in {name}, and the recipe's precision does not allow it; unset "
                "NVIDIA_TF32_OVERRIDE, TORCH_ALLOW_TF32_CUBLAS_OVERRIDE and ONEDNN_DEFAULT_FPMATH_MODE"
            )
