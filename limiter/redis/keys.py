"""Every key the service names. Scripts derive the rest from these (see docs/redis.md).

A workspace's keys share the prefix `lim:{<partition>}:<workspace>:`. The partition is the hash tag,
so a script call stays within one cluster slot. It must not talk to Redis.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from functools import lru_cache

from limiter.errors import InvalidRequest
from limiter.models import ID_LENGTH_MAX

_ID = re.compile(rf"[A-Za-z0-9._@-]{{1,{ID_LENGTH_MAX}}}")

_WORKSPACES_KEPT = 4_096


def require_id(value: str, field: str) -> str:
    """The wall between a caller's id and a key. Raises InvalidRequest naming the field."""
    if not _ID.fullmatch(value):
        raise InvalidRequest(
            f"{field}: 1 to {ID_LENGTH_MAX} characters of A-Z a-z 0-9 . _ @ - are allowed",
            field=field,
        )
    return value


class Keys:
    """Key names for a number of partitions: 1 on a single server, 64 or more in a cluster."""

    def __init__(self, partitions: int = 1) -> None:
        if partitions < 1:
            raise ValueError("partitions must be at least 1")
        self.partitions = partitions
        # A busy workspace's are asked for at every call.
        self.of_call = lru_cache(maxsize=_WORKSPACES_KEPT)(self._of_call)

    def partition(self, workspace_id: str) -> int:
        """The workspace's partition: CRC16 (XMODEM, as Redis Cluster's own) of its id."""
        if self.partitions == 1:
            return 0
        return crc_hqx(workspace_id.encode(), 0) % self.partitions

    def _prefix(self, workspace_id: str) -> str:
        require_id(workspace_id, "workspace_id")
        return f"lim:{{{self.partition(workspace_id)}}}:{workspace_id}"

    def _of_call(self, workspace_id: str) -> tuple[str, str]:
        """KEYS of the scripts that may change a workspace: its scope, and where they tell of it."""
        return self.workspace(workspace_id), self.stream(workspace_id)

    def workspace(self, workspace_id: str) -> str:
        return f"{self._prefix(workspace_id)}:workspace"

    def chat(self, workspace_id: str, chat_id: str) -> str:
        return f"{self._prefix(workspace_id)}:chat:{require_id(chat_id, 'chat_id')}"

    def window(self, workspace_id: str, period: str) -> str:
        return f"{self.workspace(workspace_id)}:{period}"

    def holds(self, workspace_id: str) -> str:
        return f"{self._prefix(workspace_id)}:holds"

    def hold(self, workspace_id: str, reservation_id: str) -> str:
        reservation_id = require_id(reservation_id, "reservation_id")
        return f"{self._prefix(workspace_id)}:hold:{reservation_id}"

    def stream(self, workspace_id: str) -> str:
        return self.partition_stream(self.partition(workspace_id))

    def partition_stream(self, partition: int) -> str:
        return f"lim:{{{partition}}}:stream"
