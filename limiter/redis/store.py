"""The scripts as typed calls: arguments in, results or errors out.

A call that meets a scope which is not in Redis returns `Cold`: the service loads it from durable
storage and calls again. It must not decide anything and knows no storage but Redis.
"""

from __future__ import annotations

import secrets
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import msgspec

from limiter.errors import (
    ChatCycle,
    ChatParentImmutable,
    ChatTooDeep,
    CounterOverflow,
    IdReused,
    InvalidRequest,
    ReservationChatMismatch,
    ReservationNotFound,
    ReservationSettled,
    ScriptError,
)
from limiter.models import (
    DEPTH_MAX,
    LATE_STATES,
    Admitted,
    ChatUsage,
    CheckRequest,
    Denied,
    Recorded,
    Released,
    Reservation,
    WorkspaceUsage,
    iso_ms,
)
from limiter.money import MICROS_MAX
from limiter.periods import LIFETIME
from limiter.redis import replies
from limiter.redis.arguments import config_fields, text, workspace_json
from limiter.redis.keys import Keys, require_id
from limiter.redis.reads import RedisReads
from limiter.redis.server import Link
from limiter.stored import (
    ResolvedRecord,
    StoredChat,
    StoredSource,
    StoredWorkspace,
    WorkspaceCounters,
    WorkspaceSettings,
)
from limiter.views import Explanation


