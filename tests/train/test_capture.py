"""Captured steps: the training of every method ends as it does step by step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdbench import methods
from kdbench.errors import CaptureError
from kdbench.grid.plan import any_setting
from kdbench.methods.base import Batch, MethodError
from kdbench.records.row import Row
from kdbench.spec.run import Run
from kdbench.train import job as harness
from kdbench.train import loop as training
from kdbench.train.capture import WARM, CudaGraphs, Repeated, Shared
from kdbench.train.job import execute
from kdbench.train.student import Member
from tests.helpers.pictures import Pictures, short, state_of
from tests.helpers.tape import Tape

BRIEF = {"module_epochs": 1, "initial_epochs": 1, "paraphraser_epochs": 1, "negatives": 8}
UNEVEN: dict[str, Any] = {"epochs": 2, "batch_size": 5, "drop_last": False}  # 4 whole batches an epoch, and 4 images
WHOLE = 8  # batches of five images in two epochs


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Every method of classification, with options for so few images, and options that take one another way.

    Around what MAG and MAS wrap, they do what they do around kd and at.
    """
    found = []
    for name in methods.names():
        if name.startswith(("mag+", "mas+")) and name not in ("mag+kd", "mas+at", "mag+crd"):
            continue
        options = {option: value for option, value in BRIEF.items() if option in methods.resolve(name, {})}
        try:
            methods.build(name, any_setting("classification", 24, 10), **options)
        except MethodError:
            continue
        found.append((name, options))
    more: list[tuple[str, dict[str, Any]]] = [
        ("ad", {"config": "adaptive_all_layer_wise"}),
        ("ekd", {"teachers": 2}),
        ("ekd", {"guided": False, "snapshots": 2}),
        ("dkd", {"warmup_epochs": 2}),
    ]
    return found + more


CASES = cases()


