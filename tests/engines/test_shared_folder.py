"""Results folders that several commands work on, that are damaged or read-only, and devices that fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kdbench.engines import driver as module
from kdbench.engines import local as local_module
from kdbench.engines.driver import Driver
from kdbench.engines.local import LocalEngine
from kdbench.errors import SpecError
from kdbench.grid.plan import Plan
from kdbench.launch.devices import usable
from kdbench.launch.schedule import make_schedule, threads_of
from kdbench.records.leases import Holder, Leases
from kdbench.records.row import Row
from kdbench.records.stale import is_stale
from tests.helpers.engines import Parts, execute, interpreter, local


def finished_by_other(engine: Driver, leases: Leases, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the engine waits, the other command ends with this row."""
    monkeypatch.setattr(module, "POLL", 0.01)
    holder, looked = Leases.holder, []

    def look(self: Leases, run_id: str) -> Holder | None:
        looked.append(run_id)
        if len(looked) == 3:
            engine.store.write(row)
            leases.release([row.id])
        return holder(self, run_id)

    monkeypatch.setattr(Leases, "holder", look)


@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_run_of_another_command_is_waited_for_and_not_trained_again(
    status: str, plan: Plan, rows: list[Row], engine: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:  # fmt: skip
    teacher = rows[0]
    changes = {} if status == "done" else {"status": status, "metrics": None, "reason": "of theirs"}
    other = Leases(engine.settings.results)
    assert other.take(teacher.id) is None
    finished_by_other(engine, other, teacher.model_copy(update=changes), monkeypatch)
    interpreter(tmp_path, monkeypatch, f'cat "$3" >> {tmp_path}/jobs; exit 7')
    found = execute(engine, plan)
    assert [row.status for row in found] == [status, "failed", "failed" if status == "done" else "skipped"]
    jobs = (tmp_path / "jobs").read_text()
    assert '"runs": [\n  {\n   "version"' in jobs and "retinanet_mini_teacher none seed 0" in capsys.readouterr().out
    assert not [*engine.settings.results.glob("*/lease.*")]


def test_a_finished_grid_in_a_read_only_folder_is_all_done(
    plan: Plan,
    rows: list[Row],
    engine: Driver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for row in rows:
        engine.store.write(row)

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("mkdir", "replace", "unlink"):
        monkeypatch.setattr(os, name, read_only)
    assert [row.status for row in execute(engine, plan)] == ["done"] * 3


def test_a_damaged_row_is_set_aside_and_its_run_done_again(
    plan: Plan,
    rows: list[Row],
    engine: Driver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    for row in rows:
        path = engine.store.write(row)
    path.write_bytes(path.read_bytes()[:-50])
    made = make_schedule(plan, engine.store, Parts(), threads_of(plan, ["cpu"]))
    assert [file.path for file in made.damaged] == [path] and len(made.finished) == 2
    interpreter(tmp_path, monkeypatch, "exit 7")
    assert [row.status for row in execute(engine, plan)] == ["done", "done", "failed"]
    assert path.with_name("row.damaged.json").exists()
    assert "it was set aside as row.damaged.json" in capsys.readouterr().out


def test_what_a_kill_after_the_row_left_over_is_deleted(plan: Plan, rows: list[Row], engine: Driver) -> None:
    for row in rows:
        engine.store.write(row)
    folder = engine.store.folder(rows[0].id)
    (folder / "checkpoint.pt").write_bytes(b"of a run that was killed between its row and this file")
    script = "import sys, pathlib; from kdbench.records.leases import Leases; "
    script += "Leases(pathlib.Path(sys.argv[1])).take(sys.argv[2])"
    subprocess.run([sys.executable, "-c", script, str(folder.parent), folder.name], check=True)
    assert (folder / "lease.1").exists()
    execute(engine, plan)
    assert [path.name for path in folder.iterdir()] == ["row.json"]


def test_the_lease_of_a_living_process_stays(plan: Plan, rows: list[Row], engine: Driver) -> None:
    for row in rows:
        engine.store.write(row)
    Leases(engine.store.root).take(rows[0].id)
    execute(engine, plan)
    assert (engine.store.folder(rows[0].id) / "lease.1").exists()


def test_a_changed_method_makes_its_rows_stale_and_they_are_done_again(
    plan: Plan,
    rows: list[Row],
    engine: Driver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kdbench import methods

    teacher, none, dist = rows
    engine.store.write(teacher.model_copy(update={"code": methods.code("none")}))
    engine.store.write(none)  # of an earlier version, which did not keep the code
    engine.store.write(dist.model_copy(update={"code": "0" * 16}))
    made = make_schedule(plan, engine.store, Parts(), threads_of(plan, ["cpu"]))
    assert [row.id for row in made.stale] == [dist.id] and set(made.finished) == {teacher.id, none.id}
    assert [run.id for job in made.jobs for run in job.runs] == [dist.id]
    kept = make_schedule(plan, engine.store, Parts(), threads_of(plan, ["cpu"]), keep_stale=True)
    assert not kept.jobs and not kept.stale and len(kept.finished) == 3
    interpreter(tmp_path, monkeypatch, "exit 7")
    assert [row.status for row in execute(engine, plan)] == ["done", "done", "failed"]


def test_a_stale_row_stays_until_its_run_has_another(
    plan: Plan,
    rows: list[Row],
    engine: Driver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for row in rows:
        engine.store.write(row)
    engine.store.write(rows[2].model_copy(update={"code": "0" * 16}))
    interpreter(tmp_path, monkeypatch, "exec sleep 60")
    poll = LocalEngine.poll

    def stop(self: LocalEngine, seconds: float) -> Any:
        monkeypatch.setattr(LocalEngine, "poll", poll)
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalEngine, "poll", stop)
    with pytest.raises(KeyboardInterrupt):
        execute(engine, plan)
    row = engine.store.row(rows[2].id)
    assert row is not None and row.status == "done" and is_stale(row)


def test_a_device_that_fails_is_set_aside_and_its_runs_are_tried_on_another(
    plan: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    script = f'grep -q cuda "$3" && exit 7; cat "$3" >> {tmp_path}/cpu; exit 8'
    interpreter(tmp_path, monkeypatch, script)
    monkeypatch.setattr(local_module, "probe_now", lambda device: local_probe(device))
    engine = local(tmp_path / "runs", ["cuda:0", "cpu"])
    teacher, none, dist = execute(engine, plan)
    assert "code 8" in teacher.reason and "code 8" in none.reason and dist.status == "skipped"
    printed = capsys.readouterr().out
    assert printed.count("cuda:0 cannot be used any more and is set aside: it fell off the bus") == 1


def local_probe(device: str) -> Any:
    from kdbench.engines.probe import Probed

    return Probed("it fell off the bus" if device == "cuda:0" else "")


def test_without_any_device_left_every_run_says_so(
    plan: Plan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interpreter(tmp_path, monkeypatch, "exit 7")
    monkeypatch.setattr(local_module, "probe_now", local_probe)
    engine = local(tmp_path / "runs", ["cuda:0"])
    statuses = {row.run.id: row.reason for row in execute(engine, plan)}
    assert len(statuses) == 3
    assert any("no device is left (cuda:0: it fell off the bus)" in reason for reason in statuses.values())


def test_a_gpu_that_is_not_there_is_refused_with_its_reason_in_a_process_of_its_own() -> None:
    with pytest.raises(SpecError, match="--device cuda:9: .*available: cpu"):
        usable(("cuda:9",))
    with pytest.raises(SpecError, match="--device gpu: .*available: cpu"):
        usable(("gpu",))


@pytest.mark.parametrize("seconds", [30.0, 0.3])
def test_a_job_saves_and_ends_with_the_command_that_started_it(seconds: float, tmp_path: Path) -> None:
    """Also where saving takes too long."""
    job = (
        "import pathlib, time\n"
        "from kdbench.train import job\n"
        "from kdbench.train.interruption import Interrupted, interruption\n"
        f"job.ORPHAN_SECONDS = {seconds}\n"
        "job.end_with_parent(save=True)\n"
        "interruption.listen()\n"
        "try:\n"
        "    print(1, flush=True)\n"
        "    time.sleep(99)\n"
        "except Interrupted:\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'saves').touch()\n"
        f"    time.sleep({0 if seconds > 1 else 99})\n"
    )
    script = (
        "import subprocess, sys, time\n"
        f"command = [sys.executable, '-c', {job!r}]\n"
        "child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(99)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    end = time.monotonic() + 30
    while _runs(child):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (tmp_path / "saves").exists()
    parent.stdout.close()


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
