"""The second wall: every argument of every script, malformed in every way, is refused by name.

A refusal changes nothing. Each test first takes the refusals and then the same call as it should
be, which does change something: so it was the argument that was refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from tests.lua.test_source import ENTRY_POINTS, header
from tests.support.clock import START_MS
from tests.support.driver import HOLD_MS, MEMORY_MS, Argument, Driver
from tests.support.keyspace import dump

Values = list[str | bytes]

NOT_AMOUNTS: Values = [
    *("nan", "-nan", "NaN", "inf", "-inf", "1e400", "1e3", "1E3", "0x10", "0b1", "1_000", "1,000"),
    *(" 12 ", " 12", "12 ", "12\n", "\t12", "12\0", "1.5", "1.0", ".5", "1.", "-1", "-0", "+1"),
    *("true", "false", "null", "nil", "abc", "{}", "[]", "'1'", "١٢", "１２", "½"),
    *(str(2**53), str(2**53 + 1), str(2**63 - 1), str(2**63), str(2**64), "9" * 17, "9" * 400),
]
NOT_IDS: Values = [
    *(":", "a:b", "a:workspace", "{a}", "a{0}b", "a}", "a b", " a", "a ", "a\nb", "a\n", "\r\n"),
    *("a\0b", "\0", "a\tb", "a/b", "../a", "a*", "a?", "[a]", "a\\b", "a'b", 'a"b', "a,b", "<a>"),
    *("%s", "$(a)", "a;b", "a|b", "a+b", "a=b", "a#b", "a~b", "a^b", "\x7f", "\x1b[0m"),
    *("ä", "аcme", "ａ", "a\u200b", "\u202ea", "\U0001f600", "a" * 129, "a" * 10_240),
    *(b"\xff\xfe", b"a\x80"),
]
ZERO: Values = ["0", "00"]
NOTHING: Values = [""]

NOT_ENTRIES: Values = [
    *("", "5", "5-", "-5", "a-b", "5-5-5", "*", "+", "-", "$", "5-5 ", "1.5-0", "0x5-0"),
    *(f"{2**64}-0", f"0-{2**64}"),
]

# What an argument may be instead of what its script's header says.
KINDS: dict[str, Values] = {
    "amount": NOT_AMOUNTS + NOTHING,
    "positive": NOT_AMOUNTS + ZERO + NOTHING,
    "amount or nothing": NOT_AMOUNTS,
    "positive or nothing": NOT_AMOUNTS + ZERO,
    "id": NOT_IDS + NOTHING,
    "id or nothing": NOT_IDS,
    "entry": NOT_ENTRIES,
}

# What changes nothing while nothing is due.
READERS = {"usage", "explain", "list_holds"}

# Per script: a call that changes something, if it ever does, and of each argument its position,
# name and kind.
CALLS: dict[str, tuple[list[Argument], dict[int, tuple[str, str]]]] = {
    "check": (
        [MEMORY_MS, 5, "r9", 0, "f", HOLD_MS, "c9", "c1", 100, 1],
        {
            1: ("memory_ms", "positive"),
            2: ("estimate_micros", "amount or nothing"),
            3: ("reservation_id", "id"),
            6: ("hold_ms", "positive"),
            7: ("chat_id", "id or nothing"),
            8: ("parent_chat_id", "id or nothing"),
            9: ("spend_limit_micros", "positive or nothing"),
        },
    ),
    "record": (
        [MEMORY_MS, "e9", 0, "f", 5, "r9", "c9", "c1", 100, 1, "s9", 3, 2, 1, 1, 1, "{}"],
        {
            1: ("memory_ms", "positive"),
            2: ("event_id", "id"),
            5: ("cost_micros", "amount"),
            6: ("reservation_id", "id or nothing"),
            7: ("chat_id", "id or nothing"),
            8: ("parent_chat_id", "id or nothing"),
            9: ("spend_limit_micros", "positive or nothing"),
            11: ("source", "id or nothing"),
            12: ("sequence", "amount or nothing"),
            13: ("stored_total", "amount or nothing"),
            14: ("stored_sequence", "amount or nothing"),
        },
    ),
    "release": (
        [MEMORY_MS, "r1"],
        {1: ("memory_ms", "positive"), 2: ("reservation_id", "id")},
    ),
    "usage": (
        [MEMORY_MS, "c1"],
        {1: ("memory_ms", "positive"), 2: ("chat_id", "id or nothing")},
    ),
    "explain": (
        [MEMORY_MS, 5, "c1"],
        {
            1: ("memory_ms", "positive"),
            2: ("estimate_micros", "amount or nothing"),
            3: ("chat_id", "id or nothing"),
        },
    ),
    "list_holds": ([100], {1: ("limit", "positive")}),
    "configure": (
        [9, "limit.hourly", 5, "default_estimate", 6],
        {
            1: ("revision", "amount"),
            3: ("limit.hourly", "amount or nothing"),
            5: ("default_estimate", "amount or nothing"),
        },
    ),
    "load_chat": (
        ["c1", "c1", 2, 100, 4, 3, 2, 1, 1],
        {
            1: ("parent", "id or nothing"),
            2: ("root", "id"),
            3: ("depth", "amount"),
            4: ("limit", "positive or nothing"),
            5: ("spent", "amount"),
            6: ("own", "amount"),
            7: ("held", "amount"),
            8: ("revision", "amount"),
            9: ("epoch", "amount"),
        },
    ),
    "forget": (
        [9, None],
        {1: ("seq_below", "amount or nothing"), 2: ("idle_since", "amount or nothing")},
    ),
    "retract": (
        [MEMORY_MS, "ENTRY", START_MS, 3, "c1"],
        {
            1: ("memory_ms", "positive"),
            2: ("entry", "entry"),
            3: ("at", "amount"),
            4: ("micros", "amount"),
            5: ("chat_id", "id"),
        },
    ),
    "trim": (["ENTRY", "ENTRY"], {1: ("first", "entry"), 2: ("last", "entry")}),
}

STORED: dict[str, Any] = {
    "config": {"limit.hourly": "5", "default_estimate": "3", "on_hold_expiry": "charge"},
    "revision": "3",
    "seq": "4",
    "spent_at": str(START_MS),
    "clock": str(START_MS),
    "unpriced": "1",
    "windows": {"hourly": [[str(START_MS), "7"]], "monthly": [[str(START_MS), "7"]]},
    "holds": [["r1", "2", str(START_MS + HOLD_MS), "c1", "f"]],
    "events": [["e1", "f", "7"]],
}
# Each: where in STORED, what it may not be, and what the refusal names.
LEAVES: list[tuple[list[Any], str, str]] = [
    (["config", "limit.hourly"], "amount or nothing", "limit.hourly"),
    (["config", "default_estimate"], "amount or nothing", "default_estimate"),
    (["revision"], "amount", "counters"),
    (["seq"], "amount", "counters"),
    (["spent_at"], "amount", "counters"),
    (["clock"], "amount", "counters"),
    (["unpriced"], "amount", "counters"),
    (["windows", "hourly", 0, 0], "amount", "windows"),
    (["windows", "hourly", 0, 1], "amount", "windows"),
    (["holds", 0, 0], "id", "holds"),
    (["holds", 0, 1], "amount", "holds"),
    (["holds", 0, 2], "amount", "holds"),
    (["holds", 0, 3], "id or nothing", "holds"),
    (["events", 0, 0], "id", "events"),
    (["events", 0, 2], "amount", "events"),
]
# JSON that is no text, where text is due.
NOT_TEXT: list[Any] = [None, True, 5, 1.5, -1, 2**53, [], {}, ["5"]]


def refusals(
    driver: Driver, name: str, call: Callable[[Any], list[Any]], values: list[Any], said: str
) -> list[str]:
    """What was not refused as it should have been, or left a trace."""
    before = dump(driver.client)
    wrong = []
    for value in values:
        reply = call(value)
        if reply != [b"invalid", said.encode()]:
            wrong.append(f"{name} {said} = {value!r:.40} answered {reply!r:.80}")
    if dump(driver.client) != before:
        wrong.append(f"{name} {said} left a trace")
    return wrong


@pytest.fixture
def lived_in(acme: Driver) -> Driver:
    """A workspace with a chat, a hold and some spend, so that there is something to be changed."""
    acme.check(0, "r0", chat="c1", new=True)
    acme.check(7, "r1", chat="c1")
    acme.record(3, "e1", chat="c1")
    return acme


@pytest.mark.parametrize(
    ("name", "position"),
    [(name, position) for name, (_, arguments) in CALLS.items() for position in arguments],
)
def test_an_argument_that_is_malformed_is_refused_by_name(
    lived_in: Driver, name: str, position: int
) -> None:
    good, arguments = CALLS[name]
    last_entry = lived_in.entries()[-1][0]
    good = [last_entry if argument == "ENTRY" else argument for argument in good]
    said, kind = arguments[position]
    key = lived_in.names.chat("acme", "c9") if name == "load_chat" else None

    def call(value: str | bytes) -> list[Any]:
        args = list(good)
        args[position - 1] = value
        return lived_in.call(name, *args, key=key)

    assert refusals(lived_in, name, call, KINDS[kind], said) == []
    before = dump(lived_in.client)
    assert lived_in.call(name, *good, key=key)[0] != b"invalid"
    assert (dump(lived_in.client) == before) == (name in READERS)


def test_every_script_that_takes_arguments_is_tried() -> None:
    assert {name for name in ENTRY_POINTS if "ARGV[" in header(name)} == {*CALLS, "load_workspace"}


@pytest.mark.parametrize("field", ["limit.", "limit.yearly", "spent.hourly", "held", "clock", ""])
@pytest.mark.parametrize("value", ["5", ""])
def test_only_configuration_can_be_configured(lived_in: Driver, field: str, value: str) -> None:
    call = lambda value: lived_in.call("configure", 9, field, value)  # noqa: E731
    assert refusals(lived_in, "configure", call, [value], field) == []


@pytest.mark.parametrize("value", ["Charge", "none", "0", " refund"])
def test_an_unknown_policy_is_refused(lived_in: Driver, value: str) -> None:
    call = lambda value: lived_in.call("configure", 9, "on_hold_expiry", value)  # noqa: E731
    assert refusals(lived_in, "configure", call, [value], "on_hold_expiry") == []


def test_a_field_without_a_value_is_refused(lived_in: Driver) -> None:
    call = lambda field: lived_in.call("configure", 9, field)  # noqa: E731
    assert refusals(lived_in, "configure", call, ["limit.hourly"], "limit.hourly") == []


def load(driver: Driver, path: list[Any], value: Any) -> list[Any]:
    """Loads STORED with one leaf replaced."""
    stored = deepcopy(STORED)
    place = stored
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return driver.call("load_workspace", json.dumps(stored), 1, MEMORY_MS)


@pytest.mark.parametrize(
    ("path", "kind", "said"), LEAVES, ids=[".".join(map(str, leaf[0])) for leaf in LEAVES]
)
def test_stored_values_that_are_malformed_are_refused(
    cold: Driver, path: list[Any], kind: str, said: str
) -> None:
    texts = [value for value in KINDS[kind] if isinstance(value, str)]
    call = lambda value: load(cold, path, value)  # noqa: E731
    assert refusals(cold, "load_workspace", call, [*texts, *NOT_TEXT], said) == []
    assert load(cold, ["revision"], "3") == [b"loaded"]


@pytest.mark.parametrize("part", ["config", "windows", "holds"])
def test_stored_parts_of_another_shape_are_refused(cold: Driver, part: str) -> None:
    call = lambda value: load(cold, [part], value)  # noqa: E731
    assert refusals(cold, "load_workspace", call, [None, True, 5, "text"], part) == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (["windows", "hourly"], "windows"),
        (["windows", "hourly", 0], "windows"),
        (["holds", 0], "holds"),
    ],
)
def test_stored_rows_of_another_shape_are_refused(cold: Driver, path: list[Any], said: str) -> None:
    rows = [True, 5, "text", ["r1"], [["r1"]]]
    if path[-1] == "hourly":
        rows.remove(["r1"])
    call = lambda value: load(cold, path, value)  # noqa: E731
    assert refusals(cold, "load_workspace", call, rows, said) == []


def test_a_bucket_that_starts_between_buckets_is_refused(cold: Driver) -> None:
    call = lambda value: load(cold, ["windows", "hourly", 0, 0], value)  # noqa: E731
    assert refusals(cold, "load_workspace", call, [str(START_MS + 1)], "windows") == []


@pytest.mark.parametrize("text", ["", "{", "nil", "5", '"text"', "null", "[1,", "\0", "[" * 5_000])
def test_what_is_no_json_is_refused(cold: Driver, text: str) -> None:
    call = lambda text: cold.call("load_workspace", text, 1, MEMORY_MS)  # noqa: E731
    assert refusals(cold, "load_workspace", call, [text], "json") == []


@pytest.mark.parametrize("value", ["7", "0007"])
def test_leading_zeros_cannot_make_a_later_call_fail(cold: Driver, value: str) -> None:
    """The server itself adds to the counters of a chat, and takes no `0007` for a number."""
    cold.load({"on_hold_expiry": "charge"}, holds=[("r1", 7, START_MS + 1, "c1", "f")])
    cold.load_chat("c1", held=value, spent=value, own=value, depth="01", revision="01")
    cold.client.execute_command("SET", "test:{0}:clock", START_MS + 1)
    state = cold.usage("c1").chats[0]
    assert (state.held, state.spent, state.own) == (0, 14, 14)
