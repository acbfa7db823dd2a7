"""Calls the scripts of one workspace by name and parses their replies, by the scripts' headers.

It speaks to the server itself, with nothing of the service between, and repeats a call only when
the script says `again`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from redis.exceptions import NoScriptError

from limiter.periods import PERIOD_NAMES
from limiter.redis.keys import Keys
from limiter.redis.scripts import ScriptSet
from tests.support.answers import (
    Admitted,
    Answer,
    ChatState,
    Denied,
    Recorded,
    Released,
    Said,
    Usage,
    Violation,
    WorkspaceState,
)

MEMORY_MS = 3_600_000
HOLD_MS = 600_000
AGAIN_MAX = 100

# What a script may be called with; None is the empty string.
Argument = str | bytes | int | None


class Driver:
    def __init__(
        self,
        client: redis.Redis,
        scripts: ScriptSet,
        *,
        workspace_id: str = "acme",
        partitions: int = 1,
        memory_ms: int = MEMORY_MS,
    ) -> None:
        self.client = client
        self.scripts = scripts
        self.memory_ms = memory_ms
        self.workspace_id = workspace_id
        self.names = Keys(partitions)
        self.workspace_key = self.names.workspace(workspace_id)
        self.stream_key = self.names.stream(workspace_id)
        self.again_count = 0
        self.epoch = 0
        self._shas = {name: scripts[name].sha for name in scripts.names}

    # ----------------------------------------------------------------- raw calls

    def call(self, name: str, *args: Argument, key: str | None = None) -> list[Any]:
        """A script's reply as it is. `key` replaces KEYS[1], the workspace."""
        script = self.scripts[name]
        try:
            try:
                reply = self.client.execute_command(*self.command(name, *args, key=key))
            except NoScriptError:
                reply = self.client.execute_command(
                    "EVAL", script.text, *self.command(name, *args, key=key)[2:]
                )
        except redis.ResponseError as error:
            raise script.locate(str(error)) from error
        assert isinstance(reply, list)
        return reply

    def command(self, name: str, *args: Argument, key: str | None = None) -> tuple[Any, ...]:
        """A call as a command, for use in a pipeline."""
        keys = [key or (self.stream_key if name == "trim" else self.workspace_key)]
        if name == "load_chat":
            keys.insert(0, self.workspace_key)
        elif name not in ("configure", "load_workspace", "forget", "trim"):
            keys.append(self.stream_key)
        values = ["" if value is None else value for value in args]
        return ("EVALSHA", self._shas[name], len(keys), *keys, *values)

    def preload(self) -> None:
        """Puts all scripts on the server, as calls in a pipeline need them there."""
        for name in self.scripts.names:
            self.client.execute_command("SCRIPT", "LOAD", self.scripts[name].text)

    def _settled(self, name: str, *args: Argument) -> list[Any]:
        for _ in range(AGAIN_MAX):
            reply = self.call(name, *args)
            if reply != [b"again"]:
                return reply
            self.again_count += 1
        raise AssertionError(f"{name} said 'again' {AGAIN_MAX} times")

    # ----------------------------------------------------------------- the calls of the service

    def check(
        self,
        estimate: Argument = None,
        reservation_id: Argument = "r1",
        *,
        fresh: bool = False,
        payload: Argument = "payload",
        hold_ms: Argument = HOLD_MS,
        chat: Argument = None,
        parent: Argument = None,
        limit: Argument = None,
        new: bool = False,
    ) -> Answer:
        args: list[Argument] = [
            *[self.memory_ms, estimate, reservation_id, int(fresh), payload, hold_ms],
            *[chat, parent, limit, self.epoch if new else None],
        ]
        return parse(self._settled("check", *args))

    def record(
        self,
        cost: Argument,
        event_id: Argument = "e1",
        reservation_id: Argument = None,
        *,
        fresh: bool = False,
        payload: Argument = "payload",
        chat: Argument = None,
        parent: Argument = None,
        limit: Argument = None,
        new: bool = False,
        source: Argument = None,
        sequence: Argument = None,
        stored_total: Argument = None,
        stored_sequence: Argument = None,
        priced: bool = True,
        data: Argument = "{}",
    ) -> Answer:
        args: list[Argument] = [
            *[self.memory_ms, event_id, int(fresh), payload, cost, reservation_id],
            *[chat, parent, limit, self.epoch if new else None, source, sequence],
            *[stored_total, stored_sequence, None if stored_total is None else self.epoch],
            *[int(priced), data],
        ]
        return parse(self._settled("record", *args))

    def release(self, reservation_id: Argument) -> Answer:
        return parse(self._settled("release", self.memory_ms, reservation_id))

    def usage(self, chat: Argument = None) -> Usage:
        answer = parse(self._settled("usage", self.memory_ms, chat))
        assert isinstance(answer, Usage), answer
        return answer

    def usage_command(self, chat: Argument = None) -> tuple[Any, ...]:
        return self.command("usage", self.memory_ms, chat)

    def configure(
        self, revision: Argument, fields: Mapping[str, Argument], *, chat: str | None = None
    ) -> Answer:
        """`fields`: None removes one."""
        flat = [item for pair in fields.items() for item in pair]
        key = self.names.chat(self.workspace_id, chat) if chat else None
        return parse(self.call("configure", revision, *flat, key=key))

    def load(
        self,
        config: Mapping[str, Argument] | None = None,
        *,
        revision: int = 1,
        seq: int = 0,
        spent_at: int = 0,
        clock: int = 0,
        unpriced: int = 0,
        windows: Mapping[str, Sequence[tuple[int, int]]] | None = None,
        holds: Sequence[tuple[str, int, int, str, str]] = (),
        events: Sequence[tuple[str, str, int]] = (),
    ) -> Answer:
        """Loads the workspace. Shapes as in the header of load_workspace.lua, but with integers."""
        fields = {name: value for name, value in (config or {}).items() if value is not None}
        stored = {
            "config": {name: str(value) for name, value in fields.items()},
            "revision": str(revision),
            "seq": str(seq),
            "spent_at": str(spent_at),
            "clock": str(clock),
            "unpriced": str(unpriced),
            "windows": {
                period: [[str(start), str(micros)] for start, micros in buckets]
                for period, buckets in (windows or {}).items()
            },
            "holds": [[str(item) for item in hold] for hold in holds],
            "events": [[str(item) for item in event] for event in events],
        }
        answer = parse(
            self.call("load_workspace", json.dumps(stored), self.epoch + 1, self.memory_ms)
        )
        if answer == Said("loaded"):
            self.epoch += 1
        return answer

    def load_chat(
        self,
        chat: str,
        parent: str = "",
        *,
        root: str | None = None,
        depth: Argument = 1,
        limit: Argument = None,
        spent: Argument = 0,
        own: Argument = 0,
        held: Argument = 0,
        revision: Argument = 0,
    ) -> Answer:
        args: list[Argument] = [parent, root or chat, depth, limit, spent, own, held, revision]
        args.append(self.epoch)
        return parse(self.call("load_chat", *args, key=self.names.chat(self.workspace_id, chat)))

    def forget(self, seq_below: Argument = None, idle_since: Argument = None) -> Answer:
        return parse(self.call("forget", seq_below, idle_since))

    def entries(self, after: str = "-") -> list[tuple[str, dict[str, str]]]:
        """The stream's entries after an id, oldest first: their ids and fields."""
        return parse_entries(self.client.execute_command(*self.entries_command(after)))

    def entries_command(self, after: str = "-") -> tuple[Any, ...]:
        return ("XRANGE", self.stream_key, after if after == "-" else f"({after}", "+")


