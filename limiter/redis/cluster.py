"""A cluster: which node has which partition, and each call to the node that has its keys.

Every node has a connection, a breaker and scripts of its own, so that one that is lost takes only
its own partitions along. A call follows `MOVED`, because nothing ran where it was said.

It never follows `ASK`. While a slot is being moved key by key, a part of a workspace's keys is on
one node and a part on the other, and a script would find, or begin to write, only a part. So every
call that changes something names a key more, which never exists: with it, both nodes refuse the
call (`TRYAGAIN`, `ASK`) before anything runs, until the slot has moved. It must not know what
scripts do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from time import monotonic
from typing import Any

from redis.asyncio import Redis

from limiter.errors import LimiterError, RedisUnavailable, StartupError
from limiter.metrics import Metrics
from limiter.redis.connect import ServerInfo
from limiter.redis.runner import Elsewhere
from limiter.redis.scripts import ScriptSet
from limiter.redis.server import Link, Server
from limiter.redis.slots import moved_to, partition_of_key, served_slots, slot_of_partition
from limiter.settings import Settings
from limiter.urls import Address, is_cluster_url, split_cluster_url

logger = logging.getLogger(__name__)

# A call that is sent on more often goes round in circles: the nodes do not agree yet.
REDIRECTIONS_MAX = 5
# Trouble makes every call ask for a new map of the cluster; so often, one is fetched.
REFRESH_PAUSE_MS = 250

# They change nothing, or only what is found, and touch no key that the call does not name.
_NEED_NO_GUARD = frozenset({"inspect", "sweep"})


class _Node(Server):
    """One of the nodes, at `address`."""

    def __init__(
        self,
        address: Address,
        url: str,
        settings: Settings,
        scripts: ScriptSet,
        metrics: Metrics,
        *,
        is_verified: bool,
    ) -> None:
        super().__init__(url, settings, scripts, metrics, is_verified=is_verified)
        self.address = address


class Cluster:
    """The nodes of a cluster. Safe for concurrent use on one loop."""

    def __init__(
        self,
        url: str,
        settings: Settings,
        scripts: ScriptSet,
        metrics: Metrics,
        *,
        takes_any_server: bool = False,
    ) -> None:
        """Raises StartupError for a URL that cannot be used. Connects to nothing yet."""
        try:
            self._url = split_cluster_url(url)
        except ValueError as error:
            raise StartupError(f"the Redis URL {error}") from None
        self._settings = settings
        self._scripts = scripts
        self._metrics = metrics
        self._deadline_s = settings.redis_deadline_ms / 1000
        self._slots = [slot_of_partition(number) for number in range(settings.partitions)]
        self._serving: list[_Node | None] = [None] * settings.partitions
        self._servers: dict[Address, _Node] = {}
        # Not on the last map. A call may just have been sent there, so they stay for another one.
        self._absent: set[Address] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = -float("inf")
        self._refreshes = 0
        self._introductions: dict[_Node, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._takes_any_server = self.is_verified = takes_any_server
        for seed in self._url.seeds:
            self._server(seed)

    # ------------------------------------------------------------------ calls

    async def run(self, name: str, keys: tuple[str, ...], *args: str | int) -> list[Any]:
        """As `ScriptRunner.run`, on the node that has the keys, which are of one partition."""
        partition = partition_of_key(keys[0])
        server = self._at(partition)
        if name not in _NEED_NO_GUARD:
            keys = (*keys, f"lim:{{{partition}}}:nothing")
        try:
            return await server.run(name, keys, *args)
        except Elsewhere as error:
            return await self._follow(error, partition, server, name, keys, *args)
        except RedisUnavailable:
            self._refresh_soon()  # another node may have taken its place
            raise

    async def _follow(
        self,
        error: Elsewhere,
        partition: int,
        server: _Node,
        name: str,
        keys: tuple[str, ...],
        *args: str | int,
    ) -> list[Any]:
        """Makes a call that `server` refused, where it says that the keys are."""
        try:
            async with asyncio.timeout(self._deadline_s):
                for _ in range(REDIRECTIONS_MAX):
                    server = self._moved(partition, server, error)
                    if introduction := self._introductions.get(server):
                        await asyncio.shield(introduction)
                    try:
                        return await server.run(name, keys, *args)
                    except Elsewhere as again:
                        error = again
        except TimeoutError:
            raise RedisUnavailable("Redis did not answer in time") from None
        raise RedisUnavailable("the nodes of the cluster do not agree on who has the keys")

    async def ping(self) -> bool:
        """Whether any node answers: a service that can decide for some workspaces is of use."""
        return any(await asyncio.gather(*(server.ping() for server in self._primaries())))

    def client(self, partition: int) -> Redis:
        return self._at(partition).client()

    def clients(self) -> Sequence[Redis]:
        return [server.client() for server in self._primaries()]

    async def close(self) -> None:
        self._is_closed = True
        looking = [*self._introductions.values()]
        if self._refreshing is not None:
            looking.append(self._refreshing)
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)
        await asyncio.gather(
            *self._background, *(server.close() for server in self._servers.values())
        )

    # ------------------------------------------------------------------ looks at the nodes

    async def verify(self) -> Mapping[int, str]:
        """Looks at every primary. One that is away keeps nobody from starting."""
        try:
            await asyncio.shield(self._refreshed())
        except RedisUnavailable:
            # A refused password, or a server without a cluster, will not change by waiting.
            for seed in self._url.seeds:
                seen = await self._seen(self._server(seed))
                if isinstance(seen, StartupError):
                    raise seen from None
            raise
        serving, primaries = list(self._serving), self._primaries()
        looks = await asyncio.gather(*(self._seen(server) for server in primaries))
        infos = {
            server: look
            for server, look in zip(primaries, looks, strict=True)
            if isinstance(look, ServerInfo)
        }
        if infos and len(infos) < len(primaries) and not self.is_verified:
            logger.error("started with %d of %d primaries", len(infos), len(primaries))
        # Each node that is safe takes calls from now on, whatever the others are.
        self.is_verified = self.is_verified or bool(infos)
        for look in looks:
            if isinstance(look, StartupError):
                raise look
        if not infos:
            raise RedisUnavailable("no node of the cluster can be reached")
        return {
            partition: infos[server].run_id
            for partition, server in enumerate(serving)
            # One that has just become a replica is on a map that is out of date.
            if server in infos and infos[server].role == "master"
        }

    @staticmethod
    async def _seen(server: _Node) -> ServerInfo | LimiterError:
        try:
            info = await server.look()
        except (RedisUnavailable, StartupError) as error:
            return error
        if not info.cluster_enabled:
            return StartupError(
                "the server is no node of a cluster: the Redis URL must begin with redis:// or "
                "rediss://"
            )
        return info

    # ------------------------------------------------------------------ the map

    def _at(self, partition: int) -> _Node:
        server = self._serving[partition]
        if server is None:
            self._refresh_soon()
            raise RedisUnavailable("no node of the cluster is known that has the keys")
        return server

    def _primaries(self) -> list[_Node]:
        return list(dict.fromkeys(server for server in self._serving if server is not None))

    def _moved(self, partition: int, server: _Node, error: Elsewhere) -> _Node:
        """The node that has the partition, as another one says. Raises the error if it does not."""
        address = None if error.address is None else moved_to(error.address, server.address)
        if address is None:
            raise error
        self._serving[partition] = self._server(address)
        self._refresh_soon()
        return self._server(address)

    def _server(self, address: Address) -> _Node:
        server = self._servers.get(address)
        if server is None:
            if self._is_closed:
                raise RedisUnavailable("the client was closed")
            url = self._url.of(address)
            server = self._servers[address] = _Node(
                address,
                url,
                self._settings,
                self._scripts,
                self._metrics,
                is_verified=self._takes_any_server,
            )
            if self.is_verified and not server.is_verified:
                # It joined a cluster that is in use: callers wait for the look, not for the next
                # round of looks.
                task = asyncio.create_task(self._introduce(server))
                self._introductions[server] = task
                task.add_done_callback(lambda _: self._introductions.pop(server))
        return server

    async def _introduce(self, server: _Node) -> None:
        seen = await self._seen(server)
        if isinstance(seen, StartupError):
            logger.critical("a node of the cluster is not safe to count on: %s", seen)

    def _refresh_soon(self) -> None:
        due_at = self._refreshed_at + REFRESH_PAUSE_MS / 1000
        if self._refreshing is None and not self._is_closed and monotonic() >= due_at:
            self._refreshed()

    def _refreshed(self) -> asyncio.Task[None]:
        """A new map, shared by all who need it now. Its error is RedisUnavailable."""
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(self._refresh_ended)
        return self._refreshing

    def _refresh_ended(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        self._refreshed_at = monotonic()
        # Looked at, for the case that nobody waits for it.
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("the map of the cluster stays as it was: %s", error)

    async def _refresh(self) -> None:
        # One that is cut off from the others has an old map, and must not be asked every time.
        self._refreshes += 1
        turn = self._refreshes % len(self._servers)
        servers = [*self._servers.values()]
        servers = servers[turn:] + servers[:turn]
        for server in sorted(servers, key=lambda server: server.breaker.is_open):
            try:
                reply = await server.pipeline.call("CLUSTER", "SLOTS")
                served = served_slots(reply, server.address)
            except (RedisUnavailable, ValueError) as error:
                logger.debug("%s does not say who has what: %s", server.address, error)
                continue
            if any(served[slot] for slot in self._slots):
                self._adopt(served)
                return
        raise RedisUnavailable("no node of the cluster says who has the keys")

    def _adopt(self, served: Sequence[Address | None]) -> None:
        addresses = [served[slot] for slot in self._slots]
        self._serving = [
            None if address is None else self._server(address) for address in addresses
        ]
        absent = self._servers.keys() - set(addresses) - set(self._url.seeds)
        for address in absent & self._absent:
            self._start(self._dismiss(self._servers.pop(address)))
        self._absent = absent & self._servers.keys()

    async def _dismiss(self, server: _Node) -> None:
        if server.breaker.is_open:
            server.breaker.succeeded()  # nobody is waiting for it any more
        await server.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def open_link(
    url: str,
    settings: Settings,
    scripts: ScriptSet,
    metrics: Metrics,
    *,
    takes_any_server: bool = False,
) -> Link:
    """One server or a cluster, as the URL says.

    `takes_any_server`: scripts run from the start, for somebody else looks whether that is safe.
    """
    if is_cluster_url(url):
        return Cluster(url, settings, scripts, metrics, takes_any_server=takes_any_server)
    return Server(url, settings, scripts, metrics, is_verified=takes_any_server)
