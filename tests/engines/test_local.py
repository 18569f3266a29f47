"""The local engine: what becomes of runs whose process dies, hangs or never starts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdbench.engines import local as module
from kdbench.engines import memory_kills
from kdbench.engines.base import End, Engine, Handle, PlannedJob, Resources
from kdbench.engines.driver import Driver
from kdbench.engines.job_files import JobFiles
from kdbench.engines.local import LocalEngine
from kdbench.engines.order import next_job
from kdbench.errors import EngineError, StoreError
from kdbench.grid.plan import Plan
from kdbench.launch import schedule
from kdbench.launch.schedule import threads_of
from kdbench.records.row import Row
from kdbench.spec.run import Run
from kdbench.tasks.loading import cores
from kdbench.train.events import Event
from kdbench.train.job import Job
from tests.helpers.engines import execute, interpreter, local


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        ("kill -9 $$", "killed", "resumes it from its checkpoint"),
        ("kill -15 $$", "cancelled", "asked to stop"),
        ("kill -11 $$", "failed", "SIGSEGV"),
        ("exit 7", "failed", "code 7"),
        ('echo \'{"event": "error", "status": "failed", "reason": "teacher is off its record"}\' > "$4"; exit 1',
         "failed", "off its record"),
    ],
)  # fmt: skip
def test_a_job_that_dies_leaves_a_row_for_every_run_and_skips_its_students(
    script: str, status: str, words: str, engine: Driver, plan: Plan, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    interpreter(tmp_path, monkeypatch, script)
    monkeypatch.setattr(module, "memory_kills", lambda: 5)
    teacher, none, dist = execute(engine, plan)
    assert (teacher.status, none.status) == (status, status)
    assert words in teacher.reason
    assert dist.status == "skipped"
    assert "its teacher retinanet_mini_teacher ended as" in dist.reason


@pytest.mark.parametrize(
    ("kills", "status", "words"),
    [
        ((5, 6), "out-of-memory", "--cohort 1"),
        ((5, 5), "killed", "not for memory"),
        ((None, None), "killed", "most often"),
    ],
)
def test_a_kill_for_memory_is_told_from_others_by_the_kernels_count(
    kills: tuple[int | None, int | None], status: str, words: str, plan: Plan, engine: Driver, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    interpreter(tmp_path, monkeypatch, "kill -9 $$")
    counts = iter(kills)
    monkeypatch.setattr(module, "memory_kills", lambda: next(counts))
    (row,) = execute(engine, Plan((((plan.runs[0],),),), ()))
    assert row.status == status and words in row.reason


def test_kills_for_memory_are_read_from_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VMSTAT", "CGROUP", "OWN"):
        monkeypatch.setattr(memory_kills, name, tmp_path / name)
    assert memory_kills.memory_kills() is None
    (tmp_path / "VMSTAT").write_text("nr_free_pages 12\noom_kill 3\n")
    assert memory_kills.memory_kills() == 3
    (tmp_path / "OWN").write_text("0::/user.slice\n")
    (tmp_path / "CGROUP" / "user.slice").mkdir(parents=True)
    (tmp_path / "CGROUP" / "user.slice" / "memory.events").write_text("oom 9\noom_kill 2\noom_group_kill 0\n")
    assert memory_kills.memory_kills() == 5


def test_a_job_that_hangs_ends_as_timeout(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Driver
) -> None:
    interpreter(tmp_path, monkeypatch, "exec sleep 60")
    assert isinstance(engine.engine, LocalEngine)
    engine.engine.timeout = 0.3
    teacher, none, dist = execute(engine, plan)
    assert (teacher.status, none.status, dist.status) == ("timeout", "timeout", "skipped")
    assert "resumes it from its checkpoint" in teacher.reason


def test_finished_runs_are_not_started_again_and_failed_ones_are(
    plan: Plan, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Driver
) -> None:
    teacher, none, dist = rows
    engine.store.write(teacher)
    engine.store.write(none.model_copy(update={"status": "diverged", "metrics": None, "reason": "loss is nan"}))
    engine.store.write(dist.model_copy(update={"status": "failed", "metrics": None, "reason": "of yesterday"}))
    interpreter(tmp_path, monkeypatch, f'cat "$3" >> {tmp_path}/jobs; exit 7')
    found = execute(engine, plan)
    assert [row.status for row in found] == ["done", "diverged", "failed"]
    assert found[2].reason != "of yesterday"
    job = Job.model_validate_json((tmp_path / "jobs").read_bytes())
    assert [run.id for run in job.runs] == [dist.id]


def test_a_results_folder_that_cannot_be_written_is_refused_before_any_work(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter(tmp_path, monkeypatch, f"touch {tmp_path}/started")
    (tmp_path / "file").write_text("in the way")
    engine = local(tmp_path / "file" / "runs")
    with pytest.raises(StoreError, match="--results"):
        execute(engine, plan)
    assert not (tmp_path / "started").exists()


def test_a_file_in_place_of_a_row_is_never_deleted(plan: Plan, engine: Driver) -> None:
    file = engine.store.row_file(plan.runs[1].id)
    file.parent.mkdir(parents=True)
    file.write_text('{"schema_version": 99}')
    with pytest.raises(StoreError, match="move it away"):
        execute(engine, plan)
    assert file.read_text() == '{"schema_version": 99}'


def test_lines_that_are_no_events_go_to_the_log(
    plan: Plan, engine: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter(tmp_path, monkeypatch, 'echo libfoo: warning; echo \'{"event": "st\' > "$4"; exit 7')
    rows = execute(engine, plan)
    assert [row.status for row in rows] == ["failed", "failed", "skipped"]
    logs = "".join(file.read_text() for file in (engine.settings.results / "jobs").glob("*.log"))
    assert "libfoo: warning" in logs


def test_rows_that_cannot_be_written_do_not_stop_the_other_jobs(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Driver, capsys: Any
) -> None:
    interpreter(tmp_path, monkeypatch, "exit 7")

    def full(*_: object) -> None:
        raise StoreError("cannot write row.json: No space left on device; free some space")

    monkeypatch.setattr(engine.store, "write", full)
    assert execute(engine, plan) == []
    printed = capsys.readouterr().out
    assert printed.count("No space left on device") == 3


CPU = ["cpu"]


def job(*runs: Run, cohort: int = 0) -> PlannedJob:
    return PlannedJob(runs, cohort, threads=1)


def test_a_job_waits_until_its_teachers_run_has_ended(plan: Plan) -> None:
    teacher, none, dist = plan.runs
    students, teachers, alone = job(none, dist, cohort=1), job(teacher), job(none, cohort=2)
    assert next_job([students, teachers], [], [], CPU) is teachers
    assert next_job([students], [teachers], [], CPU) is None
    assert next_job([students], [], [teachers], CPU) is None
    assert next_job([students, alone], [teachers], [], CPU) is alone
    assert next_job([students], [], [], CPU) is students  # the teacher is done or failed
    given = job(dist.model_copy(update={"teacher": None}), cohort=1)
    assert next_job([given], [teachers], [], CPU) is given


def test_the_job_that_most_runs_wait_for_comes_first(plan: Plan) -> None:
    teacher, none, dist = plan.runs
    other = teacher.model_copy(update={"student": "fcos_mini_teacher"})
    few = job(dist.model_copy(update={"teacher": other}))
    many = job(*(dist.model_copy(update={"seed": seed}) for seed in (1, 2)))
    first, second, alone = job(teacher), job(other), job(none)
    assert next_job([second, few, alone, first, many], [], [], CPU) is first
    assert next_job([few, many, second, alone], [], [], CPU) is many
    assert next_job([alone, second, few], [], [], CPU) is second


class Counting(Engine):
    """Notes how many jobs run at a time; each ends after a few polls, with a failure."""

    def __init__(self, slots: list[str]) -> None:
        self.slots = slots
        self.running: list[Handle] = []
        self.at_a_time: list[int] = []
        self.given: list[tuple[list[str], Resources]] = []

    def submit(self, job: Job, resources: Resources) -> Handle:
        self.given.append(([run.student for run in job.runs], resources))
        self.running.append(str(len(self.given)))
        return self.running[-1]

    def poll(self, seconds: float) -> list[tuple[Handle, Event | End]]:
        self.at_a_time.append(len(self.running))
        return [(self.running.pop(0), End("failed", "by the test"))]

    def cancel(self, handle: Handle) -> None:
        raise AssertionError(handle)


@pytest.mark.parametrize(("devices", "most"), [(["cpu", "cpu"], 1), (["cuda:0", "cuda:1"], 2)])
def test_parts_of_a_cohort_take_turns_on_a_cpu_alone(devices: list[str], most: int, plan: Plan, tmp_path: Path) -> None:
    """Each has the threads of the whole cohort, for rounding depends on their number."""
    runs = tuple(plan.runs[1].model_copy(update={"student": name}) for name in "abcd")
    driver = local(tmp_path / "runs", devices)
    driver.engine = engine = Counting(devices)
    assert [row.reason for row in execute(driver, Plan(((runs,),), ()), size=2)] == ["by the test"] * 4
    assert [students for students, _ in engine.given] == [["a", "b"], ["c", "d"]]
    assert {resources.threads for _, resources in engine.given} == {cores()}
    assert max(engine.at_a_time) == most


def test_jobs_run_side_by_side_on_every_place_of_a_device(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two processes ends well only if it sees the other while it waits."""
    teacher = plan.runs[0]
    runs = [teacher.model_copy(update={"seed": seed}) for seed in (1, 2)]
    script = (
        f"touch {tmp_path}/$$; for i in 1 2 3 4 5 6 7 8 9 10; do [ $(ls {tmp_path}/[0-9]* | wc -l) = 2 ] && exit 7; "
    )
    interpreter(tmp_path, monkeypatch, script + "sleep 0.5; done; exit 8")
    engine = local(tmp_path / "runs", ["cpu", "cpu"])
    rows = execute(engine, Plan((tuple((run,) for run in runs),), ()))
    assert ["code 7" in row.reason for row in rows] == [True, True]


