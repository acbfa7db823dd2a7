"""LiteLLM's rate limiter as its proxy calls it, in process: four descriptors, one request each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

from bench.peers.callers import Call, main

# Without it the import asks the network for prices, several times.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

from litellm import DualCache
from litellm.caching.redis_cache import RedisCache
from litellm.proxy.hooks.parallel_request_limiter_v3 import (
    RateLimitDescriptor,
    _PROXY_MaxParallelRequestsHandler_v3,
)
from litellm.proxy.utils import InternalUsageCache

LIMIT = 10**12
# What a key, its user, its team and its project would be limited by.
DESCRIPTORS = ("api_key", "user", "team", "model_per_project")


@contextlib.asynccontextmanager
async def contenders(redis_url: str) -> AsyncIterator[dict[str, Call]]:
    cache = DualCache(redis_cache=RedisCache(url=redis_url))
    limiter = _PROXY_MaxParallelRequestsHandler_v3(InternalUsageCache(cache))
    descriptors = [
        RateLimitDescriptor(key=key, value="bench", rate_limit={"requests_per_unit": LIMIT})
        for key in DESCRIPTORS
    ]
    increments = [{"requests": 1, "tokens": 0} for _ in descriptors]

    async def should_rate_limit() -> None:
        response = await limiter.should_rate_limit(descriptors)
        assert response["overall_code"] == "OK", response

    async def atomic_check_and_increment() -> None:
        response = await limiter.atomic_check_and_increment_by_n(descriptors, increments)
        assert response["overall_code"] == "OK", response

    yield {
        "LiteLLM should_rate_limit": should_rate_limit,
        "LiteLLM atomic_check_and_increment_by_n": atomic_check_and_increment,
    }


if __name__ == "__main__":
    main(contenders)
