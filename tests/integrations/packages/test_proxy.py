"""LiteLLM's proxy with the callback in its settings: a real one, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.integrations.packages.model import (
    ANSWER,
    FAILS,
    OPENAI_MODEL,
    STOPS,
    ModelServer,
)
from tests.integrations.packages.scene import (
    OUTPUT_TOKENS_MAX,
    PLENTY_MICROS,
    PROMPT,
    TOO_LITTLE_MICROS,
    Scene,
    cancelled_in,
)
from tests.integrations.packages.test_table import CASES, row
from tests.support.service import Service, free_port

START_S_MAX = 90
STOP_S_MAX = 20
POLL_S = 0.1
KEY = "sk-not-a-key"
CHECKS_METRIC = "limiter_decisions_total"

CALLBACK = """
from limiter.client import AsyncClient
from limiter.client.integrations import Payer
from limiter.client.integrations.litellm import LimitCallback


def payer_of(metadata):
    return Payer(metadata["requester_metadata"]["workspace"], "c1")


limiter = AsyncClient({url!r}, check_deadline_ms=20_000, settle_deadline_ms=20_000)
callback = LimitCallback(limiter, "nobody", payer_of=payer_of)
"""
CONFIG = """
model_list:
  - model_name: small
    litellm_params:
      model: openai/{model}
      api_base: {url}/v1
      api_key: not-a-key
  - model_name: spare
    litellm_params:
      model: openai/{model}
      api_base: {url}/v1
      api_key: not-a-key
router_settings:
  num_retries: 2
  fallbacks: [{{"small": ["spare"]}}]
litellm_settings:
  callbacks: limiter_callback.callback
  telemetry: false
general_settings:
  master_key: {key}
"""


@dataclass(frozen=True)
class LiteLLMProxy:
    url: str
    log: Path


@pytest.fixture(scope="module")
def proxy(
    service: Service, model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiteLLMProxy]:
    folder = tmp_path_factory.mktemp("proxy")
    (folder / "limiter_callback.py").write_text(CALLBACK.format(url=service.url), encoding="utf-8")
    config = CONFIG.format(url=model.url, model=OPENAI_MODEL, key=KEY)
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    port = free_port()
    command = Path(sys.executable).with_name("litellm")
    with (folder / "proxy.log").open("ab") as log:
        process = subprocess.Popen(
            [command, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        proxy = LiteLLMProxy(f"http://127.0.0.1:{port}", folder / "proxy.log")
        wait_for(proxy, process)
        yield proxy
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_S_MAX)


def wait_for(proxy: LiteLLMProxy, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{proxy.url}/health/liveliness", timeout=5).close()  # noqa: S310
            return
        time.sleep(POLL_S)
    raise AssertionError(f"the proxy does not answer: {proxy.log.read_text()[-4_000:]}")


class Caller:
    """What calls the proxy: an OpenAI SDK that knows nothing of the limiter."""

    def __init__(self, scene: Scene, proxy: LiteLLMProxy) -> None:
        self._scene = scene
        client = openai.AsyncOpenAI(api_key=KEY, base_url=proxy.url)
        scene.stack.push_async_exit(client)
        self._openai = client

    def ask(self, text: str, **options: Any) -> Any:
        return self._openai.chat.completions.create(
            model="small",
            messages=[{"role": "user", "content": text}],
            max_tokens=OUTPUT_TOKENS_MAX,
            extra_body={"metadata": {"workspace": self._scene.workspace_id}},
            **options,
        )

    async def stream(self, text: str) -> AsyncGenerator[str, None]:
        async for chunk in await self.ask(text, stream=True):
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                yield piece


def checks(service: Service) -> int:
    """How many checks the service has answered, whatever it said."""
    with urllib.request.urlopen(f"{service.url}/metrics", timeout=10) as reply:  # noqa: S310
        lines = reply.read().decode().splitlines()
    return sum(
        int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(CHECKS_METRIC)
    )


async def outcome(scene: Scene, caller: Caller, case: str) -> str:
    """Makes the call, and says what came of it as the page does."""
    before = checks(scene.service)
    scene.limit(TOO_LITTLE_MICROS if case == "denied" else PLENTY_MICROS)
    match case:
        case "allowed":
            answer = await caller.ask(PROMPT)
            assert answer.choices[0].message.content == ANSWER
        case "denied":
            with pytest.raises(openai.APIStatusError, match="is denied: hourly limit") as caught:
                await caller.ask(PROMPT)
            assert caught.value.status_code == 402
            assert (scene.model.requests, checks(scene.service) - before) == ([], 1)
            return "not called"
        case "streamed":
            assert "".join([piece async for piece in caller.stream(PROMPT)]) == ANSWER
        case "cancelled mid-stream":
            await cancelled_in(caller.stream(f"{PROMPT} {STOPS}"))
        case "model error":
            with pytest.raises(openai.APIStatusError, match="the model is ill"):
                await caller.ask(f"{PROMPT} {FAILS}")
    spent_micros = await scene.settled()
    # The proxy and its caller try a model again that is ill: each time is asked for.
    assert len(scene.held_micros) == checks(scene.service) - before
    (held_micros,) = set(scene.held_micros)
    return f"held {held_micros}, " + (f"recorded {spent_micros}" if spent_micros else "given back")


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("case", CASES)
async def test_the_page_says_what_happens(scene: Scene, proxy: LiteLLMProxy, case: str) -> None:
    assert await outcome(scene, Caller(scene, proxy), case) == row("LiteLLM, proxy")[case]
