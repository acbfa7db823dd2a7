"""A runaway agent, with and without the limiter: $18.00 or $1.00.

An agent hands its task to five sub-agents, is not satisfied with what they bring, and does so
again, thirty times over. Each call of the model costs two cents. Nothing in the agent stops it.

    make run                                        # in another terminal
    .venv/bin/python examples/runaway_agent.py

The model is a fake one in this file: nothing is spent, and no key is needed.
"""

from __future__ import annotations

import argparse
import asyncio
import uuid
from dataclasses import dataclass, field

from limiter.client import AsyncClient, CallDenied
from limiter.errors import LimiterError
from limiter.money import format_dollars

WORKSPACE = "runaway-demo"
ROUNDS = 30
SUB_AGENTS = 5
CALLS_OF_A_SUB_AGENT = 6

# Micros are millionths of a dollar: this model costs 2.50 and 10.00 dollars a million tokens. It
# always talks for as long as it may, so a call costs just what it was estimated to cost at most.
INPUT_TOKENS, INPUT_MICROS_PER_MILLION = 4_000, 2_500_000
OUTPUT_TOKENS, OUTPUT_MICROS_PER_MILLION = 1_000, 10_000_000
CALL_MICROS = (
    INPUT_TOKENS * INPUT_MICROS_PER_MILLION + OUTPUT_TOKENS * OUTPUT_MICROS_PER_MILLION
) // 1_000_000
LIMIT_MICROS = 1_000_000

MODEL_S = 0.002


@dataclass
class Model:
    """Takes a moment, and money."""

    calls: int = 0

    async def ask(self) -> str:
        self.calls += 1
        await asyncio.sleep(MODEL_S)
        return "I am not sure yet. Let me think about it again."

    @property
    def cost_micros(self) -> int:
        return self.calls * CALL_MICROS


@dataclass
class Agent:
    """An agent whose sub-agents each are a chat below its own. Without a limiter it just calls."""

    model: Model
    chat_id: str
    limiter: AsyncClient | None = None
    sub_agents: int = 0
    denials: list[CallDenied] = field(default_factory=list)

    async def run(self) -> None:
        for _ in range(ROUNDS):
            numbers = range(self.sub_agents, self.sub_agents + SUB_AGENTS)
            self.sub_agents += SUB_AGENTS
            ends = await asyncio.gather(
                *(self._sub_agent(f"{self.chat_id}-{number}") for number in numbers),
                return_exceptions=True,
            )
            for end in ends:
                if isinstance(end, CallDenied):
                    self.denials.append(end)
                elif end is not None:
                    raise end
            if self.denials:
                return

    async def _sub_agent(self, chat_id: str) -> None:
        for _ in range(CALLS_OF_A_SUB_AGENT):
            await self._call(chat_id)

    async def _call(self, chat_id: str) -> None:
        if self.limiter is None:
            await self.model.ask()
            return
        async with self.limiter.call(
            WORKSPACE, chat_id, CALL_MICROS, parent_chat_id=self.chat_id
        ) as call:
            await self.model.ask()
            call.cost(CALL_MICROS)


async def without_the_limiter() -> None:
    model = Model()
    await Agent(model, "unlimited").run()
    print("Without the limiter")
    print(f"  {model.calls} calls, {format_dollars(model.cost_micros)}. Nobody stopped it.")
    print()


async def with_the_limiter(limiter: AsyncClient, url: str) -> None:
    model, chat_id = Model(), f"run-{uuid.uuid4().hex[:8]}"
    # The first call of a chat creates it: here with the limit for the whole tree below it.
    async with limiter.call(WORKSPACE, chat_id, 0, spend_limit_micros=LIMIT_MICROS):
        pass
    agent = Agent(model, chat_id, limiter)
    await agent.run()
    counted = await limiter.chat_usage(WORKSPACE, chat_id)

    print(f"With the limiter, and {format_dollars(LIMIT_MICROS)} for the agent and all below it")
    print(f"  {model.calls} calls, {format_dollars(model.cost_micros)}. Then it was told:")
    print(f"  {agent.denials[-1]}")
    print()
    print(
        f"The limiter has counted {format_dollars(counted.spent_micros)} for {chat_id} and its"
        f" {len(counted.children)} sub-agents, and holds {format_dollars(counted.held_micros)}."
    )
    print()
    print("Where to look")
    print(f"  the page       {url}/workspaces/{WORKSPACE}")
    print(f"  a terminal     limiter usage {WORKSPACE} {chat_id}")
    print(
        f"  Redis itself   limiter redis-cli HMGET 'lim:{{0}}:{WORKSPACE}:chat:{chat_id}'"
        " limit.lifetime spent.lifetime held"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the limiter's address")
    url = parser.parse_args().url.rstrip("/")
    print(
        f"An agent with {SUB_AGENTS} sub-agents at a time asks a model again and again."
        f" A call costs {format_dollars(CALL_MICROS)}."
    )
    print()
    await without_the_limiter()
    # Without an answer the program ends, where by default it would go on without the limiter.
    async with AsyncClient(url, outage_policy="deny") as limiter:
        try:
            await with_the_limiter(limiter, url)
        except LimiterError as error:
            raise SystemExit(f"{error}. Is the limiter running at {url}? Try `make run`.") from None


if __name__ == "__main__":
    asyncio.run(main())
