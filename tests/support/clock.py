"""A clock that tests drive, so that a month passes in a millisecond.

The scripts' only clock is the piece `now`. `driven_scripts` replaces it by one that reads the key
`test:{<partition>}:clock`; its hash tag puts it into the slot of the keys that a script works on.
"""

from __future__ import annotations

from typing import Any

import redis

from limiter.redis.scripts import ScriptSet

# At this moment a bucket of every period begins, and a slice of memory.
START_MS = 1_700_092_800_000

DRIVEN_NOW = """\
local function now_ms(clock)
  local tag = string.match(KEYS[1], '{[^}]*}')
  local now = tonumber(redis.call('GET', 'test:' .. tag .. ':clock'))
  if now < clock then return clock end
  return now
end
"""


def driven_scripts() -> ScriptSet:
    """The scripts of this checkout on a driven clock."""
    return ScriptSet(pieces={"now": DRIVEN_NOW})


class DrivenClock:
    """The time that the scripts of `driven_scripts` see, for a number of partitions."""

    def __init__(
        self, client: redis.Redis, *, partitions: int = 1, start_ms: int = START_MS
    ) -> None:
        self._client = client
        self._partitions = partitions
        self.now_ms = start_ms
        self.set(start_ms)

    def set(self, now_ms: int) -> None:
        self.now_ms = now_ms
        for partition in range(self._partitions):
            self._client.execute_command(*self.command(now_ms, partition))

    def advance(self, ms: int) -> None:
        """Moves on; a negative time steps back."""
        self.set(self.now_ms + ms)

    @staticmethod
    def command(now_ms: int, partition: int = 0) -> tuple[Any, ...]:
        """What sets a partition's clock, for use in a pipeline."""
        return ("SET", f"test:{{{partition}}}:clock", now_ms)
