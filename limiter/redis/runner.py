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
import sys
from time import monotonic
from typing import Any, cast

import hiredis

from limiter.errors import LimiterError, RedisUnavailable, ScriptError
from limiter.redis.breaker import Breaker
from limiter.redis.pipeline import Pipeline
from limiter.redis.scripts import ScriptSet

Operands = tuple[str | int, ...]

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

# A script that clears a part of what is due says so, and then has done nothing else. One such call
# expires a batch of 500 holds, so this is half a million at once.
_AGAIN = b"again"
_AGAIN_MAX = 1_000

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
    """Calls scripts by name. While `server_is_verified` is False, the server counts as away.

    `breaker`: while it is open, callers are told so at once; without one they always try.
    """

    def __init__(
        self, pipeline: Pipeline, scripts: ScriptSet, breaker: Breaker | None = None
    ) -> None:
        self.server_is_verified = True
        self._pipeline = pipeline
        self._scripts = scripts
        self._breaker = breaker or Breaker(failures=sys.maxsize, reset_ms=0, monotonic_s=monotonic)
        # A digest is made anew whenever it is asked for, which takes longer than a whole call.
        self._digests = {name: scripts[name].sha for name in scripts.names}
        self._bringing: set[str] = set()

    async def run(self, name: str, keys: tuple[str, ...], *args: str | int) -> list[Any]:
        """The script's reply: its status first, as bytes.

        Raises RedisUnavailable when the server cannot answer now (whether the call took effect may
        then be unknown), Elsewhere when nothing ran because the keys are not there, and ScriptError
        for a failure of the script itself.
        """
        if not self._breaker.admits():
            raise RedisUnavailable("Redis is away, and is tried again shortly")
        try:
            if not self.server_is_verified:
                raise RedisUnavailable("no Redis has been found yet that is safe to count on")
            started_at = monotonic()
            reply = await self._sent(name, keys, args)
            # Nearly always that is the answer, and each coroutine on the way is a part of the cost.
            if not _is_answer(reply):
                reply = await self._answer(name, keys, args, reply, started_at)
        except Elsewhere:
            self._breaker.succeeded()
            raise
        except RedisUnavailable:
            self._breaker.failed()
            raise
        self._breaker.succeeded()
        return cast("list[Any]", reply)

    def _sent(self, name: str, keys: tuple[str, ...], args: Operands) -> asyncio.Future[Any]:
        shared = _SHARED.get(name)
        if shared is None:
            return self._pipeline.send("EVALSHA", self._digests[name], len(keys), *keys, *args)
        head = ("EVALSHA", self._digests[name], len(keys), *keys, *args[:shared])
        return self._pipeline.send_jointly(head, args[shared:])

    async def _answer(
        self, name: str, keys: tuple[str, ...], args: Operands, reply: Any, started_at: float
    ) -> list[Any]:
        """What a call comes to whose first reply is not its answer."""
        for _ in range(_AGAIN_MAX):
            if _is_missing(reply):
                try:
                    left_s = started_at + self._pipeline.deadline_s - monotonic()
                    async with asyncio.timeout(left_s):
                        reply = await self._run_missing(name, (len(keys), *keys, *args))
                except TimeoutError:
                    raise RedisUnavailable("Redis did not answer in time") from None
            if isinstance(reply, hiredis.ReplyError):
                raise self._failure(name, reply)
            if _is_answer(reply):
                return cast("list[Any]", reply)
            if reply != [_AGAIN]:
                raise ScriptError(f"{name}: unexpected reply {reply!r:.200}")
            started_at = monotonic()
            reply = await self._sent(name, keys, args)
        raise ScriptError(f"{name}: {keys[0]} has more that is due than can be cleared")

    def _failure(self, name: str, reply: hiredis.ReplyError) -> LimiterError:
        message = str(reply)
        error: LimiterError
        if elsewhere := _ELSEWHERE.search(message):
            code = "MOVED" if elsewhere["address"] else elsewhere["state"] or "TRYAGAIN"
            error = Elsewhere(f"Redis cannot answer: {code}", elsewhere["address"])
        elif away := _AWAY.search(message):
            error = RedisUnavailable(f"Redis cannot answer: {away[1]}")
        else:
            return self._scripts[name].locate(message)
        error.__cause__ = reply
        return error

    async def _run_missing(self, name: str, operands: Operands) -> Any:
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


def _is_answer(reply: Any) -> bool:
    return (
        isinstance(reply, list)
        and len(reply) > 0
        and isinstance(reply[0], bytes)
        and reply[0] != _AGAIN
    )


def _is_missing(reply: Any) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")
