"""More nodes for a Ray cluster of this machine, each as on a machine of its own (`namespaces`)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import ray

from tests.helpers import namespaces
from tests.helpers.slurm import wait_for

OBJECTS = 80 * 2**20
"""Bytes of a node's object store; about the least that Ray takes."""


class Node:
    """A node with one CPU that does not see a folder, in whose place it has an empty one.

    Args:
        address: of the cluster.
        name: host name of the node.
        hidden: the folder.
        folder: for the cluster's files, with a short path.
        settings: environment variables of the node, such as Ray's `RAY_...` settings.
    """

    def __init__(self, address: str, name: str, hidden: Path, folder: Path, **settings: str) -> None:
        self.name = name
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={address}"),
            *("--num-cpus=1", "--num-gpus=0", f"--object-store-memory={OBJECTS}", "--disable-usage-stats"),
            *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
        ]
        environment = os.environ | {"RAY_TMPDIR": str(folder)} | settings
        self.process = namespaces.start(name, command, environment, folder, folder / f"{name}.log", hidden)
        try:
            self.id = wait_for(self._id)
        except TimeoutError as error:
            self.kill()
            raise AssertionError(f"{name} does not join: {(folder / f'{name}.log').read_text()}") from error

    def _id(self) -> str:
        found: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]
        return next((node["NodeID"] for node in found if node["NodeManagerHostname"] == self.name), "")

    def kill(self) -> None:
        """Kill everything that runs on the node, as if it lost power; a second time nothing is done."""
        namespaces.kill(self.process)