class Watched(TorchDispatchMode):
    """Where anything watches, autograd adds a few sums up in another order; so both sides are watched."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module", autouse=True)
def watched() -> Iterator[None]:
    passes = Member._forward_backward

    def under_watch(self: Member, *given: Any) -> Any:
        with Watched():
            return passes(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Member, "_forward_backward", under_watch)
        yield


def quiet(event: dict[str, Any]) -> None:
    assert event["event"] != "error"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("data"))


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Tape:
    """What records in the place of CUDA."""
    tape = Tape()
    monkeypatch.setattr(harness, "CudaGraphs", lambda device: tape)
    return tape


Trained = tuple[Path, list[Row]]


@pytest.fixture(scope="module")
def runs(pictures: Pictures) -> list[Run]:
    recipe = short(**UNEVEN)
    return [pictures.run(name, recipe=recipe, options=options) for name, options in CASES]


@pytest.fixture(scope="module")
def stepwise(pictures: Pictures, runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("stepwise")
    return folder, execute(pictures.job(folder, *runs), quiet)


@pytest.fixture(scope="module")
def captured(pictures: Pictures, runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("captured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "CudaGraphs", lambda device: Tape())
        return folder, execute(pictures.job(folder, *runs, capture=True), quiet)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{name} {options}" for name, options in CASES])
def test_a_captured_run_ends_bitwise_as_it_does_step_by_step(
    number: int, runs: list[Run], stepwise: Trained, captured: Trained
) -> None:
    run, one, other = runs[number], stepwise[1][number], captured[1][number]
    assert (one.reason, other.reason) == ("", "")
    assert one.cost and other.cost
    copies = bool(run.options.get("snapshots"))  # Python takes them, at certain steps
    assert (one.cost.captured, other.cost.captured) == (False, not copies)
    assert (one.metrics, one.history, one.learned) == (other.metrics, other.history, other.learned)
    for file in ["student.pt", *(["teacher.pt"] if run.online_teacher else [])]:
        left, right = (state_of(folder, run, file) for folder in (stepwise[0], captured[0]))
        assert all(torch.equal(left[name], right[name]) for name in left), file


def test_whole_batches_are_replayed_and_the_last_of_an_epoch_is_not(
    pictures: Pictures, tape: Tape, tmp_path: Path
) -> None:
    runs = [pictures.run(name, recipe=short(**UNEVEN)) for name in ("kd", "dist")]
    execute(pictures.job(tmp_path, *runs, capture=True), quiet)
    assert tape.captures == 3  # the teacher's forward once for both students
    assert tape.replays == 3 * (WHOLE - WARM)


@pytest.mark.parametrize(
    "changes", [{"precision": "bfloat16"}, {"ema": 0.5, "channels_last": False}, {"clip_norm": None}]
)
def test_recipes_of_all_kinds_can_be_captured(
    changes: dict[str, Any], pictures: Pictures, tape: Tape, tmp_path: Path
) -> None:
    run = pictures.run("dkd", recipe=short(**UNEVEN, **changes))
    (one,) = execute(pictures.job(tmp_path / "stepwise", run), quiet)
    (other,) = execute(pictures.job(tmp_path / "captured", run, capture=True), quiet)
    assert tape.replays > 0
    assert one.student and other.student and one.student.sha256 == other.student.sha256
    assert one.history == other.history


class Killed(BaseException):
    """Stands for a signal."""


def test_a_captured_run_that_was_killed_goes_on_and_ends_the_same(
    pictures: Pictures, tape: Tape, tmp_path: Path
) -> None:
    runs = [pictures.run(name, recipe=short(**UNEVEN | {"epochs": 3})) for name in ("mag+crd", "ekd", "none")]

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["epoch"] == 2:
            raise Killed

    whole = execute(pictures.job(tmp_path / "whole", *runs), quiet)
    with pytest.raises(Killed):
        execute(pictures.job(tmp_path / "parts", *runs, capture=True), kill)
    resumed = execute(pictures.job(tmp_path / "parts", *runs, capture=True), quiet)
    for one, other in zip(whole, resumed, strict=True):
        assert one.student and other.student and one.student.sha256 == other.student.sha256, one.run.method
        assert one.history == other.history


def test_a_method_that_looks_at_its_numbers_leaves_with_the_mend_and_the_rest_go_on(
    pictures: Pictures, tape: Tape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = methods.method_class("sp")
    forward = target.forward

    def looking(self: Any, *given: Any) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = forward(self, *given)
        return {name: value if value.item() > 0 else 0 * value for name, value in terms.items()}

    monkeypatch.setattr(target, "forward", looking)
    runs = [pictures.run(name, recipe=short(**UNEVEN)) for name in ("sp", "kd")]
    sp, kd = execute(pictures.job(tmp_path, *runs, capture=True), quiet)
    assert (sp.status, kd.status) == ("failed", "done")
    assert "would wait for the device" in sp.reason
    assert kd.cost and kd.cost.captured


def test_a_repeated_work_is_carried_out_once_a_call_and_captured_after_a_few() -> None:
    tape, work, total = Tape(), Repeated[Tensor](), torch.zeros(())
    shown = [work(lambda: total.add_(1).mul(2), tape).clone() for _ in range(WARM + 3)]
    assert [one.item() for one in shown] == [2.0 * (call + 1) for call in range(WARM + 3)]
    assert (tape.captures, tape.replays) == (1, 3)
    assert work(lambda: total - total, None).item() == 0  # as it comes
    assert tape.replays == 3


def test_a_batch_is_laid_where_the_first_lay_unless_its_shape_is_another() -> None:
    shared = Shared(Tape())
    batches = [Batch(torch.rand(n, 3, 4, 4), torch.arange(n), torch.arange(n)) for n in (5, 5, 2, 5)]
    placed = [shared.place(batch) for batch in batches]
    first = placed[0][0]
    assert [batch is first for batch, _ in placed] == [True, True, False, True]
    assert [recorder is not None for _, recorder in placed] == [True, True, False, True]
    assert placed[2][0] is batches[2]
    assert torch.equal(first.inputs, batches[3].inputs) and first.inputs is not batches[3].inputs
    other = Batch(batches[0].inputs, torch.rand(5, 10), batches[0].index)  # mixed images have other targets
    assert shared.place(other) == (other, None)
    assert Shared(None).place(batches[0]) == (batches[0], None)


def test_a_run_is_captured_if_every_epoch_of_it_was(pictures: Pictures, tape: Tape, tmp_path: Path) -> None:
    run = pictures.run(recipe=short(**UNEVEN))

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["epoch"] == 2:
            raise Killed

    with pytest.raises(Killed):
        execute(pictures.job(tmp_path, run), kill)
    (row,) = execute(pictures.job(tmp_path, run, capture=True), quiet)
    assert tape.captures == 1
    assert row.cost and not row.cost.captured


@pytest.mark.parametrize("captured", [False, True])
def test_a_run_is_captured_if_every_part_of_an_epoch_was(
    captured: bool, pictures: Pictures, tape: Tape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "READ_EVERY", 1)
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    run = pictures.run(recipe=short(batch_size=2))  # twelve steps

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 7:
            raise Killed

    (whole,) = execute(pictures.job(tmp_path / "whole", run), quiet)
    with pytest.raises(Killed):
        execute(pictures.job(tmp_path / "parts", run, capture=captured), kill)
    (row,) = execute(pictures.job(tmp_path / "parts", run, capture=True), quiet)
    assert tape.captures == 1 + captured
    assert tape.replays == (12 - 6 - WARM) + captured * (7 - WARM)
    assert row.cost and row.cost.captured == captured
    assert row.student and whole.student and row.student.sha256 == whole.student.sha256
    assert row.history == whole.history


def test_the_step_that_captures_is_no_sample_of_what_steps_take(
    pictures: Pictures, tape: Tape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled: list[int] = []
    end_epoch = Member.end_epoch

    def ending(self: Member, *given: Any) -> None:
        sampled.append(len(self.tally.student))
        end_epoch(self, *given)

    monkeypatch.setattr(Member, "end_epoch", ending)
    run = pictures.run(recipe=short(**UNEVEN))
    execute(pictures.job(tmp_path / "stepwise", run), quiet)
    execute(pictures.job(tmp_path / "captured", run, capture=True), quiet)
    assert sampled == [5, 5, 4, 5]


class Graphs:
    """Stands for `torch.cuda`: what is asked of it, and captures that end as those of CUDA do."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.pools: list[object] = []
        self.handles = 0
        cuda: dict[str, Any] = {
            "Stream": lambda device: None,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
            "graph": self.graph,
            "graph_pool_handle": self.handle,
        }
        for name, value in cuda.items():
            patch.setattr(torch.cuda, name, value)

    def handle(self) -> int:
        self.handles += 1
        return self.handles

    @contextmanager
    def graph(self, graph: object, pool: object, stream: object) -> Iterator[None]:
        self.pools.append(pool)
        try:
            yield
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904 - as torch does


