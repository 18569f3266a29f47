"""What each tracker's library writes is read back; and what happens where a library or a tracker is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from kdbench import trackers
from kdbench.errors import SpecError
from kdbench.records.row import Row
from kdbench.spec.request import RunRequest
from kdbench.trackers.base import Settings, Tracker, hyper_parameters
from tests.helpers.rows import make_row
from tests.helpers.tables import fixed_table

pytestmark = pytest.mark.filterwarnings("default")  # of the trackers' libraries

STEPS = [5, 10, 15, 20]


@pytest.fixture
def row() -> Row:
    table = fixed_table("dist/coco")
    return make_row(table, table.pairs[0], table.methods[1], "mini")


def log_interrupted_run(kind: type[Tracker], row: Row, results: Path, log_dir: Path | None = None) -> None:
    """A run that was stopped at step 15, resumed after step 10, and finished."""
    for resumed_at, steps in ((None, STEPS[:3]), (10, STEPS)):
        tracker = kind()
        tracker.start(row.run, Settings("a -> b dist:tau=1", results / row.id, results, log_dir, resumed_at))
        for step in steps:
            tracker.step(step, {"loss/dist": 20.0 - step, "lr": 0.1})
        if resumed_at:
            tracker.epoch(20, {"val/ap": 30.0})
            tracker.finish(row)
        tracker.close()


@pytest.mark.parametrize("log_dir", [False, True])
def test_tensorboard_files_are_read_back(row: Row, tmp_path: Path, log_dir: bool) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tmp_path / "logs" if log_dir else None
    log_interrupted_run(trackers.tracker_class("tensorboard"), row, tmp_path, folder)
    name = f"a -> b dist:tau=1 {row.id}" if log_dir else "a -> b dist:tau=1"
    read = accumulators.EventAccumulator(str((folder or tmp_path / "tensorboard") / name))
    read.Reload()
    assert [(point.step, point.value) for point in read.Scalars("loss/dist")] == [(s, 20.0 - s) for s in STEPS]
    assert [(point.step, point.value) for point in read.Scalars("val/ap")] == [(20, 30.0)]
    assert row.cost is not None
    assert [point.value for point in read.Scalars("cost/params")] == [row.cost.params]
    assert {"run/text_summary", "row/text_summary"} <= set(read.Tags()["tensors"])
    assert log_dir or list((tmp_path / row.id / "tensorboard").glob("events.out.tfevents.*"))


def test_mlflow_files_are_read_back(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    log_interrupted_run(trackers.tracker_class("mlflow"), row, tmp_path)
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("kdbench").experiment_id])
    points = client.get_metric_history(run.info.run_id, "loss/dist")
    assert [(point.step, point.value) for point in points] == [(step, 20.0 - step) for step in STEPS]
    assert (run.info.run_name, run.info.status) == ("a -> b dist:tau=1", "FINISHED")
    assert run.data.params["seed"] == str(row.run.seed) and len(run.data.params) == len(hyper_parameters(row.run))
    assert row.cost is not None
    assert run.data.metrics["cost/params"] == row.cost.params
    assert run.data.tags["run"] == row.id


def test_mlflow_ends_the_run_of_a_killed_process(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for _ in range(2):
        trackers.tracker_class("mlflow")().start(row.run, Settings("a", tmp_path / row.id, tmp_path))
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    found = client.search_runs(
        [client.get_experiment_by_name("kdbench").experiment_id], order_by=["attributes.start_time"]
    )
    assert sorted(run.info.status for run in found) == ["KILLED", "RUNNING"]


def wandb_histories(folder: Path) -> list[dict[str, str]]:
    """The records of all offline files, oldest first."""
    datastore = pytest.importorskip("wandb.sdk.internal.datastore")
    protocol = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    found: list[dict[str, str]] = []
    for file in sorted(folder.rglob("*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        store = datastore.DataStore()
        store.open_for_scan(str(file))
        while (data := store.scan_data()) is not None:
            record = protocol.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                found.append({"/".join(item.nested_key): item.value_json for item in record.history.item})
    return found


def test_offline_files_of_wandb_are_read_back(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_interrupted_run(trackers.tracker_class("wandb"), row, tmp_path)
    history = wandb_histories(tmp_path / row.id)
    assert [(int(each["_step"]), float(each["loss/dist"])) for each in history] == [(s, 20.0 - s) for s in STEPS]
    assert float(history[-1]["val/ap"]) == 30.0
    assert len({folder.name.rsplit("-", 1)[1] for folder in tmp_path.rglob("offline-run-*")}) == 1  # one id


def test_wandb_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(SpecError, match="WANDB_MODE=offline"):
        trackers.tracker_class("wandb")


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_library_is_one_error_that_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SpecError, match=rf"pip install 'kdbench\[{name}\]'"):
        trackers.check_trackers((name,), None)


MINE = """
from kdbench.trackers.base import Tracker


class Mine(Tracker):
    def start(self, run, settings): ...
    def step(self, step, values): ...
    def epoch(self, step, metrics): ...
    def finish(self, row): ...
"""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (MINE, "Mine does not define close"),
        ("x = 1", "defines 0 subclasses of kdbench.trackers.base.Tracker"),
        ("import nothing_of_this_name", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_file_without_a_complete_tracker_is_refused(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(SpecError, match=words):
        trackers.tracker_class(str(tmp_path / "mine.py"))


def test_a_file_of_ones_own_is_a_tracker(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE + "    def close(self): ...\n")
    assert trackers.tracker_class(str(tmp_path / "mine.py")).__name__ == "Mine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trackers": "tensorbord"}, "Did you mean 'tensorboard'"),
        ({"trackers": "./none.py"}, "none.py: no such file"),
        ({"log_dir": Path("logs")}, "--log-dir logs is for the files of trackers"),
    ],
)
def test_what_no_tracker_is_named_by_is_refused(options: dict[str, Any], words: str) -> None:
    request = RunRequest.parse(**options)
    with pytest.raises(SpecError, match=words):
        trackers.check_trackers(request.trackers, request.log_dir)
