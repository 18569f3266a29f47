"""A Slurm cluster inside one machine: a controller and two nodes.

Each daemon runs as on a machine of its own (`namespaces`). Needs the programs of Debian's slurm-wlm.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tests.helpers import namespaces

T = TypeVar("T")

PROGRAMS = (
    *("munged", "slurmctld", "slurmd", "sinfo", "sbatch", "srun", "squeue", "scontrol", "scancel"),
    *namespaces.PROGRAMS,
)
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))  # of daemons
SECONDS = 120  # to wait at most; a few are enough on an idle machine
JOB_FIELDS = {"id": "%i", "name": "%j", "state": "%T", "reason": "%r", "node": "%N", "partition": "%P"}

SETTINGS = {
    "ClusterName": "test",
    "AuthType": "auth/munge",
    "CredType": "cred/munge",
    "MpiDefault": "none",
    "SwitchType": "switch/none",
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_CPU_Memory",
    "DefMemPerCPU": 1000,
    "AccountingStorageType": "accounting_storage/none",
    "JobAcctGatherType": "jobacct_gather/none",
    "JobCompType": "jobcomp/none",
    "SlurmdParameters": "config_overrides",  # believe NODE, not the hardware
    "ReturnToService": 2,
    "SlurmdTimeout": 3,  # seconds; a silent node is down after about 8
    "KillWait": 2,  # seconds from SIGTERM to SIGKILL
    "MessageTimeout": 5,
    "InactiveLimit": 0,
    "JobRequeue": 1,
    "PreemptType": "preempt/partition_prio",
    "PreemptMode": "REQUEUE",
    "GresTypes": "gpu",
    "SchedulerParameters": "bf_interval=1,sched_interval=2,sched_min_interval=0",
    "PropagateResourceLimits": "NONE",
    "SlurmdDebug": "info",
}
NODE = "CPUs=2 RealMemory=4000 Gres=gpu:1 State=UNKNOWN"
PARTITIONS = {
    "main": "Default=YES PriorityTier=1",
    "low": "PriorityTier=1",
    "high": "PriorityTier=2 PreemptMode=off",
}


class UnavailableError(Exception):
    """The cluster cannot run on this machine; the message says why."""


def wait_for(condition: Callable[[], T | None], seconds: float = SECONDS, every: float = 0.1) -> T:
    """The first true value that `condition` returns.

    Raises:
        TimeoutError: there was none within `seconds`; the message has the last value.
    """
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not true within {seconds} s; the last value was {value!r}")
        time.sleep(every)
    return value


class Cluster:
    """A cluster whose configuration, state and logs are all in `folder`.

    Args:
        folder: an empty folder; its path must leave room for a Unix socket's (107 bytes with the file's name).
        settings: options of slurm.conf, in addition to SETTINGS or in place of them.

    Attributes:
        environment: variables for a process that calls Slurm's commands.
    """

    nodes = ("node1", "node2")
    partitions = tuple(PARTITIONS)

    def __init__(self, folder: Path, settings: Mapping[str, object] | None = None) -> None:
        self.folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._config = folder / "slurm.conf"
        self._socket = folder / "munge.socket"
        self._settings = SETTINGS | dict(settings or {})
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
        self.environment = kept | {"SLURM_CONF": str(self._config), "PATH": PATH}

    def start(self) -> None:
        """Start everything and wait until both nodes are idle.

        Raises:
            UnavailableError: a program is missing or a daemon does not come up.
        """
        missing = [program for program in PROGRAMS if not shutil.which(program, path=PATH)]
        if missing:
            raise UnavailableError(f"no {', '.join(missing)} on this machine: install slurm-wlm and util-linux")
        self._configure()
        try:
            self._start_munge()
            self.start_controller()
            for node in self.nodes:
                self.start_node(node)
            wait_for(lambda: self._alive() and self.node_states() == dict.fromkeys(self.nodes, "idle"))
        except (TimeoutError, UnavailableError) as error:
            raise UnavailableError(f"the Slurm cluster does not come up: {error}\n{self.log()}") from error

    def stop(self) -> None:
        """Kill every process of the cluster and of its jobs."""
        for name in list(self._processes):
            self._kill(name)

    def start_node(self, name: str) -> None:
        (self.folder / f"spool.{name}").mkdir(exist_ok=True)
        self._start(name, name, "slurmd", "-D", "-N", name)

    def kill_node(self, name: str) -> None:
        """Kill everything that runs on the node, slurmd included, and wait until it is gone."""
        self._kill(name)

    def start_controller(self) -> None:
        self._start("controller", "controller", "slurmctld", "-D")

    def kill_controller(self) -> None:
        """Kill slurmctld: commands fail until it is started again, jobs run on. What it did not save yet is lost."""
        self._kill("controller")

    def run(self, *command: str | Path) -> str:
        """Run a command in the cluster's environment and return its output.

        Raises:
            AssertionError: it failed; the message has its output.
        """
        done = self._run(*command)
        assert done.returncode == 0, f"{command[0]} exits with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """Submit a shell script as a batch job that writes to <job ID>.out in the folder; returns the job's ID."""
        file = self.folder / f"script-{secrets.token_hex(4)}.sh"
        file.write_text(f"#!/bin/bash\n{script}\n")
        return self.run("sbatch", "--parsable", "--output=%j.out", "--open-mode=append", *options, file)

    def output(self, job: str) -> str:
        """The output so far of a job that was submitted with `submit`."""
        file = self.folder / f"{job}.out"
        return file.read_text() if file.exists() else ""

    def jobs(self) -> list[dict[str, str]]:
        """The jobs that squeue lists, finished ones included, with the fields of JOB_FIELDS."""
        listed = self.run("squeue", "--noheader", "--states=all", "--format=" + "|".join(JOB_FIELDS.values()))
        return [dict(zip(JOB_FIELDS, line.split("|"), strict=True)) for line in listed.splitlines()]

    def job(self, job: str) -> dict[str, str]:
        """The fields of `scontrol show job`: JobState, Reason, ExitCode, Restarts, NodeList, ..."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.run("scontrol", "--oneliner", "show", "job", job)))

    def wait_for_state(self, job: str, *states: str, seconds: float = SECONDS) -> dict[str, str]:
        """Wait until the job's JobState is one of `states` and return its fields."""

        def arrived() -> dict[str, str] | None:
            shown = self.job(job)
            return shown if shown["JobState"] in states else None

        try:
            return wait_for(arrived, seconds)
        except TimeoutError:
            message = f"job {job} does not become {' or '.join(states)}: {self.job(job)}\n{self.log()}"
            raise AssertionError(message) from None

    def start_now(self, job: str) -> None:
        """Start a requeued job on any node: Slurm holds it back for two minutes (reason BeginTime)."""
        self.run("scontrol", "update", f"JobId={job}", "ReqNodeList=", "StartTime=now")

    def exceed_time_limit(self, job: str) -> None:
        """Move the end of a running job's time limit to now: limits are whole minutes, checked every 30 seconds."""
        self.run("scontrol", "update", f"JobId={job}", "EndTime=now")

    def node_states(self) -> dict[str, str]:
        """The nodes' states from sinfo (idle, mixed, allocated, down*, ...); empty without a controller."""
        listed = self._run("sinfo", "--Node", "--noheader", "--partition=main", "--format=%N %T").stdout
        return dict(re.findall(r"(\S+) (\S+)", listed))

    def log(self, lines: int = 10) -> str:
        """The last lines of every daemon's log."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(
            f"--- {file.name}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) for file in files
        )

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, text=True, capture_output=True, timeout=SECONDS
        )  # fmt: skip

    def _configure(self) -> None:
        (self.folder / "state").mkdir()
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        controller, *ports = _free_ports(1 + len(self.nodes))
        user = pwd.getpwuid(os.geteuid()).pw_name
        settings = self._settings | {
            "AuthInfo": f"socket={self._socket}",
            "SlurmctldHost": "controller(127.0.0.1)",
            "SlurmctldPort": controller,
            "SlurmctldPidFile": self.folder / "slurmctld.pid",
            "SlurmdPidFile": self.folder / "%n.pid",
            "SlurmdSpoolDir": self.folder / "spool.%n",
            "StateSaveLocation": self.folder / "state",
            "SlurmUser": user,
            "SlurmdUser": user,
        }
        lines = [f"{name}={value}" for name, value in settings.items()]
        for node, port in zip(self.nodes, ports, strict=True):
            lines.append(f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} {NODE}")
        for name, options in PARTITIONS.items():
            lines.append(f"PartitionName={name} Nodes=ALL MaxTime=INFINITE State=UP {options}")
        self._config.write_text("\n".join(lines) + "\n")

    def _start_munge(self) -> None:
        files = {"key-file": "munge.key", "pid-file": "munge.pid", "seed-file": "munge.seed", "log-file": "munged.log"}
        options = [f"--{option}={self.folder / file}" for option, file in files.items()]
        # Forced, because munged wants a folder that other users can enter, which pytest's are not.
        self._start("munge", "localhost", "munged", "--foreground", "--force", f"--socket={self._socket}", *options)
        wait_for(lambda: self._alive() and self._socket.exists())

    def _start(self, name: str, host: str, *daemon: str) -> None:
        assert name not in self._processes, f"{name} runs already"
        log = self.folder / f"{name}.log"
        self._processes[name] = namespaces.start(host, daemon, self.environment, self.folder, log)

    def _alive(self) -> bool:
        """True; raises UnavailableError if a daemon has ended."""
        ended = [name for name, process in self._processes.items() if process.poll() is not None]
        if ended:
            raise UnavailableError(f"{', '.join(ended)} ended")
        return True

    def _kill(self, name: str) -> None:
        namespaces.kill(self._processes.pop(name))


def _free_ports(count: int) -> Sequence[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]
