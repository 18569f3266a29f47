"""int8 files of exported ONNX students: convolutions and linear layers quantized by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import SpecError
from ..records import checkpoint as checkpoints
from ..records import environment
from ..records.inference import Quantized
from ..tasks.base import Task
from . import formats
from .checking import Check, loaded_network
from .formats import without_warnings
from .manifest import ExportedFile
from .saved import SavedStudent

FILE = "student.int8.onnx"
NAME = "onnx-int8"
IMAGES = 128
"""Training images by which the ranges of activations are found."""

OPERATORS = ["Conv", "Gemm", "MatMul"]


def check_possible(form: str, task: Task | str) -> None:
    """Refuse what cannot be quantized.

    Raises:
        SpecError: another format than ONNX, or the images for calibration are not at hand.
    """
    if form != "onnx":
        raise SpecError(f"--int8 is for --format onnx, not {form}")
    if isinstance(task, str):
        raise SpecError(f"--int8 needs the run's training images, and they are not at hand: {task}")


def quantized(student: SavedStudent, task: Task, made: ExportedFile, folder: Path) -> ExportedFile:
    """Quantize an ONNX file and score the result, whose metric may be lower; that is not an error.

    Args:
        student: of the file.
        task: on the run's data.
        made: the ONNX file, which is in `folder`.
        folder: that gets the quantized file.
    """
    from onnxruntime import quantization

    path = folder / FILE
    prepared = folder / "prepared.onnx"
    with without_warnings():
        quantization.quant_pre_process(str(folder / made.file), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(path),
            _reader(task, list(made.inputs)),
            op_types_to_quantize=OPERATORS,
            per_channel=True,
        )
    key, cpu = task.headline, torch.device("cpu")
    network = loaded_network(formats.session(path), task.name, len(task.classes))
    measured = task.evaluate(network, cpu, reference=True)[key]
    recorded = student.metrics.last[key]
    return made.model_copy(
        update={
            "format": NAME,
            "file": FILE,
            "bytes": path.stat().st_size,
            "sha256": checkpoints.sha256(path),
            "latency": (),
            "quantized": f"{FILE}: weights and activations of {', '.join(OPERATORS)} are int8 (static, per channel, "
            f"ranges of {IMAGES} augmented training images); {key} {measured:.2f}, "
            f"{measured - recorded:+.2f} to the run's",
            "check": Check(metric=key, measured=measured, recorded=recorded),
        }
    )


def score(file: ExportedFile) -> Quantized:
    """What a quantized file scores, for the file beside the row."""
    assert file.check.metric is not None and file.check.measured is not None  # it was evaluated
    machine = environment.describe("cpu").machine
    return Quantized(
        metric=file.check.metric, score=file.check.measured, threads=torch.get_num_threads(), machine=machine
    )


def _reader(task: Task, names: list[str]) -> Any:
    """Training images, one after the other, as ONNX Runtime reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The images of a generator."""

        def __init__(self) -> None:
            self.feeds = _feeds(task, names)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    return Reader()


def _feeds(task: Task, names: list[str]) -> Iterator[dict[str, Any]]:
    """Inputs of single images, `IMAGES` of them or all."""
    cpu, count = torch.device("cpu"), 0
    for batch in task.endless(cpu, "train"):
        for i, image in enumerate(batch.inputs.split(1)):
            if count == min(IMAGES, len(task.data.train)):
                return
            count += 1
            feed = {names[0]: image.contiguous().numpy()}
            if len(names) > 1:
                feed[names[1]] = batch.targets[i]["size"].numpy()
            yield feed