@dataclass(frozen=True, slots=True)
class Cold:
    """A scope that has to be loaded before the call can be answered.

    `epoch` of the workspace, 0 where it is the workspace that is cold.
    """

    kind: Literal["workspace", "chat", "source"]
    id: str = ""
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What a call learned from durable storage about scopes that are not in Redis, and when.

    The epochs in which it had no such chat as the call's own, and knew `source`; None: not asked.
    """

    new_chat_in: int | None = None
    source: StoredSource | None = None
    source_in: int | None = None


NOTHING_KNOWN: Final = Known()


class RedisStore:
    """All counters. `memory_ms`: how long ids of requests are remembered."""

    def __init__(self, link: Link, keys: Keys, *, memory_ms: int) -> None:
        self._link = link
        self._keys = keys
        self._memory_ms = memory_ms
        self.reads = RedisReads(link, keys)

    # ------------------------------------------------------------------ decisions

    async def check(
        self,
        request: CheckRequest,
        *,
        estimate_micros: int | None,
        reservation_id: str,
        fingerprint: str,
        hold_ms: int,
        known: Known,
    ) -> Admitted | Denied | Cold:
        """Admits and holds, or denies. `estimate_micros` None: the workspace's default."""
        is_fresh = request.reservation_id is None
        reply = await self._call(
            "check",
            request.workspace_id,
            text(estimate_micros),
            reservation_id if is_fresh else require_id(reservation_id, "reservation_id"),
            int(is_fresh),
            fingerprint,
            hold_ms,
            request.chat_id or "",
            request.parent_chat_id or "",
            request.spend_limit_micros or "",
            text(known.new_chat_in),
        )
        status = reply[0]
        if status == b"admitted":
            (_, held_id, held, expires_at, duplicate), periods, chat = replies.outcome(reply)
            reservation = None
            if held_id:
                reservation = Reservation(
                    id=held_id.decode(), held_micros=held, expires_at=iso_ms(expires_at)
                )
            return Admitted(
                duplicate=duplicate == 1,
                reservation=reservation,
                periods=periods,
                chat=chat,
            )
        if status == b"denied":
            return replies.denied(reply)
        if status == b"id_reused":
            raise IdReused("reservation_id", reservation_id)
        if status == b"settled":
            raise ReservationSettled(reservation_id, replies.STATES[reply[1]])
        return _cold_or_raise(reply, request.chat_id)

    async def record(
        self,
        record: ResolvedRecord,
        *,
        id_is_fresh: bool,
        known: Known,
    ) -> Recorded | Cold:
        """Charges once per event id. `id_is_fresh`: the id was made for this call."""
        source = known.source
        reply = await self._call(
            "record",
            record.workspace_id,
            require_id(record.event_id, "event_id"),
            int(id_is_fresh),
            record.fingerprint,
            record.cost_micros,
            record.reservation_id or "",
            record.chat_id or "",
            record.parent_chat_id or "",
            record.spend_limit_micros or "",
            text(known.new_chat_in),
            record.source or "",
            text(record.sequence),
            text(None if source is None else source.total_micros),
            text(None if source is None else source.sequence),
            text(known.source_in),
            int(record.priced),
            record.data or "",
        )
        status = reply[0]
        if status == b"recorded":
            (_, _now, charged, duplicate, state), periods, chat = replies.outcome(reply)
            reservation_state = replies.STATES.get(state)
            return Recorded(
                duplicate=duplicate == 1,
                late=reservation_state in LATE_STATES,
                priced=record.priced,
                event_id=record.event_id,
                charged_micros=charged,
                reservation_state=reservation_state,
                periods=periods,
                chat=chat,
            )
        if status == b"id_reused":
            raise IdReused("event_id", record.event_id)
        if status == b"reservation_chat":
            raise ReservationChatMismatch(record.reservation_id or "")
        return _cold_or_raise(reply, record.chat_id)

    async def release(self, workspace_id: str, reservation_id: str) -> Released | Cold:
        reply = await self._call(
            "release", workspace_id, require_id(reservation_id, "reservation_id")
        )
        if reply[0] != b"released":
            return _cold_or_raise(reply, None)
        _, _now, micros, state = reply
        if state == b"u":
            raise ReservationNotFound(reservation_id)
        was_held = state == b"h"
        return Released(
            released=state in (b"h", b"l"),
            duplicate=not was_held,
            reservation_id=reservation_id,
            state="released" if was_held else replies.STATES[state],
            released_micros=micros,
        )

    async def usage(
        self, workspace_id: str, chat_id: str | None = None
    ) -> tuple[WorkspaceUsage, list[ChatUsage]] | Cold:
        """Every counter, and the chats from `chat_id` up to its root."""
        reply = await self._call("usage", workspace_id, chat_id or "")
        if reply[0] != b"usage":
            return _cold_or_raise(reply, chat_id)
        _, now_ms, workspace, live_holds, unpriced, frees_at, chats = reply
        periods = {
            name: msgspec.structs.replace(
                period, resets_at=None if frees_at[index] == b"" else iso_ms(int(frees_at[index]))
            )
            for index, (name, period) in enumerate(replies.periods(workspace).items())
        }
        usage = WorkspaceUsage(
            workspace_id=workspace_id,
            at=iso_ms(now_ms),
            periods=periods,
            held_micros=workspace[0],
            live_holds=live_holds,
            unpriced_records=unpriced,
        )
        return usage, [chat for chat in map(replies.chat, chats) if chat]

    async def explain(
        self, workspace_id: str, chat_id: str | None, estimate_micros: int | None
    ) -> Explanation | Cold:
        """What a check would say, without making it. `estimate_micros` None: the default."""
        reply = await self._call("explain", workspace_id, text(estimate_micros), chat_id or "")
        if reply[0] != b"explained":
            return _cold_or_raise(reply, chat_id)
        return replies.explanation(workspace_id, chat_id, reply)

    # ------------------------------------------------------------------ configuration, loading

    async def configure_workspace(
        self, workspace_id: str, settings: WorkspaceSettings, revision: int
    ) -> None:
        """Brings a newer configuration here; a cold workspace will be loaded with it anyway."""
        fields = [part for pair in config_fields(settings).items() for part in pair]
        key = self._keys.workspace(workspace_id)
        await self._run_config("configure", (key,), revision, *fields)

    async def configure_chat(
        self, workspace_id: str, chat_id: str, limit_micros: int | None, revision: int
    ) -> None:
        key = self._keys.chat(workspace_id, chat_id)
        await self._run_config(
            "configure", (key,), revision, f"limit.{LIFETIME}", text(limit_micros)
        )

    async def load_workspace(self, workspace_id: str, stored: StoredWorkspace) -> None:
        """Puts a cold workspace in place, unless another caller has done so."""
        key = self._keys.workspace(workspace_id)
        # A number that no other load had, so that what was read for an earlier life of the
        # workspace is known by it: a counter would begin again in a Redis that was emptied.
        epoch = 1 + secrets.randbelow(MICROS_MAX)
        await self._run_config(
            "load_workspace", (key,), workspace_json(stored), epoch, self._memory_ms
        )

    async def load_chat(self, workspace_id: str, stored: StoredChat, epoch: int) -> None:
        """Puts a cold chat in place, unless another caller has done so.

        `epoch`: the workspace's before durable storage was asked. If it is another by now, nothing
        is done.
        """
        await self._run_config(
            "load_chat",
            (
                self._keys.workspace(workspace_id),
                self._keys.chat(workspace_id, stored.chat_id),
            ),
            stored.parent_chat_id or "",
            stored.root_chat_id,
            stored.depth,
            text(stored.limit_micros),
            stored.spent_micros,
            stored.own_spent_micros,
            stored.held_micros,
            stored.revision,
            epoch,
        )

    # ------------------------------------------------------------------ repairs

    async def forget(
        self,
        workspace_id: str,
        *,
        seq_below: int | None = None,
        idle_since_ms: int | None = None,
    ) -> bool:
        """Makes the workspace cold, if it is as old as said: its last entry older than `seq_below`;
        nothing held, and nothing changed since `idle_since_ms` of the Redis clock.
        """
        key = self._keys.workspace(workspace_id)
        reply = await self._link.run("forget", (key,), text(seq_below), text(idle_since_ms))
        return bool(reply[0] == b"forgotten")

    async def inspect(
        self, workspace_id: str, chat_ids: Sequence[str] = ()
    ) -> WorkspaceCounters | None:
        """The counters as they lie in Redis, of these chats as well; None if it is cold.

        Changes nothing. `chat_ids` should be some hundreds at most: it is one script call.
        """
        keys = (
            self._keys.workspace(workspace_id),
            *(self._keys.chat(workspace_id, chat_id) for chat_id in chat_ids),
        )
        reply = await self._link.run("inspect", keys)
        return None if reply[0] == b"cold" else replies.counters(reply, chat_ids)

    async def sweep(self, workspace_id: str, keys: Sequence[str]) -> int:
        """Removes those chats and sources that are of an earlier epoch; returns how many."""
        reply = await self._link.run("sweep", (self._keys.workspace(workspace_id), *keys))
        return int(reply[1])

    async def retract(
        self,
        workspace_id: str,
        *,
        stream_id: str,
        at_ms: int,
        micros: int,
        chat_ids: Sequence[str],
    ) -> None:
        """Takes a charge back out, with its stream entry. `chat_ids`: from the chat to its root."""
        await self._call("retract", workspace_id, stream_id, at_ms, micros, *chat_ids)

    async def trim(self, partition: int, *, first: str, last: str) -> int:
        """Removes all entries up to `last` from a stream, and returns how many.

        `first`: one that was read and is still there, unless Redis was emptied since; then it is 0.
        """
        reply = await self._link.run("trim", (self._keys.partition_stream(partition),), first, last)
        if reply[0] != b"trimmed":
            raise ScriptError(f"trim: refused {first} to {last}")
        return int(reply[1])

    async def answers(self) -> bool:
        """Whether the server takes commands now. If it does, so do the calls here."""
        return await self._link.ping()

    # ------------------------------------------------------------------ calling

    def _call(
        self, name: str, workspace_id: str, *args: str | int
    ) -> Coroutine[Any, Any, list[Any]]:
        return self._link.run(name, self._keys.of_call(workspace_id), self._memory_ms, *args)

    async def _run_config(self, name: str, keys: tuple[str, ...], *args: str | int) -> None:
        reply = await self._link.run(name, keys, *args)
        if reply[0] == b"invalid":
            raise ScriptError(f"{name}: refused {reply[1].decode()!r} for {keys[-1]}")


def _cold_or_raise(reply: list[Any], chat_id: str | None) -> Cold:
    """What every script may say instead of its answer."""
    status = reply[0]
    chat = chat_id or ""
    if status == b"cold":
        _, kind, *named = reply
        scope_id, epoch = (named[0].decode(), int(named[1])) if named else ("", 0)
        return Cold(cast(Literal["workspace", "chat", "source"], kind.decode()), scope_id, epoch)
    if status == b"invalid":
        field = reply[1].decode()
        raise InvalidRequest(f"{field} is malformed or out of range", field=field)
    if status == b"counter_overflow":
        raise CounterOverflow("a counter would pass 2^53 - 1 micros")
    if status == b"chat_parent_immutable":
        raise ChatParentImmutable(chat)
    if status == b"chat_cycle":
        raise ChatCycle(chat)
    if status == b"chat_too_deep":
        raise ChatTooDeep(chat, DEPTH_MAX)
    raise ScriptError(f"unexpected status {status!r:.80}")
