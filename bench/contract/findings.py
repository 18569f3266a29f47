"""What code does on an emulated CUDA device that it should not do on a GPU, with the line that does it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal, NamedTuple

LIBRARIES = frozenset({"detectron2", "fvcore", "segmentation_models_pytorch", "timm", "torchvision"})
"""Packages of networks; what one does belongs to the line that calls it."""
SKIPPED = frozenset({"torch"}) | sys.stdlib_module_names - {"__main__"}
EMULATION = frozenset({__name__, f"{__package__}.emulated_cuda"})

Kind = Literal["fails", "waits", "copies"]

TEXTS: dict[Kind, str] = {
    "fails": "`{}` gets tensors of the CPU and of the GPU",
    "waits": "`{}` makes the host wait for the GPU",
    "copies": "`{}` copies a tensor to the GPU in every step",
}


@dataclass(frozen=True)
class Finding:
    """What an operation does that code on a GPU should not.

    Attributes:
        kind: "fails" on a GPU; "waits": the host does, until the device has computed everything before; "copies" from
            the host, for which it waits as well.
        op: the operation, or the function that Python called.
        file: of the innermost line outside of torch and the packages of networks, such as `methods/kd.py`; its name
            alone where it is none of kdbench's.
        line: of the file.
        library: the package of networks that the line calls; else empty.
        backward: whether it happens in the backward pass of the line.
    """

    kind: Kind
    op: str
    file: str
    line: int
    library: str = ""
    backward: bool = False

    def __str__(self) -> str:
        through = f" in {self.library}" if self.library else ""
        return f"{TEXTS[self.kind].format(self.op)}{through}: {'backward of ' * self.backward}{self.file}:{self.line}"


@dataclass
class Record:
    """What happened on the device.

    Attributes:
        findings: in order.
        kernels: operations on the device that compute something, roughly the kernels that it would be given.
    """

    findings: list[Finding] = field(default_factory=list)
    kernels: int = 0

    @property
    def fails(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind == "fails"]

    @property
    def slows(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind != "fails"]


class Place(NamedTuple):
    """A line, as in `Finding`."""

    file: str
    line: int
    library: str


def current_place() -> Place:
    """The line at which code outside of torch and `LIBRARIES` is, and the one of these that it calls."""
    library, frame = "", sys._getframe(1)
    while frame.f_back is not None and _is_skipped(frame):
        library = library or (_package(frame) if _package(frame) in LIBRARIES else "")
        frame = frame.f_back
    inside = "/".join(frame.f_globals["__name__"].split(".")[1:]) + ".py"
    file = inside if _package(frame) == "kdbench" else Path(frame.f_code.co_filename).name
    return Place(file, frame.f_lineno, library)


def _is_skipped(frame: FrameType) -> bool:
    return _package(frame) in LIBRARIES | SKIPPED or frame.f_globals["__name__"] in EMULATION


def _package(frame: FrameType) -> str:
    name: str = frame.f_globals["__name__"]
    return name.partition(".")[0]
