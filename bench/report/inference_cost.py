"""Inference with a cell's students as columns of tables and of CSV files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..records.inference import Latency, Setup
from ..text import counted
from .verdicts import Sample

PROGRAMS = {"eager": "PyTorch", "onnx": "ONNX", "onnx-int8": "int8 ONNX"}
"""What tables show, with its name."""

SIZES = {"torch": "PyTorch", "onnx": "ONNX", "onnx-int8": "int8 ONNX"}
"""Formats of files whose sizes tables show."""

BATCHES = (1, 32)
BLANK = "-"


@dataclass(frozen=True)
class CellInference:
    """What inference with a cell's network takes, in one setup.

    Attributes:
        latency: by program and batch.
        sizes: of its files in bytes, by format.
        int8: score of the quantized students over seeds, percent.
        others: further setups that networks of the table were measured in.
        every: what was measured of the network in any setup, at any size.
    """

    latency: Mapping[tuple[str, int], Latency]
    sizes: Mapping[str, int]
    int8: Sample | None
    others: tuple[Setup, ...] = ()
    every: tuple[Latency, ...] = ()

    @property
    def setup(self) -> Setup | None:
        """In which the latency was measured; None without any."""
        return next((each.setup for each in self.latency.values()), None)

    def memory(self, program: str) -> int | None:
        """What loading and running one image adds to a process, bytes."""
        figures = self.latency.get((program, 1))
        return figures.peak_memory if figures else None


def name_of(each: Latency) -> str:
    """What a figure is of: program, batch and size of images."""
    program = PROGRAMS.get(each.program, each.program)
    return f"{program}, batch {each.batch}, {each.size[0]} × {each.size[1]} pixels"


def text_of(each: Latency) -> str:
    """A figure with all that it depends on."""
    memory = "" if each.peak_memory is None else f", {each.peak_memory / 2**20:.3g} MiB of memory"
    libraries = ", ".join(f"{name} {version}" for name, version in each.libraries.items())
    return (
        f"median {each.median_ms:.3g} ms, 95th percentile {each.p95_ms:.3g} ms{memory}; {setup_text(each.setup)}, "
        f"{libraries}, {each.measured[:10]}"
    )


def setup_text(setup: Setup) -> str:
    """Machine and threads."""
    return f"{setup.machine} with {counted(setup.threads, 'CPU thread')}"


def _latency(inference: CellInference, program: str, batch: int) -> str:
    """Median and 95th percentile, ms."""
    figures = inference.latency.get((program, batch))
    return f"{figures.median_ms:.3g} / {figures.p95_ms:.3g}" if figures else BLANK


def _memory(inference: CellInference) -> str:
    return _joined([inference.memory(program) for program in ("eager", "onnx")])


def _sizes(inference: CellInference) -> str:
    return _joined([inference.sizes.get(form) for form in ("torch", "onnx")])


def _joined(counts: list[int | None]) -> str:
    """Bytes as MiB; one dash for none at all."""
    if not any(counts):
        return BLANK
    return " / ".join(BLANK if count is None else f"{count / 2**20:.3g}" for count in counts)


def _int8(inference: CellInference) -> str:
    sample = inference.int8
    if sample is None:
        return BLANK
    return f"{sample.mean:.2f} (n=1)" if sample.sd is None else f"{sample.mean:.2f} ± {sample.sd:.2f} ({sample.n})"


COLUMNS: dict[str, tuple[str, Callable[[CellInference], str]]] = {
    **{
        f"{program}_{batch}": (f"latency {name}\nbatch {batch}, ms", partial(_latency, program=program, batch=batch))
        for program, name in PROGRAMS.items()
        for batch in BATCHES
    },
    "inference_memory": ("memory, MiB\nPyTorch / ONNX", _memory),
    "file_size": ("file, MiB\nPyTorch / ONNX", _sizes),
    "int8": ("int8 score\n± sd (n)", _int8),
}
"""Heading and text of each column."""


def record(inference: CellInference | None) -> dict[str, str]:
    """The text of each column."""
    return {name: text(inference) if inference else BLANK for name, (_, text) in COLUMNS.items()}


def figures(inference: CellInference) -> dict[str, Any]:
    """Unrounded, for CSV files: milliseconds, bytes, percent."""
    found: dict[str, Any] = {}
    for (program, batch), each in inference.latency.items():
        name = f"{program.replace('-', '_')}_batch{batch}"
        found |= {f"{name}_median_ms": each.median_ms, f"{name}_p95_ms": each.p95_ms}
        found |= {f"{name}_memory": each.peak_memory}
    found |= {f"{form.replace('-', '_')}_bytes": size for form, size in inference.sizes.items()}
    setup = inference.setup
    found |= {"latency_machine": setup.machine, "latency_threads": setup.threads} if setup else {}
    found |= {"int8": inference.int8.mean, "int8_n": inference.int8.n} if inference.int8 else {}
    return found
