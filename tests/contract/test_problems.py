"""What the contract says of methods that break a promise, each in words that name the fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from kdbench import contract
from kdbench.methods.base import MethodError
from tests.helpers.command import kdbench
from tests.helpers.user_methods import METHOD

LOSS = "nn.functional.mse_loss(student.logits / self.tau, teacher.logits.detach() / self.tau)"


pytestmark = pytest.mark.usefixtures("fresh_methods")


def write(folder: Path, name: str, *changes: tuple[str, str]) -> Path:
    """A file with the user's method, changed."""
    text = METHOD.format(name=name)
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    file = folder / f"{name}.py"
    file.write_text(text)
    return file


def test_a_method_that_keeps_the_contract_has_no_problem(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    assert contract.problems(write(tmp_path, "kept")) == []
    assert contract.problems("kept", {"tau": 2}) == []
    assert torch.equal(torch.get_rng_state(), before)


BROKEN = {
    "year": (("A. User. 2026.", "A. User."), "citation must have a year and then a URL"),
    "task": (('"classification"', '"classification", "clasification"'), "tasks has 'clasification'; the tasks are"),
    "undescribed": (("tau: divides the logits", "divides the logits"), "option tau is not described in the docstring"),
    "untyped": (("tau: float = 1.0", "tau=1.0"), "option tau has no type; write `tau: float = 1.0`"),
    "typed": (("tau: float = 1.0", "tau: list[float] = 1.0"), r"option tau is a list\[float\]; write one of bool, int"),
    "required": (("tau: float = 1.0", "tau: float"), "option tau has no default"),
    "arguments": (
        ("tau: float = 1.0", "tau: float = 1.0, **more: float"),
        r"takes \*\*more: float`?; name every option",
    ),
    "building": (("self.tau = tau", "self.tau = 1 / 0"), r"cannot be built: ZeroDivisionError.*building.py:\d+"),
    "refusing": (("self.tau = tau", "raise ValueError('no')"), "cannot be built: ValueError: no"),
    "computing": (("student.logits /", "student.logit /"), r"cannot be computed: AttributeError.*computing.py:\d+"),
    "tensor": (("{self.name: " + LOSS + "}", LOSS), "`forward` returns a Tensor; return a dict"),
    "number": ((LOSS, LOSS + ".item()"), "is a float; it must be a tensor"),
    "vector": ((LOSS, LOSS + " * student.logits"), "must be a scalar, and has shape"),
    "infinite": ((LOSS, LOSS + " / 0"), "loss 'infinite' is inf on random outputs"),
    "double": ((LOSS, LOSS + ".double()"), "must be float32, and is float64"),
    "empty": (("{self.name: " + LOSS + "}", "{}"), "needs a teacher and returns no loss"),
    "cut": ((LOSS, LOSS + ".detach()"), "no gradient for the student's outputs"),
    "unused": (("self.tau = tau", "self.tau = tau; self.layer = nn.Linear(2, 2)"), "layer.weight gets no gradient"),
    "drawn": ((LOSS, LOSS + " * __import__('random').random()"), "draw random numbers from torch"),
    "kept": (
        (LOSS, "self.__dict__.setdefault('m', []).append(student.logits.sum() ** 2) or sum(self.m)"),
        "the second step fails .* detach what is kept from step to step",
    ),
    "counted": ((LOSS, f"self.__dict__.update(n=self.__dict__.get('n', 0) + 1) or self.n * {LOSS}"), "load_state_dict"),
    "broadcast": ((LOSS, "nn.functional.mse_loss(student.logits, teacher.logits[:1])"), "UserWarning: .*target size"),
    "labelled": (
        (LOSS, LOSS + " + nn.functional.nll_loss(student.logits, batch.targets)"),
        r"fails on shares of classes \[N, K\], the targets of mixed images: .*; set one_class_per_image = True",
    ),
    "changed": ((LOSS, LOSS + " + student.features[0].data.zero_().sum()"), "changes the outputs of the student"),
    "unasked": (
        (LOSS, 'student.views["strong"].logits.mean()'),
        r"cannot be computed: it reads the view 'strong' and does not ask for it; write it into `views` .*:\d+",
    ),
    "elsewhere": (
        ('frozenset({"classification"})', 'frozenset({"classification", "detection"}); views = ("strong",)'),
        "views are made of the images of classification, and tasks has detection",
    ),
    "misspelled": (
        ("self.tau = tau", "self.tau = tau; self.gradients = 'seperate'"),
        "gradients is 'seperate'; it must be 'summed' or 'separate'",
    ),
    "unfrozen": (
        ("    def forward(self, batch", "    teacher_mode = 'online'\n\n    def forward(self, batch"),
        "no gradient for the online teacher's outputs",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_promise_is_said_in_words(fault: str, tmp_path: Path) -> None:
    change, message = BROKEN[fault]
    found = contract.problems(write(tmp_path, fault, change))
    assert any(re.search(message, each) for each in found), found
    assert all(each.startswith(fault) and "\n" not in each for each in found), found


HEAD = """class Head(StudentHead):
    method = "{name}"

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.arguments = {{"inputs": inputs, "classes": classes}}
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, outputs: Outputs) -> Outputs:
        return replace(outputs, logits=self.classifier(outputs.pooled))


class Mine(Method):"""


def with_head(folder: Path, name: str, *changes: tuple[str, str]) -> Path:
    """A file with a method whose head takes the place of the student's classifier, changed."""
    build = "self.tau = tau; self.head = Head(setting.student.pooled_dim, setting.num_classes)"
    own = (
        "    head_class = Head\n\n    def student_head(self):\n        return self.head\n\n    def forward(self, batch"
    )
    made = (
        ("from torch import Tensor", "from dataclasses import replace\nfrom torch import Tensor"),
        ("import Batch, Method", "import Batch, StudentHead, Method"),
        ("class Mine(Method):", HEAD.format(name=name)),
        ("    def forward(self, batch", own),
        ("self.tau = tau", build),
        ("(student.logits", "(self.head(student).logits"),
    )
    return write(folder, name, *made, *changes)


HEADS = {
    "nowhere": (("    head_class = Head\n", ""), "method 'nowhere', whose `head_class` is another; write .* = Head in"),
    "foreign": (('method = "foreign"', 'method = "simkd"'), "found by the method 'simkd', whose `head_class` is anot"),
    "incomplete": ((', "classes": classes', ""), "cannot be made again from `arguments` .*missing 1 required"),
    "resized": (('"inputs": inputs', '"inputs": inputs + 1'), "cannot be made again from `arguments` .*size mismatch"),
    "nameless": (('    method = "nameless"\n', ""), "its head Head has no `method`; see StudentHead"),
    "blind": (("self.classifier", "self.layer"), "its head Head has no `classifier`"),
    "bare": (("return self.head", "return self.head.classifier"), "student_head returns a Linear; return a Student"),
    "forgetful": (
        (
            "self.classifier(outputs.pooled)",
            "self.classifier(outputs.pooled) + __import__('time').monotonic_ns() % 10**6",
        ),
        "made again from `arguments` and its state, has other logits",
    ),
}


@pytest.mark.parametrize("fault", HEADS)
def test_a_head_that_a_saved_student_could_not_have_again_is_a_problem(fault: str, tmp_path: Path) -> None:
    change, message = HEADS[fault]
    found = contract.problems(with_head(tmp_path, fault, change))
    assert any(re.search(message, each) for each in found), found


def test_a_head_that_can_be_read_again_is_no_problem(tmp_path: Path) -> None:
    assert contract.problems(with_head(tmp_path, "headed")) == []


def test_losses_of_ignored_pixels_are_checked(tmp_path: Path) -> None:
    nan = "student.logits.abs().sum() / (batch.targets != 255).sum()"
    file = write(tmp_path, "ignoring", (LOSS, nan), ('"classification"', '"segmentation"'))
    assert any("if all pixels are ignored" in each for each in contract.problems(file))


def test_only_the_first_of_problems_that_follow_from_each_other_is_said(tmp_path: Path) -> None:
    assert len(contract.problems(write(tmp_path, "building", ("self.tau = tau", "self.tau = 1 / 0")))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("    tasks = frozenset", "    others = frozenset"), "Mine has no `tasks`; write"),
        (('frozenset({"classification"})', '"classification"'), "Mine has tasks = 'classification'; write"),
        (("    citation = ", "    source = "), "Mine has no `citation`; write"),
        (("def forward", "def loss"), "Mine does not define `forward`"),
        (
            ("    tasks", '    views = ("strnog",)\n    tasks'),
            "views = .'strnog',.; write a tuple, such as views = .'str",
        ),
        (("    tasks", '    views = "strong"\n    tasks'), "views = 'strong'; write a tuple, such as .*, rotated_270"),
    ],
)
def test_a_class_without_what_every_method_has_is_refused(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(MethodError, match=message):
        contract.problems(write(tmp_path, "lacking", change))


def test_terms_without_a_task_in_common_are_a_problem(tmp_path: Path) -> None:
    contract.problems(write(tmp_path, "elsewhere"))
    assert contract.problems("elsewhere+cwd+skd") == ["elsewhere+cwd+skd: no task has all of its terms"]


def check(folder: Path, methods: str, *more: str) -> tuple[int, list[str], str]:
    done = kdbench("check", "--methods", methods, *more, folder=folder, environment={})
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_the_command_checks_files_and_known_methods_alone(tmp_path: Path) -> None:
    write(tmp_path, "good")
    write(tmp_path, "bad", ("A. User. 2026.", "A. User."), (LOSS, LOSS + " / 0"))
    (tmp_path / "broken.py").write_text("def f(:\n")
    assert check(tmp_path, "./good.py:tau=2,kd") == (
        0,
        [
            "ok     good: tasks, citation and options are described",
            "ok     good, classification: 11 checks; 9 kernels a step on a GPU",
            "ok     kd: tasks, citation and options are described",
            "ok     kd, classification: 11 checks; 22 kernels a step on a GPU",
            "ok     kd, segmentation: 11 checks; 22 kernels a step on a GPU",
        ],
        "",
    )
    code, lines, error = check(tmp_path, "./bad.py,./broken.py,gone,./good.py:tua=1,good")
    assert code == 1 and error == "5 wrong\n"
    wrong = [line for line in lines if line.startswith("wrong ")]
    said = [
        "citation must have",
        "loss 'bad' is inf",
        "broken.py:1: cannot be imported",
        "'gone'",
        "Did you mean 'tau'",
    ]
    assert len(wrong) == len(said) and all(text in line for text, line in zip(said, wrong, strict=True)), wrong
    assert lines[-1] == "ok     good, classification: 11 checks; 9 kernels a step on a GPU"


def test_two_checks_at_once_are_refused(tmp_path: Path) -> None:
    code, _, error = check(tmp_path, "kd", "--data", ".")
    assert code == 2 and "give one of them" in error
