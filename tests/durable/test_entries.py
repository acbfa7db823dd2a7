"""Stream entries: what the scripts write is understood, what they do not write is poison."""

from __future__ import annotations

import msgspec
import pytest

from limiter.durable import PoisonedEntry, parse_entry
from limiter.durable.entries import (
    ChatEntry,
    ExpireEntry,
    HoldEntry,
    RecordEntry,
    ReleaseEntry,
    position,
)
from limiter.durable.parse import DATA_LENGTH_MAX
from limiter.money import MICROS_MAX
from tests.durable.stream import flat

# In the order in which the scripts write them.
HEAD = {"workspace": "acme", "seq": "7", "at": "1700000000000"}
RECORD = (
    {"type": "record"}
    | HEAD
    | {
        "event": "e1",
        "charged": "9000",
        "fingerprint": "abc_-123456",
        "chat": "c1",
        "reservation": "r1",
        "state": "h",
        "priced": "1",
        "data": '{"usage": {}}',
    }
)
HOLD = (
    {"type": "hold"}
    | HEAD
    | {
        "reservation": "r1",
        "micros": "12000",
        "expires_at": "1700000600000",
        "chat": "",
        "fingerprint": "fp",
    }
)
RELEASE = {"type": "release"} | HEAD | {"reservation": "r1", "chat": ""}
EXPIRE = {"type": "expire"} | HEAD | {"reservation": "r1", "charged": "0", "chat": "c1"}
CHAT = (
    {"type": "chat"}
    | HEAD
    | {
        "chat": "c2",
        "parent": "c1",
        "root": "c1",
        "depth": "2",
        "limit": "",
    }
)


def parse(fields: dict[str, str]) -> object:
    return parse_entry(flat(fields), partition=3, stream_id=b"1700000000001-5")


def test_record() -> None:
    assert parse(RECORD) == RecordEntry(
        partition=3,
        stream_id="1700000000001-5",
        workspace_id="acme",
        seq=7,
        at_ms=1_700_000_000_000,
        event_id="e1",
        charged_micros=9_000,
        fingerprint="abc_-123456",
        chat_id="c1",
        reservation_id="r1",
        state="held",
        source=None,
        total_micros=None,
        sequence=None,
        priced=True,
        data='{"usage": {}}',
    )


@pytest.mark.parametrize("base", [RECORD, HOLD, RELEASE, EXPIRE, CHAT], ids=lambda b: b["type"])
def test_the_order_of_the_fields_does_not_matter(base: dict[str, str]) -> None:
    assert parse(dict(reversed(base.items()))) == parse(base)


def test_a_running_total() -> None:
    source = RECORD | {"source": "s1", "total": "10000", "sequence": "4"}
    entry = parse(source)
    assert isinstance(entry, RecordEntry)
    assert (entry.source, entry.total_micros, entry.sequence) == ("s1", 10_000, 4)
    without = parse(source | {"sequence": ""})
    assert isinstance(without, RecordEntry)
    assert without == msgspec.structs.replace(entry, sequence=None)
    del source["sequence"]
    assert parse(source) == without


def test_every_other_type() -> None:
    hold, release, expire, chat = parse(HOLD), parse(RELEASE), parse(EXPIRE), parse(CHAT)
    assert isinstance(hold, HoldEntry)
    assert (hold.micros, hold.expires_at_ms, hold.chat_id) == (12_000, 1_700_000_600_000, None)
    assert isinstance(release, ReleaseEntry)
    assert release.reservation_id == "r1"
    assert isinstance(expire, ExpireEntry)
    assert (expire.charged_micros, expire.event_id) == (0, "expiry:r1")
    assert isinstance(chat, ChatEntry)
    assert (chat.parent_chat_id, chat.root_chat_id, chat.depth) == ("c1", "c1", 2)
    assert chat.limit_micros is None


def test_the_largest_amount_and_text() -> None:
    entry = parse(RECORD | {"charged": str(MICROS_MAX), "data": "x" * DATA_LENGTH_MAX})
    assert isinstance(entry, RecordEntry)
    assert entry.charged_micros == MICROS_MAX


