"""What a service written in a day does: FastAPI, pydantic, and redis-py's pool with EVALSHA.

It runs the very script that the limiter runs. And an app that does nothing, for the floor.
Both are started by uvicorn with the options of the service.
"""

from __future__ import annotations

import os
import secrets
from typing import Any

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel
from redis.asyncio import Redis
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.scene import check_arguments, keys_of
from limiter.models import CheckRequest
from limiter.periods import PERIOD_NAMES
from limiter.redis.scripts import bundled_scripts

REDIS_URL_VARIABLE = "BENCH_REDIS_URL"
ANSWER_VARIABLE = "BENCH_ANSWER"


class PlainCheck:
    """The check script over a pool of redis-py, a connection a call."""

    def __init__(self, redis_url: str) -> None:
        self._client = Redis.from_url(redis_url)
        self._digest = bundled_scripts()["check"].sha

    async def __call__(self, workspace_id: str, chat_id: str, estimate_micros: int) -> list[Any]:
        arguments = check_arguments(
            secrets.token_hex(16), chat=chat_id, estimate_micros=estimate_micros
        )
        keys = keys_of(workspace_id)
        reply = await self._client.evalsha(self._digest, len(keys), *keys, *arguments)
        assert isinstance(reply, list)
        return reply

    async def aclose(self) -> None:
        await self._client.aclose()


class PlainRequest(BaseModel):
    workspace_id: str
    chat_id: str
    estimate_micros: int


def plain_app() -> FastAPI:
    """POST /check as FastAPI's tutorial would write it. The workspace is there already."""
    app = FastAPI()
    check = PlainCheck(os.environ[REDIS_URL_VARIABLE])

    @app.post("/check")
    async def post_check(body: PlainRequest) -> dict[str, Any]:
        reply = await check(body.workspace_id, body.chat_id, body.estimate_micros)
        _, reservation_id, held_micros, expires_at_ms, _, workspace_held, *counters = reply
        pairs = counters[: 2 * len(PERIOD_NAMES)]
        return {
            "allowed": True,
            "reservation": {
                "id": reservation_id,
                "held_micros": held_micros,
                "expires_at_ms": expires_at_ms,
            },
            "periods": {
                name: {
                    "limit_micros": int(limit),
                    "spent_micros": spent,
                    "held_micros": workspace_held,
                    "remaining_micros": int(limit) - spent - workspace_held,
                }
                for name, limit, spent in zip(PERIOD_NAMES, pairs[0::2], pairs[1::2], strict=True)
            },
        }

    return app


def empty_app() -> ASGIApp:
    """Parses the body as the service does, and answers bytes of the length of its answer."""
    decode = msgspec.json.Decoder(CheckRequest).decode
    answer = os.environ[ANSWER_VARIABLE].encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"content-length", b"%d" % len(answer)),
    ]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        decode(body)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


async def _lifespan(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})
