"""What a URL of Redis or of durable storage may look like, and which addresses are loopback.

A cluster's URL is ours: `redis+cluster://` and `rediss+cluster://`, with any of its nodes,
separated by commas. No message repeats a URL: it may carry a password. It must not connect to
anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

_REDIS_SCHEMES = ("redis", "rediss", "unix")
_CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
_DATABASE_SCHEMES = ("sqlite", "postgresql", "postgresql+psycopg")
_REDIS_PORT = 6379


@dataclass(frozen=True)
class Address:
    """Where a node listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class ClusterUrl:
    """A cluster's URL, taken apart. `seeds`: the nodes that it names, of which one must answer."""

    scheme: str
    user: str
    seeds: tuple[Address, ...]
    rest: str

    def of(self, node: Address) -> str:
        """The URL of one node, as of a single server."""
        return f"{self.scheme}://{self.user}{node}{self.rest}"


def is_cluster_url(url: str) -> bool:
    return url.partition("://")[0] in _CLUSTER_SCHEMES


def split_cluster_url(url: str) -> ClusterUrl:
    """Raises ValueError for one that cannot be used."""
    scheme, _, after = url.partition("://")
    authority = re.split("[/?#]", after, maxsplit=1)[0]
    user, at, nodes = authority.rpartition("@")
    plain, rest = _CLUSTER_SCHEMES[scheme], after[len(authority) :]
    seeds = []
    for node in nodes.split(","):
        one = _split(f"{plain}://{user}{at}{node}{rest}", _REDIS_SCHEMES)
        if not one.hostname:
            raise ValueError("names no host")
        if one.path not in ("", "/", "/0"):
            raise ValueError("names a database, of which a cluster has only the first")
        seeds.append(Address(one.hostname, one.port or _REDIS_PORT))
    return ClusterUrl(plain, user + at, tuple(seeds), rest)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there. False where that is not certain."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_redis_url(text: str) -> None:
    """Raises ValueError for a URL of Redis that cannot be used."""
    if is_cluster_url(text):
        split_cluster_url(text)
        return
    url = _split(text, _REDIS_SCHEMES, *_CLUSTER_SCHEMES)
    if url.scheme == "unix" and not url.path:
        raise ValueError("names no socket: unix:///path/of.sock")
    if url.scheme != "unix" and not url.hostname:
        raise ValueError("names no host")


def require_database_url(text: str) -> None:
    """Raises ValueError for a URL of durable storage that cannot be used."""
    url = _split(text, _DATABASE_SCHEMES)
    # A database in memory would forget what it acknowledged.
    if url.scheme == "sqlite" and (url.netloc or url.path in ("", "/", "/:memory:")):
        raise ValueError("names no file: sqlite:///relative.db or sqlite:////absolute.db")
    if url.scheme != "sqlite" and not url.path.strip("/"):
        raise ValueError("names no database: postgresql://user@host/database")


def _split(text: str, schemes: tuple[str, ...], *others: str) -> SplitResult:
    try:
        url = urlsplit(text)
        # The port is parsed when it is first read.
        _ = url.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in schemes:
        known = ", ".join(f"{name}://" for name in (*schemes, *others))
        raise ValueError(f"must begin with one of {known}")
    return url
