"""Leases: one holder a run, whatever other processes, hosts and kills do."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kdbench.errors import StoreError
from kdbench.records import leases as module
from kdbench.records.atomic import write_atomically
from kdbench.records.leases import Holder, Leases, writing_for


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path)


def as_other_host(path: Path) -> None:
    """Rewrite a lease as if another machine held it."""
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "node7", "scope": "another", "process": 4711}))


def taken_at_once(competitors: list[Leases], run: str) -> list[Holder | None]:
    """What each gets that tries to take the lease of a run at the same time."""
    barrier = threading.Barrier(len(competitors))

    def take(leases: Leases) -> Holder | None:
        barrier.wait()
        return leases.take(run)

    with ThreadPoolExecutor(len(competitors)) as pool:
        return list(pool.map(take, competitors))


def test_a_run_has_one_holder_who_is_named(leases: Leases, tmp_path: Path) -> None:
    assert leases.take("a") is None and leases.take("b") is None
    holder = Leases(tmp_path).take("a")
    assert holder == leases.me and str(holder) == f"process {leases.me.process} on {leases.me.host}"
    leases.release(["a"])
    assert Leases(tmp_path).take("a") is None
    assert not list((tmp_path / "a").glob("lease.2"))


def test_of_many_that_start_at_once_one_gets_the_lease(tmp_path: Path) -> None:
    for number in range(20):
        assert taken_at_once([Leases(tmp_path) for _ in range(8)], str(number)).count(None) == 1


def test_of_many_that_take_over_at_once_one_gets_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_is_stale(path: Path, _content: bytes | None) -> bool:
        return path.name == "lease.1"

    for number in range(20):
        run = str(number)
        Leases(tmp_path).take(run)
        as_other_host(tmp_path / run / "lease.1")
        competitors = [Leases(tmp_path) for _ in range(8)]
        for each in competitors:
            monkeypatch.setattr(each, "_is_stale", first_is_stale)
        assert taken_at_once(competitors, run).count(None) == 1
        assert [path.name for path in (tmp_path / run).iterdir()] == ["lease.2"]


def test_the_lease_of_a_killed_process_is_free_at_once(leases: Leases, tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from kdbench.records.leases import Leases; Leases(pathlib.Path(sys.argv[1])).take('a')"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    (tmp_path / "a" / ".checkpoint.pt.x1y2").write_bytes(b"half")
    assert (tmp_path / "a" / "lease.1").exists()
    assert leases.take("a") is None
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["lease.2"]


def test_a_lease_of_another_host_is_taken_over_once_it_does_not_change(
    leases: Leases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Leases(tmp_path).take("a")
    path, now = tmp_path / "a" / "lease.1", [1000.0]
    as_other_host(path)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    holder = leases.take("a")
    assert str(holder) == "process 4711 on node7"
    now[0] += module.STALE - 1
    assert leases.take("a") == holder
    path.write_bytes(path.read_bytes().replace(b"000000000000", b"000000000001"))  # it is alive
    now[0] += module.STALE - 1
    assert leases.take("a") == holder
    now[0] += module.STALE + 1
    assert leases.take("a") is None


def test_a_half_written_lease_is_another_process_until_it_is_old(
    leases: Leases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "lease.1").touch()
    assert str(leases.take("a")) == "another process"
    begin = module.time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: begin + 2 * module.STALE)
    assert leases.take("a") is None


def test_a_holder_that_slept_too_long_is_told_and_leaves_the_lease_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 0.02)
    lost, told = [], threading.Event()
    with Leases(tmp_path, lambda run: (lost.append(run), told.set())) as sleeper:  # type: ignore[func-returns-value]
        sleeper.take("a")
        sleeper.take("b")
        first = tmp_path / "a" / "lease.1"
        (tmp_path / "a" / "lease.2").write_bytes(first.read_bytes().replace(sleeper.nonce.encode(), b"of another"))
        assert told.wait(20)
    assert lost == ["a"] and (tmp_path / "a" / "lease.2").exists()
    assert not list((tmp_path / "b").iterdir())


def test_a_holder_shows_that_it_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT", 0.02)
    with Leases(tmp_path) as leases:
        leases.take("a")
        path, end = tmp_path / "a" / "lease.1", module.time.monotonic() + 20
        before = path.read_bytes()
        while path.read_bytes() == before:
            assert module.time.monotonic() < end
        assert len(path.read_bytes()) == len(before)


def test_a_folder_that_cannot_be_written_is_named(leases: Leases, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("in the way")
    with pytest.raises(StoreError, match=rf"^cannot write {tmp_path}/a: .*--results"):
        leases.take("a")


def test_a_lease_that_another_process_found_stale_is_taken_over_at_once(leases: Leases, tmp_path: Path) -> None:
    leases.take("a")
    path = tmp_path / "a" / "lease.1"
    as_other_host(path)
    watching = Leases(tmp_path)
    assert watching.stale_lease("a") == "" and watching.holder("a") is not None
    watching._seen[path] = path.read_bytes(), time.monotonic() - 2 * module.STALE
    told = {"a": watching.stale_lease("a")}
    assert Leases(tmp_path).take("a") is not None
    assert Leases(tmp_path, stale={"a": told["a"] + "another"}).take("a") is not None
    assert Leases(tmp_path, stale=told).take("a") is None


def test_a_job_that_slurm_starts_again_takes_over_from_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys, pathlib; from kdbench.records.leases import Leases; Leases(pathlib.Path(sys.argv[1])).take('a')"
    )
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    path = tmp_path / "a" / "lease.1"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "node7"}))
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert str(Leases(tmp_path).holder("a")).endswith("on node7")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert Leases(tmp_path).holder("a") is None


def test_processes_of_one_slurm_job_on_several_nodes_do_not_take_over_from_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `srun -N 2 kdbench run` starts them: another node's process number says nothing here."""
    script = (
        "import sys, pathlib; from kdbench.records.leases import Leases; Leases(pathlib.Path(sys.argv[1])).take('a')"
    )
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert Leases(tmp_path).holder("a") is None  # it was on this machine, and has ended
    path = tmp_path / "a" / "lease.1"
    monkeypatch.setattr(module.platform, "node", lambda: "node7")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "node7", "scope": Leases(tmp_path).me.scope}))
    monkeypatch.undo()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    assert str(Leases(tmp_path).take("a")).endswith("on node7")


