"""A tree of data, made by calls: two workspaces, chats three deep, holds, a source, no price."""

from __future__ import annotations

from typing import Any

import msgspec

from limiter.models import ChatPatch, CheckRequest, RecordRequest, ReleaseRequest, WorkspacePatch
from limiter.service import Limiter

WORKSPACES = ("acme", "zeta")
CHATS = ("c1", "c2", "c3", "d1")
RECORDS = 6


def no_progress(done: int, total: int) -> None:
    """Nobody looks."""


async def build(limiter: Limiter) -> None:
    """For each workspace RECORDS records of 1,110 + 5 micros in all, two live holds of 70."""
    for workspace_id in WORKSPACES:
        await limiter.configure(
            workspace_id, WorkspacePatch(budget_limits={"hourly": 10_000, "monthly": None})
        )
        parent = None
        for number, chat_id in enumerate(("c1", "c2", "c3")):
            await limiter.record(
                RecordRequest(
                    workspace_id=workspace_id,
                    chat_id=chat_id,
                    parent_chat_id=parent,
                    event_id=f"e{number}",
                    cost_micros=10 ** (number + 1),
                )
            )
            parent = chat_id
        await limiter.configure_chat(workspace_id, "c1", ChatPatch(spend_limit_micros=5_000))
        await limiter.record(
            RecordRequest(workspace_id=workspace_id, cumulative_micros=3, source="worker")
        )
        for number, micros in enumerate((20, 50, 7, 9)):
            await limiter.check(
                CheckRequest(
                    workspace_id=workspace_id,
                    chat_id=("c3", "d1", "c2", "c2")[number],
                    estimate_micros=micros,
                    reservation_id=f"r{number}",
                )
            )
        await limiter.release(ReleaseRequest(workspace_id=workspace_id, reservation_id="r2"))
        for event_id, micros in (("late", 1), ("e9", 1)):
            reservation_id = "r3" if event_id == "late" else None
            await limiter.record(
                RecordRequest(
                    workspace_id=workspace_id,
                    event_id=event_id,
                    reservation_id=reservation_id,
                    cost_micros=micros,
                )
            )


async def usages(limiter: Limiter) -> dict[str, Any]:
    """Every counter that the API shows, by scope, without the moment at which it was asked."""
    found: dict[str, Any] = {}
    for workspace_id in WORKSPACES:
        usage = msgspec.to_builtins(await limiter.usage(workspace_id))
        del usage["at"]
        found[workspace_id] = usage
        for chat_id in CHATS:
            chat = await limiter.chat_usage(workspace_id, chat_id)
            found[f"{workspace_id} {chat_id}"] = msgspec.to_builtins(chat)
    return found
