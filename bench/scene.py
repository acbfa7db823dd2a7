"""The call that every contender makes: four windows, and a chat tree two deep, holding.

Limits are never reached. Each round has a workspace of its own, so that none inherits another's
holds. It must not measure.
"""

from __future__ import annotations

import json

import redis

from limiter.periods import PERIOD_NAMES
from limiter.redis.keys import Keys
from limiter.redis.scripts import bundled_scripts

LIMIT_MICROS = 10**14
LIMITS: dict[str, int | None] = dict.fromkeys(PERIOD_NAMES, LIMIT_MICROS)
ESTIMATE_MICROS = 12_000
COST_MICROS = 9_000
HOLD_MS = 600_000
MEMORY_MS = 3_600_000
ROOT, LEAF = "root", "leaf"
WORKSPACE = "bench"
EPOCH = 1
USAGE = '{"model":"gpt-4o","input_tokens":4808,"output_tokens":10}'

# Databases of one server: who drains a stream must not find the entries of the others in it.
LIMITER_DB, PLAIN_DB, RESTING_DB = 0, 1, 2

Argument = str | int


def check_body(workspace_id: str) -> dict[str, object]:
    """What is sent to POST /check."""
    return {"workspace_id": workspace_id, "chat_id": LEAF, "estimate_micros": ESTIMATE_MICROS}


def chat_bodies(workspace_id: str) -> list[dict[str, object]]:
    """What is sent to POST /check first, for the chats to be there."""
    workspace = {"workspace_id": workspace_id}
    return [
        {**workspace, "chat_id": ROOT, "spend_limit_micros": LIMIT_MICROS},
        {**workspace, "chat_id": LEAF, "parent_chat_id": ROOT},
    ]


def keys_of(workspace_id: str) -> tuple[str, str]:
    """The keys of a call."""
    keys = Keys()
    return keys.workspace(workspace_id), keys.stream(workspace_id)


def check_arguments(
    reservation_id: str,
    *,
    estimate_micros: int = ESTIMATE_MICROS,
    chat: str = LEAF,
    parent: str = "",
    limit: Argument = "",
    is_new: bool = False,
) -> tuple[Argument, ...]:
    """ARGV of the check script, whose reservation id was made for this call."""
    return (
        *(MEMORY_MS, estimate_micros, reservation_id, 1, "fingerprint", HOLD_MS),
        *(chat, parent, limit, EPOCH if is_new else ""),
    )


def record_arguments(event_id: str, reservation_id: str) -> tuple[Argument, ...]:
    """ARGV of the record script, for a call that settles its reservation."""
    return (
        *(MEMORY_MS, event_id, 0, "fingerprint", COST_MICROS, reservation_id),
        *(LEAF, "", "", "", "", "", "", "", "", 1, USAGE),
    )


def put_workspace(client: redis.Redis, workspace_id: str) -> None:
    """Puts it on the server by the scripts alone, for those who call them without the service."""
    scripts = bundled_scripts()
    digests = {name: client.script_load(scripts[name].text) for name in scripts.names}
    keys = keys_of(workspace_id)
    limits = {f"limit.{name}": str(limit) for name, limit in LIMITS.items()}
    numbers = dict.fromkeys(("seq", "spent_at", "clock", "unpriced"), "0")
    stored = {
        **numbers,
        "config": limits,
        "revision": "1",
        "windows": {},
        "holds": [],
        "events": [],
    }
    client.evalsha(digests["load_workspace"], 1, keys[0], json.dumps(stored), EPOCH, MEMORY_MS)
    for arguments in (
        check_arguments("-", estimate_micros=0, chat=ROOT, limit=LIMIT_MICROS, is_new=True),
        check_arguments("-", estimate_micros=0, chat=LEAF, parent=ROOT, is_new=True),
    ):
        reply = client.evalsha(digests["check"], 2, *keys, *arguments)
        assert reply[0] == b"admitted", reply
