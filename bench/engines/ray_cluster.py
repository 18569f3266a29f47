"""The Ray cluster that jobs run on: one that exists, or a new one on this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from ..errors import EngineError

PORT = 6379
"""Of Ray's head by default."""

ANSWER = 5.0
"""Seconds in which a head has to answer."""

OBJECTS = 100 * 2**20
"""Bytes of the object store of a new cluster, on which results do not depend."""

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The preface of HTTP/2 with empty settings, which every gRPC server answers with its own."""

SETTINGS = 4
"""The type of such a frame."""


@dataclass(frozen=True)
class Node:
    """What a node has for jobs."""

    cores: int
    gpus: int


def find(address: str | None) -> str | None:
    """The cluster to use: as given, by RAY_ADDRESS, or started here with `ray start`; None for a new one.

    Ray itself would wait minutes for one that does not answer.

    Raises:
        EngineError: the one that is named does not answer.
    """
    if ray.is_initialized():
        connected = str(ray.get_runtime_context().gcs_address)
        if address not in (None, "auto", connected):
            raise EngineError(f"--address {address}: this process uses {connected}; call ray.shutdown() before")
        return connected
    name = "--address" if address not in (None, "auto") else "RAY_ADDRESS"
    chosen = address if name == "--address" else os.environ.get("RAY_ADDRESS")
    if chosen and chosen not in ("auto", "local"):
        if problem := _problem(chosen):
            raise EngineError(f"{name} {chosen}: {problem}")
        return _with_port(chosen)
    started = _started_here()
    if started and not _problem(started):
        return started
    if address == "auto":
        raise EngineError("--address auto: no Ray cluster on this machine; start one with `ray start --head`")
    return None


def connect(address: str | None) -> None:
    """Connect this process with a cluster, or start one on this machine, which ends with the process.

    Raises:
        EngineError: it cannot be used from here.
    """
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would call home
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": OBJECTS}
    else:
        options["address"] = address
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises it bare where a node does not start in time
        first = (str(error).splitlines() or [type(error).__name__])[0]
        where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
        fix = (
            "give the command on a machine of the cluster"
            if address
            else "on a busy machine it may need longer: RAY_raylet_start_wait_time_s=300"
        )
        raise EngineError(f"{where} cannot be used: {first}; {fix}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray sets its own


def nodes() -> list[Node]:
    """The nodes of the cluster that take jobs now."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(int(each["CPU"]), int(each.get("GPU", 0))) for each in alive if each.get("CPU", 0) >= 1]


def _started_here() -> str:
    """The cluster that `ray start` was last used for on this machine; empty without one."""
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _with_port(address: str) -> str:
    return address if ":" in address else f"{address}:{PORT}"


def _problem(address: str) -> str:
    """Why a cluster's head cannot be used; empty where it answers."""
    if "://" in address:
        return "give HOST:PORT, on a machine of the cluster; jobs of a Ray client cannot be followed"
    host, _, port = _with_port(address).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        return f"give HOST:PORT, as `ray status` names it; the port is {PORT} by default"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER) as connection:
            connection.settimeout(ANSWER)
            connection.sendall(HELLO)
            answer = connection.recv(9, socket.MSG_WAITALL)
    except (OSError, UnicodeError) as error:
        return f"nothing answers there ({error}); `ray start --head` starts a cluster, `ray status` shows it"
    if os.environ.get("RAY_USE_TLS") in (None, "", "0") and (len(answer) < 9 or answer[3] != SETTINGS):
        return f"what answers there is no Ray cluster; its port is {PORT} by default"
    return ""