# --------------------------------------------------------------------- replies


def parse(reply: Sequence[Any]) -> Answer:
    match [_text(reply[0]), *reply[1:]]:
        case ["admitted", reservation_id, micros, expires_at, duplicate, *counters]:
            return Admitted(
                _text(reservation_id), micros, expires_at, bool(duplicate), *_scopes(counters)
            )
        case ["denied", now, estimate, violations]:
            return Denied(now, estimate, [_violation(item) for item in violations])
        case ["recorded", now, charged, duplicate, letter, *counters]:
            return Recorded(now, charged, bool(duplicate), _text(letter), *_scopes(counters))
        case ["released", now, micros, letter]:
            return Released(now, micros, _text(letter))
        case ["usage", now, workspace, live_holds, unpriced, frees_at, chats]:
            return Usage(
                now,
                workspace_state(workspace),
                live_holds,
                unpriced,
                dict(zip(PERIOD_NAMES, map(_number, frees_at), strict=True)),
                [chat_state(chat) for chat in chats],
            )
        case ["cold", kind, scope_id, epoch] if int(epoch) > 0:
            return Said("cold", (_text(kind), _text(scope_id)))
        case [status, *details]:
            return Said(status, tuple(_text(detail) for detail in details))
    raise AssertionError(f"an empty reply: {reply!r}")


def _scopes(counters: Sequence[Any]) -> tuple[WorkspaceState, ChatState | None]:
    """The workspace's counters, and behind them the chat's if there is one."""
    chat_at = 1 + 2 * len(PERIOD_NAMES)
    chat = counters[chat_at:]
    return workspace_state(counters[:chat_at]), chat_state(chat) if chat else None


def workspace_state(block: Sequence[Any]) -> WorkspaceState:
    held, *pairs = block
    limits = dict(zip(PERIOD_NAMES, map(_number, pairs[0::2]), strict=True))
    spent = dict(zip(PERIOD_NAMES, pairs[1::2], strict=True))
    return WorkspaceState(held, limits, spent)


def chat_state(block: Sequence[Any]) -> ChatState:
    chat_id, parent, root, held, limit, spent, own = block
    return ChatState(_text(chat_id), _text(parent), _text(root), held, _number(limit), spent, own)


def _violation(item: Sequence[Any]) -> Violation:
    kind, scope_id, period, reason, limit, spent, held, retry_after_ms, transient = item
    return Violation(
        _text(kind),
        _text(scope_id),
        _text(period),
        _text(reason),
        limit,
        spent,
        held,
        _number(retry_after_ms),
        transient == 1,
    )


def parse_entries(reply: Any) -> list[tuple[str, dict[str, str]]]:
    return [(_text(entry_id), _text_fields(fields)) for entry_id, fields in reply]


def _number(value: Any) -> int | None:
    return None if value == b"" else int(value)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _text_fields(fields: Any) -> dict[str, str]:
    """A stream entry's fields: pairs in a flat list, or already a mapping."""
    if isinstance(fields, dict):
        return {_text(name): _text(value) for name, value in fields.items()}
    return {_text(name): _text(value) for name, value in zip(*[iter(fields)] * 2, strict=True)}
