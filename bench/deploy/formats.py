"""The formats of exported students: how each is written, and read again without the network that it was made of."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import networks
from ..errors import CheckpointError, SpecError, unknown
from ..networks.load import load_network
from ..networks.with_head import content_of
from ..records import checkpoint as checkpoints
from ..spec import network_name
from .plain import Plain, plain, plain_module
from .saved import SavedStudent

Function = Callable[..., tuple[Tensor, ...]]
"""Inputs -> outputs, in the order of `Plain.inputs` and `Plain.outputs`."""

INSTALL = "pip install 'kdbench[export]'"


class Format(ABC):
    """A format.

    Attributes:
        name: for --format.
        file: name of the file.
        title: in a model card.
        usage: Python lines that load the file `{file}` and run it, for a model card.
        libraries: beside torch that are needed to write and check it.
        has_graph: the file has the network's operations, which are traced.
    """

    name: ClassVar[str]
    file: ClassVar[str]
    title: ClassVar[str]
    usage: ClassVar[str]
    libraries: ClassVar[tuple[str, ...]] = ()
    has_graph: ClassVar[bool] = True

    def check_installed(self) -> None:
        """Refuse a format whose libraries are missing.

        Raises:
            SpecError: names them.
        """
        missing = [name for name in self.libraries if find_spec(name) is None]
        if missing:
            raise SpecError(f"--format {self.name} needs {', '.join(missing)}: {INSTALL}")

    def check_traceable(self, network: Plain, name: str) -> None:
        """Refuse a network that cannot be written in this format.

        Raises:
            SpecError: names it.
        """
        if self.has_graph and network.obstacle:
            raise SpecError(f"--format {self.name}: {name}: {network.obstacle}; export it with --format torch")

    @abstractmethod
    def write(self, network: Plain, student: SavedStudent, path: Path) -> None:
        """Write the file."""

    @abstractmethod
    def read(self, path: Path, student: SavedStudent, size: tuple[int, int]) -> Function:
        """The network in a file, for the CPU."""


class Torch(Format):
    """Weights alone: a dict of plain tensors that `torch.load` reads safely."""

    name, file, title = "torch", "student.pt", "PyTorch weights (state dict)"
    usage = 'import kdbench\n\nnetwork = kdbench.load_student("{file}"{network})\noutputs = network({arguments})'
    has_graph = False

    def write(self, network: Plain, student: SavedStudent, path: Path) -> None:
        content = {"network": student.row.run.student, "classes": list(student.classes), "run": student.row.id}
        checkpoints.write(path, content | content_of(student.network))

    def read(self, path: Path, student: SavedStudent, size: tuple[int, int]) -> Function:
        network = load_network(path, student.row.run.student, student.classes, torch.device("cpu"))
        return _tuples(plain(network, student.task, size).module)


class TorchScript(Format):
    """A trace that libtorch (C++) and PyTorch run without Python code of the network."""

    name, file, title = "torchscript", "student.torchscript", "TorchScript (traced)"
    usage = 'import torch{vision}\n\nnetwork = torch.jit.load("{file}")\noutputs = network({arguments})'

    def write(self, network: Plain, student: SavedStudent, path: Path) -> None:
        with torch.no_grad(), without_warnings():
            traced = torch.jit.trace(network.module, network.example, check_trace=False)
            torch.jit.save(traced, str(path))

    def read(self, path: Path, student: SavedStudent, size: tuple[int, int]) -> Function:
        with without_warnings():
            return _tuples(torch.jit.load(str(path), map_location="cpu"))


class ExportedProgram(Format):
    """A graph of torch.export, for AOTInductor, ExecuTorch and other back-ends."""

    name, file, title = "exported-program", "student.pt2", "torch.export program"
    usage = 'import torch{vision}\n\nnetwork = torch.export.load("{file}").module()\noutputs = network({arguments})'

    def write(self, network: Plain, student: SavedStudent, path: Path) -> None:
        with without_warnings():
            torch.export.save(_program(network, student), path)

    def read(self, path: Path, student: SavedStudent, size: tuple[int, int]) -> Function:
        import torchvision  # noqa: F401 - registers the operators of detectors

        with without_warnings():
            return _tuples(torch.export.load(path).module())


class Onnx(Format):
    """A graph for ONNX Runtime, TensorRT, OpenVINO and others."""

    name, file, title = "onnx", "student.onnx", "ONNX"
    usage = (
        'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{file}")\noutputs = session.run(None, {feed})'
    )

    libraries = ("onnx", "onnxruntime", "onnxscript")

    def write(self, network: Plain, student: SavedStudent, path: Path) -> None:
        with without_warnings():
            made = torch.onnx.export(
                _program(network, student),
                input_names=list(network.inputs),
                output_names=list(network.outputs),
                dynamo=True,
                verbose=False,
            )
            assert made is not None
            made.save(path)

    def read(self, path: Path, student: SavedStudent, size: tuple[int, int]) -> Function:
        return session(path)


def load_student(path: Path, network: str | None = None) -> nn.Module:
    """The student in a file of weights; see `kdbench.load_student`."""
    content = checkpoints.read(path)
    name, classes = content.get("network"), content.get("classes")
    if not isinstance(name, str) or not isinstance(classes, list):
        raise CheckpointError(f"{path} names no network and classes; give the student.pt of a run or of an export")
    name = name if network is None else network_name.resolve(network)
    return plain_module(load_network(path, name, tuple(map(str, classes)), torch.device("cpu")), networks.task(name))


def session(path: Path) -> Function:
    """The network in an ONNX file, run by ONNX Runtime on the CPU with torch's number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # its errors are raised, too
    made = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in made.get_inputs()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        feed = {name: value.contiguous().numpy() for name, value in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(value) for value in made.run(None, feed))

    return run


FORMATS: dict[str, Format] = {each.name: each for each in (Torch(), TorchScript(), ExportedProgram(), Onnx())}


def get(name: str) -> Format:
    """A format that can be written here.

    Raises:
        SpecError: an unknown name (the nearest is suggested), or its libraries are missing.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    FORMATS[name].check_installed()
    return FORMATS[name]


def _program(network: Plain, student: SavedStudent) -> torch.export.ExportedProgram:
    """The graph of a network.

    Raises:
        SpecError: torch.export cannot follow its forward.
    """
    try:
        with torch.no_grad():
            return torch.export.export(network.module, network.example, dynamic_shapes=network.dynamic)
    except Exception as error:  # of a network from outside, whose forward does anything
        first = (str(error).strip().splitlines() or [""])[0]
        raise SpecError(
            f"torch.export cannot follow the forward of {student.row.run.student}: {type(error).__name__}: {first}; "
            "export it with --format torch or torchscript"
        ) from error


def _tuples(module: Any) -> Function:
    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            outputs = module(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    return run


@contextmanager
def without_warnings() -> Iterator[None]:
    """Without the exporters' remarks on every shape that they trace: the file is run and compared afterwards."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
