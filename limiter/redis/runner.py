"""Runs scripts on a server, in bounded time, and never twice for one call.

A script is called by `EVALSHA`; where the server does not have it (`NOSCRIPT`: after a restart, a
failover or a flush, or behind a proxy that blocks `SCRIPT`) a call goes as `EVAL`, which leaves the
script there, and the calls that met the same wait for it. That is safe because `NOSCRIPT` means
that nothing ran. A call whose reply is lost is not sent again: whoever has an idempotency id
decides that.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import hiredis

from limiter.errors import RedisUnavailable, ScriptError
from limiter.redis.pipeline import Pipeline
from limiter.redis.scripts import Script, ScriptSet

# What a server says that cannot answer now, as the first word of an error or inside a script's.
_AWAY = re.compile(
    r"(?:^|[\s:-])(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOAUTH|NOPERM|NOREPLICAS|OOM|READONLY"
    r"|TRYAGAIN)\b"
)


class ScriptRunner:
    """Calls scripts by name."""

    def __init__(self, pipeline: Pipeline, scripts: ScriptSet) -> None:
        self._pipeline = pipeline
        self._scripts = scripts
        self._bringing: dict[str, asyncio.Event] = {}

    async def run(self, name: str, keys: tuple[str, ...], *args: str | int) -> list[Any]:
        """The script's reply: its status first, as bytes.

        Raises RedisUnavailable when the server cannot answer now (whether the call took effect may
        then be unknown) and ScriptError for a failure of the script itself.
        """
        script = self._scripts[name]
        reply = await self._pipeline.call("EVALSHA", script.sha, len(keys), *keys, *args)
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("NOSCRIPT"):
                reply = await self._bring(script, keys, args)
            if isinstance(reply, hiredis.ReplyError):
                message = str(reply)
                if _AWAY.search(message):
                    raise RedisUnavailable(f"Redis cannot answer: {message[:200]}")
                raise script.locate(message)
        if not isinstance(reply, list) or not reply or not isinstance(reply[0], bytes):
            raise ScriptError(f"{name}: unexpected reply {reply!r:.200}")
        return reply

    async def _bring(
        self, script: Script, keys: tuple[str, ...], args: tuple[str | int, ...]
    ) -> Any:
        """Makes the call on a server that lacks the script."""
        brought = self._bringing.get(script.name)
        if brought is not None:
            # A thousand callers must not all send the whole text.
            await brought.wait()
            reply = await self._pipeline.call("EVALSHA", script.sha, len(keys), *keys, *args)
            if not (isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")):
                return reply
        brought = self._bringing[script.name] = asyncio.Event()
        try:
            return await self._pipeline.call("EVAL", script.text, len(keys), *keys, *args)
        finally:
            brought.set()
            if self._bringing.get(script.name) is brought:
                del self._bringing[script.name]

    async def ping(self) -> bool:
        """Whether the server answers within the deadline."""
        try:
            return bool(await self._pipeline.call("PING") == b"PONG")
        except RedisUnavailable:
            return False