def test_a_holder_that_slept_does_not_take_a_later_lease_of_the_same_number_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it slept, another process took over and ended, and a third began with the first number again."""
    lost: list[str] = []
    sleeper, third = Leases(tmp_path, lost.append), Leases(tmp_path)
    assert sleeper.take("a") is None
    (tmp_path / "a" / "lease.1").unlink()
    assert third.take("a") is None
    before = (tmp_path / "a" / "lease.1").read_bytes()
    monkeypatch.setattr(module, "HEARTBEAT", 0.01)
    with sleeper:
        deadline = time.monotonic() + 20
        while not lost:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert lost == ["a"] and (tmp_path / "a" / "lease.1").read_bytes() == before


def test_a_holder_that_was_stopped_writes_nothing_of_a_run_that_others_have_taken_over(tmp_path: Path) -> None:
    """As of a process that is continued after minutes: it is about to write before its next heartbeat."""
    lost: list[str] = []
    mine, theirs = tmp_path / "a" / "row.json", tmp_path / "b" / "row.json"
    with Leases(tmp_path, lost.append) as sleeper:
        assert sleeper.take("a") is None and sleeper.take("b") is None
        write_atomically(mine, b"mine")
        (tmp_path / "b" / "lease.2").write_bytes(b"of another process")
        write_atomically(tmp_path / "c" / "row.json", b"of a run that was never held")
        with pytest.raises(StoreError, match="another process has taken over"):
            write_atomically(theirs, b"mine")
        write_atomically(mine, b"mine, again")
    assert lost == ["b"] and not theirs.exists() and mine.read_bytes() == b"mine, again"
    write_atomically(theirs, b"of another process")


def test_what_is_written_shows_that_the_holder_is_alive(tmp_path: Path) -> None:
    """No other process takes over while a row is written, for whatever time its holder was stopped before."""
    with Leases(tmp_path) as leases:
        leases.take("a")
        before = (tmp_path / "a" / "lease.1").read_bytes()
        write_atomically(tmp_path / "a" / "row.json", b"")
        assert (tmp_path / "a" / "lease.1").read_bytes() != before


def test_a_process_that_trains_for_another_writes_only_while_that_holds_the_lease(tmp_path: Path) -> None:
    with Leases(tmp_path) as leases:
        assert leases.take("a") is None
        with writing_for(tmp_path, leases.nonce):
            write_atomically(tmp_path / "a" / "row.json", b"{}")
            write_atomically(tmp_path / "elsewhere.json", b"{}")
            leases.release(["a"])
            with Leases(tmp_path) as others:
                assert others.take("a") is None
                with pytest.raises(StoreError, match="another process has taken over"):
                    write_atomically(tmp_path / "a" / "row.json", b"{'of': 'the first'}")
    assert (tmp_path / "a" / "row.json").read_bytes() == b"{}"
