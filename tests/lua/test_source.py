"""The scripts as text: headers tell the truth, and nothing can fail after the first write."""

from __future__ import annotations

import re

import pytest

from limiter.redis.scripts import lua_folder

ENTRY_POINTS = sorted(path.stem for path in lua_folder().glob("*.lua"))
MARK = "-- Nothing below can fail."
# Replies that may stand below the mark: the call has done what it is for, or had nothing to do.
SUCCESSES = {
    *["admitted", "recorded", "released", "configured", "loaded"],
    *["retracted", "gone", "forgotten", "swept", "trimmed"],
}

WRITE = re.compile(
    r"redis\.call\('(?:SET|DEL|HSET|HDEL|HINCRBY|ZADD|ZREM\w*|X(?:ADD|DEL|TRIM)|P?EXPIRE|UNLINK|INCR)'"
    r"|\b(?:save\w*|append|create_chat|remember|drop_hold|charge\w*)\("
)
REPLY = re.compile(r"return (?:nil, )?\{ '(\w+)'")


def source(name: str) -> str:
    return (lua_folder() / f"{name}.lua").read_text(encoding="utf-8")


def header(name: str) -> str:
    return re.match(r"(?:--.*\n)+", source(name))[0]  # type: ignore[index]


def code(name: str) -> str:
    """The script without its comments, but for the mark."""
    lines = source(name).splitlines()
    return "\n".join(line for line in lines if MARK in line or not line.startswith("--"))


def test_all_entry_points_are_looked_at() -> None:
    assert set(ENTRY_POINTS) == {
        *["check", "record", "release", "usage"],
        *["configure", "load_workspace", "load_chat", "retract", "forget"],
        *["inspect", "glance", "list_holds", "explain", "sweep", "trim"],
    }


@pytest.mark.parametrize("name", ENTRY_POINTS)
@pytest.mark.parametrize("array", ["KEYS", "ARGV"])
def test_the_documented_arguments_are_the_ones_that_are_used(name: str, array: str) -> None:
    documented = re.findall(rf"^-- {array}\[(\d+)…?\]", header(name), flags=re.MULTILINE)
    used = {int(number) for number in re.findall(rf"{array}\[(\d+)\]", code(name))}
    used |= {int(start) for start in re.findall(rf"for i = (\d+), #{array}", code(name))}
    if array == "ARGV" and (several := re.search(r"each_call\(workspace, (\d+), ", code(name))):
        # Its arguments in turn, then those of further calls.
        used |= set(range(2, 3 + int(several[1])))
    assert documented == [str(number + 1) for number in range(len(documented))]
    assert used == set(map(int, documented))


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_a_header_says_all_that_a_caller_needs(name: str) -> None:
    text = header(name)
    assert re.match(rf"-- {name}: [a-z].{{20,}}", text)
    assert "-- Reply, by position:" in text
    assert re.search(r"^-- O\(", text, flags=re.MULTILINE)
    assert f"-- limiter lua {name} > {name}.lua && redis-cli --eval {name}.lua" in text


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_status_of_the_script_is_documented(name: str) -> None:
    statuses = set(REPLY.findall(code(name)))
    assert statuses
    assert {status for status in statuses if f"'{status}'" not in header(name)} == set()


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_nothing_fails_after_the_first_write(name: str) -> None:
    before, mark, after = code(name).partition(MARK)
    if not mark:
        first_write = WRITE.search(before)
        start = first_write.start() if first_write else len(before)
        before, after = before[:start], before[start:]
    assert WRITE.findall(before) == [], "a write above the mark"
    assert [status for status in REPLY.findall(after) if status not in SUCCESSES] == []
    assert "error" not in after


def test_scripts_that_write_for_several_scopes_carry_the_mark() -> None:
    marked = {name for name in ENTRY_POINTS if MARK in source(name)}
    assert marked == {"check", "record", "release", "load_workspace", "retract"}


@pytest.mark.parametrize(
    ("line", "is_write"),
    [
        ("redis.call('HSET', key, 'held', 1)", True),
        ("redis.call('ZREMRANGEBYSCORE', key, 0, 1)", True),
        ("save(scope)", True),
        ("local hold = redis.call('HMGET', key, 'micros')", False),
        ("local charged = cost", False),
    ],
)
def test_writes_are_recognised(line: str, is_write: bool) -> None:
    assert bool(WRITE.search(line)) == is_write
