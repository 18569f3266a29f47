"""What known devices reach in training, for times that nothing was measured for.

Peaks and bandwidths are those of the makers' data sheets, without sparsity. The shares of them that training reaches
are assumptions, chosen so that ResNet-50 at 224 pixels comes near the throughput that NVIDIA published for PyTorch
(DeepLearningExamples, resnet50v1.5: one V100 356 images/s in float32; one A100 938 in TF32, 2470 in mixed precision).
float32 is `ieee`: without tensor cores.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import unknown

TERA = 1e12
GIGA = 1e9
VECTOR_SHARE = 0.7
"""Of the peak without tensor cores."""
TENSOR_SHARE = 0.35
"""Of the peak of tensor cores, which small or oddly shaped convolutions leave idle."""
MEMORY_SHARE = 0.7
"""Of the bandwidth."""
LAUNCH = 20e-6
"""Seconds that the processor takes for one operation of eager PyTorch on a GPU, with Python, autograd and dispatch:
usually 10 to 40 microseconds. Small networks wait for this and not for the GPU. (The same source has 10 ms for
ResNet-50 at batch 1, of about 230 operations, beside processors of 2016.)"""


@dataclass(frozen=True)
class Device:
    """What a kind of device reaches.

    Attributes:
        name: as users write it.
        float32: floating-point operations a second, in training.
        tf32: likewise.
        bfloat16: likewise.
        bandwidth: bytes a second, in training.
        memory: GB; 0 for a processor.
        launch: seconds an operation takes at least.
    """

    name: str
    float32: float
    tf32: float
    bfloat16: float
    bandwidth: float
    memory: float
    launch: float = LAUNCH

    def is_on(self, machine: str) -> bool:
        """Whether a row's machine, or an option of a batch system, names such a device."""
        return bool(re.search(rf"(?<![a-z0-9])(rtx)?{self.name.removeprefix('rtx')}(?![a-z0-9])", machine.lower()))


def _gpu(
    name: str, float32: float, bandwidth: float, memory: float, tensor_cores: tuple[float, float] | None = None
) -> Device:
    """A GPU from its data sheet: TFLOPS, GB/s and GB; TFLOPS of its tensor cores in TF32 and bfloat16.

    Without these, bfloat16 is emulated.
    """
    exact = VECTOR_SHARE * TERA * float32
    tf32, bfloat16 = (TENSOR_SHARE * TERA * rate for rate in tensor_cores) if tensor_cores else (exact, exact)
    return Device(name, exact, max(exact, tf32), bfloat16, MEMORY_SHARE * GIGA * bandwidth, memory)


CPU = Device("cpu", 30 * GIGA, 30 * GIGA, 15 * GIGA, 6 * GIGA, 0, launch=8e-6)
"""One core of a server of about 2020, AVX2: a third of its peak. bfloat16 is emulated on many."""

GPUS = (
    _gpu("h200", 67, 4800, 141, (495, 989)),
    _gpu("h100", 67, 3350, 80, (495, 989)),
    _gpu("a100", 19.5, 1555, 40, (156, 312)),
    _gpu("l4", 30.3, 300, 24, (60, 121)),
    _gpu("v100", 15.7, 900, 16),
    _gpu("rtx4090", 82.6, 1008, 24, (82.6, 165)),
    _gpu("rtx3090", 35.6, 936, 24, (35.6, 71)),
    _gpu("t4", 8.1, 320, 16),
)
"""SXM where there are several; the A100 is that of 40 GB."""

KNOWN = {device.name: device for device in GPUS}
UNKNOWN_GPU = "a100"
"""In whose place a GPU is put that is not in the table."""


def device_named(name: str) -> Device:
    """A GPU by its name.

    Raises:
        SpecError: it is not in the table; the nearest is suggested.
    """
    found = KNOWN.get(name.lower().replace(" ", "").replace("-", ""))
    if found is None:
        raise unknown("GPU in --on", name, KNOWN)
    return found


def recognized(machine: str) -> Device | None:
    """The GPU that a machine's name, or options of a batch system, speak of; None where none is in the table."""
    return next((device for device in GPUS if device.is_on(machine)), None)