def test_students_of_a_finished_teacher_do_not_wait_for_another_teacher(
    plan: Plan, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, none, dist = plan.runs
    slow = teacher.model_copy(update={"student": "fcos_mini_teacher"})
    interpreter(tmp_path, monkeypatch, f'grep -q fcos_mini "$3" && sleep 1; cat "$3" >> {tmp_path}/order; exit 7')
    engine = local(tmp_path / "runs", ["cpu", "cpu"])
    engine.store.write(rows[0])
    execute(engine, Plan((((slow,), (teacher,)), ((none, dist),)), ()))
    order = [*_jobs(tmp_path / "order")]
    assert order == [[none.id, dist.id], [slow.id]]


def _jobs(file: Path) -> Iterator[list[str]]:
    """Runs of every job in a file that jobs were written into, one after the other."""
    text, decoder = file.read_text(), json.JSONDecoder()
    while text:
        content, end = decoder.raw_decode(text)
        yield [run.id for run in Job.model_validate_json(json.dumps(content)).runs]
        text = text[end:].lstrip()


def test_a_run_that_is_both_a_teacher_and_a_table_cell_is_trained_once_and_its_students_follow(
    plan: Plan, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that teaches itself under one recipe: the teacher is the very run of the student alone."""
    _, none, dist = plan.runs
    selfmade = dist.model_copy(update={"teacher": none})
    interpreter(tmp_path, monkeypatch, f'cat "$3" >> {tmp_path}/order; exit 7')
    engine = local(tmp_path / "runs", ["cpu", "cpu"])
    found = execute(engine, Plan((((none,),), ((selfmade,),)), ()))
    assert [row.status for row in found if row.id == selfmade.id] == ["skipped"]
    assert [*_jobs(tmp_path / "order")] == [[none.id]]


@pytest.mark.parametrize(
    ("devices", "cores", "students", "threads"),
    [
        (["cpu"], 8, 1, (8, 8)),
        (["cpu"] * 4, 8, 2, (8, 4)),  # a lone teacher has all cores
        (["cpu"] * 4, 8, 9, (8, 2)),
        (["cpu"] * 3, 8, 9, (8, 2)),
        (["cpu"] * 4, 2, 9, (2, 1)),
        (["cuda:0", "cuda:0"], 8, 9, (8, 8)),
    ],
)
def test_jobs_of_a_stage_share_the_cores(
    devices: list[str], cores: int, students: int, threads: tuple[int, int], plan: Plan, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(schedule, "cores", lambda: cores)
    teacher, _, dist = plan.runs
    seeds = [dist.model_copy(update={"seed": i}) for i in range(students)]
    grid = Plan((((teacher,),), tuple((run,) for run in seeds)), ())
    found = threads_of(grid, devices)
    assert (found[teacher.id], {found[run.id] for run in seeds}) == (threads[0], {threads[1]})


def test_a_teacher_shares_the_cores_with_students_that_need_none(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "cores", lambda: 8)
    teacher, none, dist = plan.runs
    slots = ["cpu"] * 4
    assert threads_of(Plan((((teacher,),), ((none,), (dist,))), ()), slots)[teacher.id] == 4
    assert threads_of(Plan((((teacher,),), ((none, dist),)), ()), slots)[teacher.id] == 8  # they wait for it together


@pytest.mark.parametrize(("own", "expected"), [(None, "3"), ("5", "5")])
def test_a_job_is_told_its_threads_unless_the_user_has_set_them(
    own: str | None, expected: str, plan: Plan, engine: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    interpreter(tmp_path, monkeypatch, f"echo $OMP_NUM_THREADS > {tmp_path}/threads; exit 7")
    monkeypatch.setattr(schedule, "cores", lambda: 3)
    execute(engine, Plan((((plan.runs[0],),),), ()))
    assert (tmp_path / "threads").read_text().strip() == expected


@pytest.mark.parametrize(("own", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_a_job_do_not_occupy_cores_while_they_wait(
    own: str | None, expected: str, plan: Plan, engine: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if own:
        monkeypatch.setenv("OMP_WAIT_POLICY", own)
    interpreter(tmp_path, monkeypatch, f"echo $OMP_WAIT_POLICY > {tmp_path}/policy; exit 7")
    execute(engine, Plan((((plan.runs[0],),),), ()))
    assert (tmp_path / "policy").read_text().strip() == expected


def test_a_stopped_engine_stops_every_job_and_records_nothing(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, none, _ = plan.runs
    interpreter(tmp_path, monkeypatch, f"echo $$ >> {tmp_path}/pids; exec sleep 60")
    engine = local(tmp_path / "runs", ["cpu", "cpu"])

    def stop(*_: Any, **__: Any) -> None:
        monkeypatch.undo()
        while not (tmp_path / "pids").exists() or len((tmp_path / "pids").read_text().split()) < 2:
            time.sleep(0.02)
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalEngine, "poll", stop)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        execute(engine, Plan((((teacher,), (none,)),), ()))
    assert time.monotonic() - begin < 30
    for pid in (tmp_path / "pids").read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    assert [engine.store.row(run.id) for run in (teacher, none)] == [None, None]


@pytest.mark.parametrize("where", ["fork", "files"])
def test_what_goes_wrong_while_a_job_is_followed_is_its_end(
    where: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is not blamed for a machine that starts no process to try it."""

    def fails(*_: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    interpreter(tmp_path, monkeypatch, "exit 7")
    if where == "fork":
        monkeypatch.setattr(module, "probe_now", fails)
    else:
        monkeypatch.setattr(JobFiles, "new_events", fails)
    (row,) = execute(local(tmp_path / "runs", ["cuda:0"]), Plan((((plan.runs[0],),),), ()))
    assert row.status == "failed"
    assert ("code 7" if where == "fork" else "Resource temporarily unavailable") in row.reason


def test_a_machine_that_starts_no_process_is_one_error(
    plan: Plan, engine: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(module.subprocess, "Popen", fails)
    with pytest.raises(EngineError, match="Resource temporarily unavailable.*--jobs"):
        execute(engine, plan)
    assert not list(engine.settings.results.glob("jobs/*"))
