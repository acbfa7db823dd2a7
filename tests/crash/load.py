"""Concurrent clients that check, record and release, and repeat each call until acknowledged.

They keep the tally that the service is held against. They must not know what is killed, nor when.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CALL_S_MAX = 10.0
CALL_ATTEMPTS_MAX = 500
REPEAT_PAUSE_S = 0.02

# Every workspace has this tree: a root, two below it, and one below the first of those.
TREE = {"root": None, "left": "root", "right": "root", "leaf": "left"}
LIMIT_MICROS = 10**12


class NotAcknowledged(Exception):
    """A call was repeated as often as it may be."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`sent_s`: when its request was, in seconds of the monotonic clock."""

    status: int
    body: dict[str, Any]
    sent_s: float


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A record that was answered with 200 (or 202: `queued`), once and for all.

    `sent_s`: when the attempt was made that was answered. Seconds of the monotonic clock.
    """

    workspace_id: str
    event_id: str
    chat_id: str
    cost_micros: int
    queued: bool
    sent_s: float
    at_s: float

    def may_be_lost(self, losses: Sequence[tuple[float, float]], tail_s: float) -> bool:
        """Whether Redis alone may have had it when it was emptied, `tail_s` not being durable yet.

        `losses`: when each was begun, and when it was complete. An answer may still arrive when
        what it speaks of is gone.
        """
        return any(
            self.sent_s <= complete_s and self.at_s > begun_s - tail_s
            for begun_s, complete_s in losses
        )


@dataclass(slots=True)
class Tally:
    """What the clients know. `parents`: of every chat that any of them named, by workspace.

    `surprises`: answers that no call should have got.
    """

    records: list[Acknowledged] = field(default_factory=list)
    parents: dict[str, dict[str, str | None]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)


class Connection:
    """One keep-alive connection. Who is waiting for an answer when it breaks gets an OSError."""

    def __init__(self, port: int, running: asyncio.Event) -> None:
        self._port = port
        self._running = running
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, path: str, body: object = None) -> Answer:
        """One attempt. Raises OSError, EOFError or TimeoutError when there is no answer."""
        await self._running.wait()
        sent_s = time.monotonic()
        try:
            async with asyncio.timeout(CALL_S_MAX):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                data = b"" if body is None else json.dumps(body).encode()
                request = (
                    f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n"
                    f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
                )
                writer.write(request.encode() + data)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                content = await reader.readexactly(int(headers.get("content-length", "0")))
        except BaseException:
            self.close()
            raise
        if headers.get("connection") == "close":
            self.close()
        return Answer(int(head[0].split(" ")[1]), json.loads(content) if content else {}, sent_s)

    async def insist(self, method: str, path: str, body: object = None) -> tuple[Answer, int]:
        """The same call until it is answered, and how often it was made. 5xx is no answer."""
        for attempt in range(1, CALL_ATTEMPTS_MAX + 1):
            with contextlib.suppress(OSError, EOFError):
                answer = await self.call(method, path, body)
                if answer.status < 500:
                    return answer, attempt
            await asyncio.sleep(REPEAT_PAUSE_S)
        raise NotAcknowledged(f"{method} {path}: {CALL_ATTEMPTS_MAX} attempts")

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Client:
    """Makes calls one after the other until told to stop; a call that was begun is ended."""

    def __init__(
        self,
        number: int,
        connection: Connection,
        tally: Tally,
        random_source: random.Random,
        *,
        hold_ms: int,
    ) -> None:
        self._number = number
        self._connection = connection
        self._tally = tally
        self._random = random_source
        self._hold_ms = hold_ms

    async def run(self, stopping: asyncio.Event) -> None:
        turn = 0
        while not stopping.is_set():
            turn += 1
            try:
                await self._pair(f"{self._number}-{turn}")
            except NotAcknowledged as error:
                self._tally.surprises.append(str(error))
                break
        self._connection.close()

    async def _pair(self, name: str) -> None:
        choose, tally = self._random, self._tally
        workspace_id = choose.choice(list(tally.parents))
        parents = tally.parents[workspace_id]
        chat_id = choose.choice(list(TREE))
        parent: str | None = TREE[chat_id]
        if choose.random() < 0.1:
            # A chat that this very check creates, below one that is there for certain.
            chat_id, parent = f"new-{name}", chat_id
            parents[chat_id] = parent
        place: dict[str, object] = {"workspace_id": workspace_id, "chat_id": chat_id}
        if parent is not None:
            place["parent_chat_id"] = parent
        reservation_id = f"r-{name}"
        check = {
            **place,
            "reservation_id": reservation_id,
            "estimate_micros": choose.randrange(1_000, 2_000),
            "hold_ms": self._hold_ms,
        }
        answer, attempts = await self._connection.insist("POST", "/check", check)
        self._count("check", attempts)
        # A hold may have expired, or have been settled by nobody but its own expiry.
        if answer.status != 200 and answer.body.get("code") != "reservation_settled":
            tally.surprises.append(f"check {name}: {answer}")
        tally.counts["degraded"] += answer.body.get("degraded") is True
        if choose.random() < 0.1:
            await self._release(workspace_id, reservation_id)
        else:
            await self._record(name, place, reservation_id)

    async def _record(self, name: str, place: dict[str, object], reservation_id: str) -> None:
        event_id = f"e-{name}"
        cost_micros = self._random.randrange(1, 2_000)
        body = {
            **place,
            "reservation_id": reservation_id,
            "event_id": event_id,
            "cost_micros": cost_micros,
        }
        answer, attempts = await self._connection.insist("POST", "/record", body)
        self._count("record", attempts)
        if answer.status not in (200, 202) or answer.body["charged_micros"] != cost_micros:
            self._tally.surprises.append(f"record {name}: {answer}")
        self._tally.records.append(
            Acknowledged(
                workspace_id=str(place["workspace_id"]),
                event_id=event_id,
                chat_id=str(place["chat_id"]),
                cost_micros=cost_micros,
                queued=answer.status == 202,
                sent_s=answer.sent_s,
                at_s=time.monotonic(),
            )
        )

    async def _release(self, workspace_id: str, reservation_id: str) -> None:
        body = {"workspace_id": workspace_id, "reservation_id": reservation_id}
        answer, attempts = await self._connection.insist("POST", "/release", body)
        self._count("release", attempts)
        # A check that was let pass without Redis held nothing; nor does a Redis that lost it.
        if answer.status not in (200, 404):
            self._tally.surprises.append(f"release {reservation_id}: {answer}")

    def _count(self, what: str, attempts: int) -> None:
        self._tally.counts[what] += 1
        self._tally.counts["repeats"] += attempts - 1


async def make_workspaces(connection: Connection, tally: Tally, number: int) -> None:
    """Workspaces with a chat tree each and limits that nothing here reaches."""
    for index in range(number):
        workspace_id = f"w{index}"
        path = f"/config/workspaces/{workspace_id}"
        limits = {"budget_limits": {"hourly": LIMIT_MICROS, "monthly": LIMIT_MICROS}}
        answers = [await connection.insist("PUT", path, limits)]
        for chat_id, parent in TREE.items():
            body = {"parent_chat_id": parent, "spend_limit_micros": LIMIT_MICROS}
            answers.append(await connection.insist("PUT", f"{path}/chats/{chat_id}", body))
        assert all(answer.status == 200 for answer, _ in answers), answers
        tally.parents[workspace_id] = dict(TREE)
