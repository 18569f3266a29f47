"""A new method of a user: a commented file that keeps the contract, and the test of it."""

from __future__ import annotations

import keyword
from datetime import date
from importlib.util import find_spec
from pathlib import Path

from kdbench import methods

from ..errors import SpecError, unknown

LOGITS = '''"""{name}: one line that says what the method compares."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdbench.methods.base import Batch, Method, MethodError, Outputs, Setting


class {cls}(Method):
    """KL between the softened class probabilities of teacher and student.

        loss = weight * tau^2 * KL(softmax(teacher / tau) || softmax(student / tau)), mean over {rows}

    Args:
        setting: the run's shapes.
        weight: factor on the loss.
        tau: temperature; the factor tau^2 keeps the size of the gradient.
    """

    name = "{name}"  # that of this file
    citation = "Your name. Your title. {year}. https://example.org/your-paper"  # with a year and then a URL
    tasks = frozenset({{"{task}"}})
    min_classes = 2  # a softmax over one class says nothing

    # Options have a type, a default and a line in the docstring. `--methods ./{name}.py:tau=2` sets one.
    def __init__(self, setting: Setting, weight: float = 1.0, tau: float = 4.0) -> None:
        super().__init__(setting)  # setting.student and setting.teacher hold the networks' channels, for layers
        if tau <= 0:
            raise MethodError(f"{name}: tau is {{tau}}; it must be positive")
        self.weight, self.tau = weight, tau

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term. The run adds the task loss; the teacher's outputs are float32 and carry no gradient."""
        # Also there: batch.targets, self.epoch (finished epochs, for schedules), and {features}.
        s, t = student.logits, teacher.logits  # {shape}
        if not isinstance(s, Tensor) or not isinstance(t, Tensor) or s.shape != t.shape:
            raise MethodError("{name}: the logits of student and teacher must have one shape")
        log_s, log_t = F.log_softmax(s / self.tau, dim=1), F.log_softmax(t / self.tau, dim=1)
        kl = F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(dim=1).mean()
        return {{self.name: self.weight * self.tau**2 * kl}}
'''
"""Of classification and segmentation."""

FEATURES = '''"""{name}: one line that says what the method compares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.methods.base import FeatureMethod, MethodError, Setting


def normalized(features: Tensor, eps: float) -> Tensor:
    """Features [N, C, H, W] with mean 0 and variance 1 in every channel of an image."""
    variance, mean = torch.var_mean(features, dim=(2, 3), correction=0, keepdim=True)
    return (features - mean) / (variance + eps).sqrt()


class {cls}(FeatureMethod):
    """Mean squared error between normalized features, summed over pyramid levels.

        loss = weight * sum over levels of mean((normalized(align(student)) - normalized(teacher))^2)

    `align` is a 1x1 convolution to the teacher's width; it trains with the student and is not in the saved student.

    Args:
        setting: the run's shapes.
        weight: factor on the loss.
        align: which convolutions there are, see `FeatureMethod`.
        eps: added to the variance.
    """

    name = "{name}"  # that of this file
    citation = "Your name. Your title. {year}. https://example.org/your-paper"  # with a year and then a URL
    tasks = frozenset({{"{task}"}})

    # Options have a type, a default and a line in the docstring. `--methods ./{name}.py:weight=2` sets one.
    def __init__(self, setting: Setting, weight: float = 1.0, align: str | None = "conv1x1", eps: float = 1e-5) -> None:
        super().__init__(setting, weight, align)
        self.eps = eps

    # For losses on logits and boxes derive from `Method`, and define `forward(self, batch, student, teacher)`.
    def compare(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
        """Unweighted loss of one level, of two maps [N, C, H, W]; the teacher's carries no gradient."""
        if student.shape != teacher.shape:
            raise MethodError(f"{name}: the maps of level {{level}} differ in size; choose networks of one family")
        return F.mse_loss(normalized(student, self.eps), normalized(teacher, self.eps))
'''
"""Of detection."""

TEST = '''"""The contract of {name}: python -m pytest test_{name}.py."""

from pathlib import Path

from kdbench import contract


def test_{name}_keeps_the_contract() -> None:
    assert contract.problems(Path(__file__).with_name("{name}.py")) == []
'''

TASKS = {
    "classification": ("dist/cifar100", "kd", "images", "[N, K]", "student.features, student.pooled"),
    "detection": ("dist/coco", "dist", "", "", ""),
    "segmentation": ("dist/cityscapes", "kd", "pixels", "[N, K, h, w]", "student.features"),
}
"""Of each task: a table, a method in it, and what the comments name."""


def write_method(name: str, task: str, folder: Path) -> list[str]:
    """Write NAME.py and test_NAME.py; returns lines that say so, and the commands that come next.

    Raises:
        SpecError: the name or the task cannot be used, or a file is there already; the message says why.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    _check_name(name)
    files = [folder / f"{name}.py", folder / f"test_{name}.py"]
    for file in files:
        if file.exists() or file.is_symlink():
            raise SpecError(f"{file.name} is there already; choose another name, or move the file away")
    if find_spec(name) is not None:
        raise SpecError(f"{name} is a Python module, which {name}.py would hide; choose another name")
    table, beside, rows, shape, features = TASKS[task]
    text = (FEATURES if task == "detection" else LOGITS).format(
        name=name, cls=_class_name(name), year=date.today().year, task=task, rows=rows, shape=shape, features=features
    )
    for file, content in zip(files, (text, TEST.format(name=name)), strict=True):
        with file.open("x", encoding="utf-8") as opened:
            opened.write(content)
    return [
        f"wrote {files[0].name} and {files[1].name}, a method that works already; edit it, then:",
        f"  kdbench check --methods ./{name}.py",
        f"  kdbench run {table} --methods {beside},./{name}.py",
    ]


def _check_name(name: str) -> None:
    plain = name.removesuffix(".py")
    if not (name.isidentifier() and name.isascii()) or keyword.iskeyword(name):
        hint = f"write {plain}" if plain != name and plain.isidentifier() else "use letters, digits and _"
        raise SpecError(f"{name!r} is no name in Python, which a method and its file need; {hint}")
    if methods.known(name):
        raise SpecError(f"there is a method {name} already (kdbench list methods); choose another name")


def _class_name(name: str) -> str:
    """`my_method` -> `MyMethod`; a name that the file imports, or that is none in Python, becomes one with `Loss`."""
    camel = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    taken = {"Batch", "F", "FeatureMethod", "Method", "MethodError", "Outputs", "Setting", "Tensor"}
    return camel if camel.isidentifier() and camel not in taken and not keyword.iskeyword(camel) else f"Loss{camel}"