def test_what_lasts_has_memory_of_its_own_and_a_failed_capture_leaves_none_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def looking() -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    cuda = Graphs(monkeypatch)
    recorder = CudaGraphs(torch.device("cpu"))
    recorder.capture(lambda: None, lasting=True)
    recorder.capture(lambda: None, lasting=False)
    recorder.capture(lambda: None, lasting=False)
    with pytest.raises(CaptureError, match=r"\(operation not permitted when stream is capturing\); run it without"):
        recorder.capture(looking, lasting=False)
    recorder.capture(lambda: None, lasting=False)
    assert cuda.pools == [None, 1, 1, 1, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
def test_on_cuda_a_captured_run_ends_as_it_does_step_by_step_up_to_rounding(
    pictures: Pictures, runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    one = execute(pictures.job(tmp_path / "stepwise", *runs, device="cuda"), quiet)
    other = execute(pictures.job(tmp_path / "captured", *runs, device="cuda", capture=True), quiet)
    for left, right in zip(one, other, strict=True):
        assert (left.reason, right.reason) == ("", ""), left.run.method
        assert right.cost and right.cost.captured == (not left.run.options.get("snapshots"))
        states = (state_of(tmp_path / side, left.run) for side in ("stepwise", "captured"))
        torch.testing.assert_close(
            *states, rtol=1e-3, atol=1e-4, msg=lambda words, run=left.run: f"{run.method}: {words}"
        )
