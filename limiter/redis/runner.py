"""Runs scripts on a server, in bounded time, and never twice for one call.

A script is called by `EVALSHA`; where the server does not have it (`NOSCRIPT`: after a restart, a
failover or a flush, or behind a proxy that blocks `SCRIPT`) one call goes as `EVAL`, which leaves
the script there, and the others that met the same follow behind it. That is safe because `NOSCRIPT`
means that nothing ran. A call whose reply is lost is not sent again: whoever has an idempotency id
decides that.
"""

from __future__ import annotations

import asyncio
import re
from time import monotonic
from typing import Any

import hiredis

from limiter.errors import RedisUnavailable, ScriptError
from limiter.redis.pipeline import Pipeline
from limiter.redis.scripts import ScriptSet

# A node of a cluster that does not have the keys, or not all of them. A script that meets a key
# which is not there any more says so in words only.
_ELSEWHERE = re.compile(
    r"^(?:MOVED \d+ (?P<address>\S+)|(?P<state>ASK|TRYAGAIN)\b|.*\baccess a non local key\b)"
)

# Codes of a server that cannot answer now. A script's own command fails with the code in front
# (Redis 7, Valkey) or after `@user_script: 12: -` (Redis 6).
_AWAY = re.compile(
    r"(?:^|: -)"
    r"(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOAUTH|NOPERM|NOREPLICAS|OOM|READONLY)\b"
)

# How often a call may follow behind one that brings the script, in vain because it was flushed
# again or is not kept, before it brings it by itself.
_FOLLOWS_MAX = 10


# Scripts that take several calls at once: how many of their first arguments those share.
_SHARED = {"check": 1, "record": 1}


class Elsewhere(RedisUnavailable):
    """The server answers, but the keys are with another one: at `address`, if they all are.

    None: they are being moved, and nobody has all of them.
    """

    def __init__(self, message: str, address: str | None) -> None:
        super().__init__(message)
        self.address = address


class ScriptRunner:
    """Calls scripts by name. While `server_is_verified` is False, the server counts as away."""

    def __init__(self, pipeline: Pipeline, scripts: ScriptSet) -> None:
        self.server_is_verified = True
        self._pipeline = pipeline
        self._scripts = scripts
        # A digest is made anew whenever it is asked for, which takes longer than a whole call.
        self._digests = {name: scripts[name].sha for name in scripts.names}
        self._bringing: set[str] = set()

    async def run(self, name: str, keys: tuple[str, ...], *args: str | int) -> list[Any]:
        """The script's reply: its status first, as bytes.

        Raises RedisUnavailable when the server cannot answer now (whether the call took effect may
        then be unknown), Elsewhere when nothing ran because the keys are not there, and ScriptError
        for a failure of the script itself.
        """
        if not self.server_is_verified:
            raise RedisUnavailable("no Redis has been found yet that is safe to count on")
        started_at = monotonic()
        shared = _SHARED.get(name)
        if shared is None:
            reply = await self._pipeline.send(
                "EVALSHA", self._digests[name], len(keys), *keys, *args
            )
        else:
            head = ("EVALSHA", self._digests[name], len(keys), *keys, *args[:shared])
            reply = await self._pipeline.send_jointly(head, args[shared:])
        if _is_missing(reply):
            operands = (len(keys), *keys, *args)
            try:
                left_s = started_at + self._pipeline.deadline_s - monotonic()
                async with asyncio.timeout(left_s):
                    reply = await self._run_missing(name, operands)
            except TimeoutError:
                raise RedisUnavailable("Redis did not answer in time") from None
        if isinstance(reply, hiredis.ReplyError):
            message = str(reply)
            if elsewhere := _ELSEWHERE.search(message):
                code = "MOVED" if elsewhere["address"] else elsewhere["state"] or "TRYAGAIN"
                said = f"Redis cannot answer: {code}"
                raise Elsewhere(said, elsewhere["address"]) from reply
            if away := _AWAY.search(message):
                raise RedisUnavailable(f"Redis cannot answer: {away[1]}") from reply
            raise self._scripts[name].locate(message)
        if not isinstance(reply, list) or not reply or not isinstance(reply[0], bytes):
            raise ScriptError(f"{name}: unexpected reply {reply!r:.200}")
        return reply

    async def _run_missing(self, name: str, operands: tuple[str | int, ...]) -> Any:
        """Makes the call on a server that lacks the script. A thousand must not all send it."""
        for _ in range(_FOLLOWS_MAX):
            if name not in self._bringing:
                break
            # The connection keeps the order, so there is no need to wait for the script's arrival.
            reply = await self._pipeline.call("EVALSHA", self._digests[name], *operands)
            if not _is_missing(reply):
                return reply
        self._bringing.add(name)
        try:
            return await self._pipeline.call("EVAL", self._scripts[name].text, *operands)
        finally:
            self._bringing.discard(name)

    async def ping(self) -> bool:
        """Whether the server answers within the deadline, and scripts may run on it."""
        if not self.server_is_verified:
            return False
        try:
            return bool(await self._pipeline.call("PING") == b"PONG")
        except RedisUnavailable:
            return False


def _is_missing(reply: Any) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")
