"""The simulated cluster behaves as Slurm does where the engine depends on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.slurm import Cluster, wait_for

pytestmark = pytest.mark.integration

LOG = 'log() { echo "$(hostname) restart=${SLURM_RESTART_COUNT:-0} $*"; }; log start\n'
STUBBORN = LOG + "trap 'log TERM' TERM\nwhile true; do sleep 0.1; done"  # ends by SIGKILL only
EVERY_RESTART_ENDS = LOG + '[ "$SLURM_RESTART_COUNT" ] && exit 0\nwhile true; do sleep 0.1; done'

OWNER = """
import sys, time
from pathlib import Path
from tests.helpers.slurm import Cluster

cluster = Cluster(Path(sys.argv[1]))
cluster.start()
for node in cluster.nodes:
    cluster.submit("echo $$; exec sleep 98765", "-w", node)
while not all(cluster.output(job["id"]) for job in cluster.jobs()):
    time.sleep(0.1)
print("running", flush=True)
time.sleep(600)
"""


def started(cluster: Cluster, job: str) -> None:
    """Wait until the job's script has written something."""
    wait_for(lambda: cluster.output(job))


def processes_of(folder: Path) -> list[str]:
    """Commands of all processes whose environment names the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().decode())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile, or is another user's
    return found


def test_jobs_run_on_each_node_under_its_host_name(cluster: Cluster) -> None:
    assert cluster.node_states() == {"node1": "idle", "node2": "idle"}
    assert cluster.run("srun", "-w", "node2", "hostname") == "node2"
    job = cluster.submit('srun hostname; echo "gpu $CUDA_VISIBLE_DEVICES"', "-w", "node1", "--gres=gpu:1")
    done = cluster.wait_for_state(job, "COMPLETED")
    assert (done["ExitCode"], done["NodeList"], done["Restarts"]) == ("0:0", "node1", "0")
    assert cluster.output(job).split() == ["node1", "gpu", "0"]


def test_two_jobs_of_two_cpus_fill_both_nodes_and_a_third_waits(cluster: Cluster) -> None:
    first, second, third = (cluster.submit(STUBBORN, "--cpus-per-task=2") for _ in range(3))
    wait_for(lambda: [job["state"] for job in cluster.jobs()].count("RUNNING") == 2)
    wait_for(lambda: {job["id"]: job for job in cluster.jobs()}[third]["reason"] in ("Resources", "Priority"))
    jobs = {job["id"]: job for job in cluster.jobs()}
    assert {jobs[first]["node"], jobs[second]["node"]} == set(cluster.nodes)
    assert jobs[third]["state"] == "PENDING"


def test_exit_codes_and_signals_of_scripts_are_told_apart(cluster: Cluster) -> None:
    failing, killed = cluster.submit("exit 3"), cluster.submit("kill -KILL $$")
    shown = [cluster.wait_for_state(job, "FAILED") for job in (failing, killed)]
    assert [job["ExitCode"] for job in shown] == ["3:0", "0:9"]
    assert [job["Reason"] for job in shown] == ["NonZeroExitCode", "JobLaunchFailure"]


def test_a_job_of_a_killed_node_is_requeued_and_runs_on_the_other_node(cluster: Cluster) -> None:
    job = cluster.submit(EVERY_RESTART_ENDS, "--nodelist=node1", "--requeue")
    once = cluster.submit(STUBBORN, "--nodelist=node1", "--no-requeue")
    started(cluster, job)
    started(cluster, once)
    cluster.kill_node("node1")
    assert cluster.wait_for_state(once, "NODE_FAIL")["Reason"] == "NodeDown"
    cluster.wait_for_state(job, "PENDING")
    cluster.start_now(job)
    done = cluster.wait_for_state(job, "COMPLETED")
    assert (done["NodeList"], done["Restarts"]) == ("node2", "1")
    assert cluster.output(job).splitlines() == ["node1 restart=0 start", "node2 restart=1 start"]
    assert cluster.node_states()["node1"] == "down*"
    cluster.start_node("node1")
    wait_for(lambda: cluster.node_states()["node1"] == "idle")


def test_the_time_limit_sends_sigterm_and_then_sigkill(cluster: Cluster) -> None:
    job = cluster.submit(STUBBORN, "--time=0:05")
    started(cluster, job)
    assert cluster.job(job)["TimeLimit"] == "00:01:00"  # rounded up to whole minutes
    cluster.exceed_time_limit(job)
    ended = cluster.wait_for_state(job, "TIMEOUT")
    assert (ended["Reason"], ended["ExitCode"]) == ("TimeLimit", "0:9")
    assert "restart=0 TERM" in cluster.output(job) and "DUE TO TIME LIMIT" in cluster.output(job)


def test_a_cancelled_job_gets_sigterm_and_then_sigkill(cluster: Cluster) -> None:
    job = cluster.submit(STUBBORN)
    started(cluster, job)
    cluster.run("scancel", job)
    assert cluster.wait_for_state(job, "CANCELLED")["ExitCode"] == "0:9"
    assert "restart=0 TERM" in cluster.output(job)


def test_a_preempted_job_is_requeued_unless_it_refuses(cluster: Cluster) -> None:
    whole = ("--exclusive", "--partition=low")
    again = cluster.submit(EVERY_RESTART_ENDS, *whole, "--nodelist=node1")
    once = cluster.submit(STUBBORN, *whole, "--nodelist=node2", "--no-requeue")
    started(cluster, again)
    started(cluster, once)
    urgent = [cluster.submit("true", "--exclusive", "--partition=high", f"--nodelist={node}") for node in cluster.nodes]
    for job in urgent:
        cluster.wait_for_state(job, "COMPLETED")
    assert cluster.wait_for_state(once, "PREEMPTED")["Restarts"] == "0"
    assert cluster.wait_for_state(again, "PENDING")["Reason"] in ("None", "BeginTime")
    cluster.start_now(again)
    assert cluster.wait_for_state(again, "COMPLETED")["Restarts"] == "1"
    for job in (again, once):
        assert "DUE TO PREEMPTION" in cluster.output(job)


def test_commands_fail_without_the_controller_until_it_is_back(cluster: Cluster) -> None:
    cluster.kill_controller()
    with pytest.raises(AssertionError, match="Unable to contact slurm controller"):
        cluster.jobs()
    cluster.start_controller()
    wait_for(lambda: cluster.node_states() == {"node1": "idle", "node2": "idle"})
    assert cluster.run("srun", "hostname") in cluster.nodes


def test_killing_the_owner_of_a_cluster_leaves_no_process(cluster: Cluster, tmp_path: Path) -> None:
    script, folder = tmp_path / "owner.py", cluster.folder / "other"
    script.write_text(OWNER)
    folder.mkdir()
    environment = cluster.environment | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, str(script), str(folder)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    try:
        assert owner.stdout is not None and owner.stdout.readline() == b"running\n"
        assert any("98765" in process for process in processes_of(folder))
    finally:
        owner.kill()
        owner.communicate()
    wait_for(lambda: not processes_of(folder))