def test_a_field_of_a_newer_version_is_let_pass() -> None:
    assert parse(RECORD | {"colour": "blue"}) == parse(RECORD)


@pytest.mark.parametrize("base", [RECORD, HOLD, RELEASE, EXPIRE, CHAT], ids=lambda b: b["type"])
def test_no_field_may_be_missing(base: dict[str, str]) -> None:
    for name in base:
        with pytest.raises(PoisonedEntry, match=name):
            parse({key: value for key, value in base.items() if key != name})


@pytest.mark.parametrize(
    "fields",
    [
        RECORD | {"type": "refund"},
        RECORD | {"workspace": "a:b"},
        RECORD | {"workspace": "acme\n"},
        RECORD | {"workspace": ""},
        RECORD | {"event": "x" * 129},
        RECORD | {"event": "expiry:r1"},
        RECORD | {"charged": "-1"},
        RECORD | {"charged": "1.5"},
        RECORD | {"charged": "1e3"},
        RECORD | {"charged": "nan"},
        RECORD | {"charged": " 1"},
        RECORD | {"charged": "١"},
        RECORD | {"charged": str(MICROS_MAX + 1)},
        RECORD | {"charged": "1" * 5_000},
        RECORD | {"charged": ""},
        RECORD | {"seq": "0"},
        RECORD | {"at": "0"},
        RECORD | {"state": "x"},
        RECORD | {"state": "-"},
        RECORD | {"reservation": ""},
        RECORD | {"priced": "yes"},
        RECORD | {"source": "s1"},
        RECORD | {"total": "5"},
        RECORD | {"sequence": "5"},
        RECORD | {"fingerprint": "x" * 65},
        RECORD | {"fingerprint": "a b"},
        RECORD | {"data": "\0"},
        RECORD | {"data": "x" * (DATA_LENGTH_MAX + 1)},
        HOLD | {"micros": ""},
        HOLD | {"reservation": ""},
        CHAT | {"depth": "0"},
        CHAT | {"depth": "65"},
        CHAT | {"depth": "1"},
        CHAT | {"parent": ""},
        CHAT | {"parent": "c2"},
        CHAT | {"root": "c2"},
        CHAT | {"limit": "0"},
    ],
)
def test_poison(fields: dict[str, str]) -> None:
    with pytest.raises(PoisonedEntry) as raised:
        parse(fields)
    assert len(str(raised.value)) < 100


@pytest.mark.parametrize(
    ("base", "name"),
    [
        *((RECORD, name) for name in ("seq", "at", "charged", "total", "sequence")),
        *((HOLD, name) for name in ("seq", "micros", "expires_at")),
        *((RELEASE, "at"), (EXPIRE, "charged"), (CHAT, "limit")),
    ],
)
def test_a_number_that_is_too_large_is_named(base: dict[str, str], name: str) -> None:
    source = {"source": "s1", "total": "5", "sequence": ""} if base is RECORD else {}
    with pytest.raises(
        PoisonedEntry, match=rf"^{name}: not a whole number from 0 to {MICROS_MAX}$"
    ):
        parse(base | source | {name: str(MICROS_MAX + 1)})


def test_bytes_that_are_no_text_are_poison() -> None:
    fields = [b"\xff" if word == RECORD["data"].encode() else word for word in flat(RECORD)]
    with pytest.raises(PoisonedEntry, match="UTF-8"):
        parse_entry(fields, partition=0, stream_id=b"1-0")


@pytest.mark.parametrize("stream_id", ["", "5", "5-", "-5", "a-b", "5-0\n", "5-0-0"])
def test_a_stream_id_that_is_none_is_poison(stream_id: str) -> None:
    with pytest.raises(PoisonedEntry, match="stream id"):
        parse_entry(flat(RECORD), partition=0, stream_id=stream_id.encode())


def test_stream_ids_are_ordered_as_numbers() -> None:
    assert position("9-10") > position("9-9")
    assert position("10-0") > position("9-18446744073709551615")
