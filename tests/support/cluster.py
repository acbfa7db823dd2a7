"""A cluster of real servers on loopback ports: primaries that can be killed and started again.

Each has a folder of its own and no persistence: one that comes back has its slots and no keys. It
must not know what is tested.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.servers import GUARD, REPLY_MS_MAX, connect, free_ports, wait_for

SLOTS = 16_384
# A lost node is noticed after so long; the tests do not wait for elections.
NODE_TIMEOUT_MS = 1_000


class ClusterNode:
    """One server. `options` are further arguments of the binary."""

    def __init__(self, binary: Path, folder: Path, *options: str) -> None:
        self.port, bus_port = free_ports()
        self.socket_path = folder / "server.sock"
        self.log = folder / "server.log"
        self._guard: subprocess.Popen[bytes] | None = None
        arguments = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket_path),
            "dir": str(folder),
            "logfile": str(self.log),
            "save": "",
            "appendonly": "no",
            "cluster-enabled": "yes",
            "cluster-port": str(bus_port),
            "cluster-node-timeout": str(NODE_TIMEOUT_MS),
            # What the other nodes hold is served while one is away.
            "cluster-require-full-coverage": "no",
        }
        self.bus_port = bus_port
        self._command = [
            *["/bin/sh", "-c", GUARD, "sh", str(binary)],
            *[part for name, value in arguments.items() for part in (f"--{name}", value)],
            *options,
        ]
        self.client = connect(self.socket_path)
        self.pid = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, or starts it again with what it knows of the cluster."""
        self._guard = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._guard.stdout is not None
        self.pid = int(self._guard.stdout.readline())
        wait_for(lambda: bool(self.client.execute_command("PING")), self.log)

    def kill(self) -> None:
        """As a machine dies."""
        os.kill(self.pid, signal.SIGKILL)
        self._end()

    def stop(self) -> None:
        self._end()
        self.client.close()

    def cluster(self, *command: str | int) -> Any:
        return self.client.execute_command("CLUSTER", *command)

    @property
    def node_id(self) -> str:
        return str(self.cluster("MYID"), "ascii")

    def is_ok(self, nodes: int) -> bool:
        """Whether it serves, and knows so many nodes with an owner for every slot."""
        info = self.cluster("INFO").decode()
        wanted = ("state:ok", f"known_nodes:{nodes}", f"slots_ok:{SLOTS}")
        return all(f"cluster_{line}\r\n" in info for line in wanted)

    def _end(self) -> None:
        if self._guard is not None:
            assert self._guard.stdin is not None
            assert self._guard.stdout is not None
            self._guard.stdin.close()
            self._guard.wait(REPLY_MS_MAX / 1000)
            self._guard.stdout.close()
            self._guard = None


class TestCluster:
    """Primaries that share all slots evenly, in ranges."""

    __test__ = False

    def __init__(self, nodes: list[ClusterNode]) -> None:
        self.nodes = nodes
        self.replicas: list[ClusterNode] = []

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(node.address for node in self.nodes)

    def owner(self, slot: int) -> ClusterNode:
        """By the layout of the start."""
        return self.nodes[slot * len(self.nodes) // SLOTS]

    def wait_until_ok(self) -> None:
        everyone = [*self.nodes, *self.replicas]
        for node in everyone:
            wait_for(partial(node.is_ok, len(everyone)), node.log)

    def add_replica(self, replica: ClusterNode, primary: ClusterNode) -> None:
        """A node that has started takes the place of the primary when that is lost."""
        self.replicas.append(replica)
        primary.cluster("MEET", "127.0.0.1", replica.port, replica.bus_port)
        self.wait_until_ok()
        replica.cluster("REPLICATE", primary.node_id)

        def is_in_step() -> bool:
            return bool(replica.client.info("replication").get("master_link_status") == "up")

        wait_for(is_in_step, replica.log)

    def begin_move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """From here on the slot is between the two, in Redis's words `migrating`."""
        target.cluster("SETSLOT", slot, "IMPORTING", source.node_id)
        source.cluster("SETSLOT", slot, "MIGRATING", target.node_id)

    def move_keys(
        self, slot: int, source: ClusterNode, target: ClusterNode, suffix: str = ""
    ) -> int:
        """Moves the keys that end so of a slot that has begun to move; returns how many."""
        keys: list[bytes] = source.cluster("GETKEYSINSLOT", slot, 100_000)
        moved = [key for key in keys if key.endswith(suffix.encode())]
        if moved:
            source.client.execute_command(
                *("MIGRATE", "127.0.0.1", target.port, "", 0, REPLY_MS_MAX, "KEYS"), *moved
            )
        return len(moved)

    def end_move(self, slot: int, target: ClusterNode) -> None:
        """The target has it; all nodes are told."""
        for node in [target, *(node for node in self.nodes if node is not target)]:
            node.cluster("SETSLOT", slot, "NODE", target.node_id)


@contextlib.contextmanager
def running_node(binary: Path) -> Iterator[ClusterNode]:
    """A node that belongs to no cluster yet."""
    with tempfile.TemporaryDirectory(prefix="limiter-test-") as folder:
        node = ClusterNode(binary, Path(folder))
        try:
            node.start()
            yield node
        finally:
            node.stop()


@contextlib.contextmanager
def running_cluster(binary: Path, primaries: int = 3) -> Iterator[TestCluster]:
    """A cluster of one's own."""
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(running_node(binary)) for _ in range(primaries)]
        for number, node in enumerate(nodes):
            node.cluster("SET-CONFIG-EPOCH", number + 1)
        cluster = TestCluster(nodes)
        for number, node in enumerate(nodes):
            first = -(-number * SLOTS // primaries)
            last = -(-(number + 1) * SLOTS // primaries) - 1
            node.cluster("ADDSLOTSRANGE", first, last)
            nodes[0].cluster("MEET", "127.0.0.1", node.port, node.bus_port)
        cluster.wait_until_ok()
        yield cluster
