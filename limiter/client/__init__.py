"""Clients of the limiter, sync and async: hold before a model call, record or release after it.

    async with AsyncClient("http://127.0.0.1:8080") as limiter:
        async with limiter.call("acme", "c1", 12_000) as call:
            answer = await model(...)
            call.usage(model="gpt-5", input_tokens=..., output_tokens=...)

`AsyncClient` takes the address of a service, or a `Limiter` of this process; `Client` is the same
for threads, over HTTP. What they raise is drawn in `limiter.client.errors`. This package must never
import the service.
"""

from limiter.client.aio import AsyncCall, AsyncClient
from limiter.client.call import OnError
from limiter.client.errors import (
    CallBlocked,
    CallDenied,
    CallRefused,
    NoAnswer,
    UnexpectedAnswer,
)
from limiter.client.inprocess import AsyncLimiter
from limiter.client.sync import Call, Client

__all__ = [
    "AsyncCall",
    "AsyncClient",
    "AsyncLimiter",
    "Call",
    "CallBlocked",
    "CallDenied",
    "CallRefused",
    "Client",
    "NoAnswer",
    "OnError",
    "UnexpectedAnswer",
]
