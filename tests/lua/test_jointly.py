"""Several calls in one script call are the same as one after the other."""

from __future__ import annotations

import random
from typing import Any

import pytest

from limiter.redis.scripts import ScriptSet
from tests.support.answers import Said
from tests.support.clock import DrivenClock
from tests.support.driver import HOLD_MS, MEMORY_MS, Argument, Driver
from tests.support.servers import Server

Calls = list[list[Argument]]

CONFIG: dict[str, Argument] = {
    "limit.hourly": 400,
    "limit.daily": 1_500,
    "default_estimate": 7,
}
COSTS: list[Argument] = [0, 1, 20, 60, 200, "1e3"]
ROUNDS = 60


@pytest.fixture
def pair(server: Server, scripts: ScriptSet, clock: DrivenClock) -> tuple[Driver, Driver]:
    """Two workspaces that differ in nothing but their names, and the clock before them."""
    assert clock.now_ms > 0
    drivers = []
    for name in ("single", "joint"):
        driver = Driver(server.client, scripts, workspace_id=name)
        assert driver.load(CONFIG) == Said("loaded")
        drivers.append(driver)
    return drivers[0], drivers[1]


def singly(driver: Driver, name: str, calls: Calls) -> list[Any]:
    return [driver.call(name, MEMORY_MS, *call) for call in calls]


def jointly(driver: Driver, name: str, calls: Calls) -> list[Any]:
    return driver.call(name, MEMORY_MS, *(word for call in calls for word in call))


def state(driver: Driver) -> dict[str, Any]:
    """All that the workspace has in Redis, and its part of the stream, without its name."""
    prefix = driver.workspace_key.removesuffix("workspace")
    found: dict[str, Any] = {}
    for key in driver.client.scan_iter(match=f"{prefix}*"):
        kind = driver.client.type(key)
        value: Any
        if kind == b"hash":
            value = driver.client.hgetall(key)
        else:
            value = driver.client.zrange(key, 0, -1, withscores=True)
        found[key.decode().removeprefix(prefix)] = value
    entries = [fields for _, fields in driver.entries()]
    found["stream"] = [
        {name: value for name, value in fields.items() if name != "workspace"}
        for fields in entries
        if fields["workspace"] == driver.workspace_id
    ]
    return found


def some_check(dice: random.Random, epoch: int) -> list[Argument]:
    chat = dice.choice([None, "c1", "c2", "c3", "c4", "a:b"])
    return [
        dice.choice([None, 0, 1, 20, 90, "x"]),
        f"r{dice.randrange(12)}",
        dice.choice([0, 0, 1]) if dice.random() < 0.2 else 0,
        dice.choice(["payload", "payload", "other"]),
        dice.choice([HOLD_MS, HOLD_MS, HOLD_MS // 2, 0]),
        chat,
        {"c2": "c1", "c3": "c2"}.get(str(chat)) if dice.random() < 0.9 else "c4",
        dice.choice([None, 150, 0]) if chat and dice.random() < 0.3 else None,
        epoch if dice.random() < 0.7 else None,
    ]


def some_record(dice: random.Random, epoch: int) -> list[Argument]:
    source = dice.choice([None, None, "s1", "s2"])
    is_asked = source and dice.random() < 0.8
    event: str = dice.choice([f"e{dice.randrange(12)}", f"r{dice.randrange(12)}"])
    return [
        event,
        0,
        dice.choice(["payload", "payload", "other"]),
        dice.choice(COSTS),
        dice.choice([None, event, f"r{dice.randrange(12)}"]),
        dice.choice([None, None, "c1", "c3"]),
        None,
        None,
        epoch if dice.random() < 0.7 else None,
        source,
        dice.choice([None, 1, 2, 3]) if source else None,
        0 if is_asked else None,
        None,
        epoch if is_asked else None,
        dice.choice([0, 1]),
        "{}",
    ]


@pytest.mark.parametrize("seed", range(3))
def test_together_is_one_after_the_other(
    pair: tuple[Driver, Driver], clock: DrivenClock, seed: int
) -> None:
    single, joint = pair
    dice = random.Random(seed)
    statuses = set()
    for _ in range(ROUNDS):
        name, some = dice.choice([("check", some_check), ("record", some_record)])
        calls = [some(dice, single.epoch) for _ in range(dice.randint(2, 12))]
        # What is due is settled by whoever comes first, which one call must not see differently.
        assert single.usage().workspace == joint.usage().workspace
        expected = singly(single, name, calls)
        assert jointly(joint, name, calls) == expected
        assert state(joint) == state(single)
        statuses |= {reply[0] for reply in expected}
        clock.advance(dice.choice([0, 1, 1_000, 60_000, 400_000, 3_700_000, 90_000_000]))
    assert {b"admitted", b"denied", b"recorded", b"cold", b"invalid", b"id_reused"} <= statuses


def test_the_last_of_a_limit_goes_to_the_first_of_them(pair: tuple[Driver, Driver]) -> None:
    _, joint = pair
    calls: Calls = [
        [150, f"r{number}", 1, "p", HOLD_MS, None, None, None, None] for number in range(6)
    ]
    replies = jointly(joint, "check", calls)
    assert [reply[0] for reply in replies] == [b"admitted"] * 2 + [b"denied"] * 4
    assert joint.usage().workspace.held == 300


def test_a_chat_that_one_of_them_creates_is_there_for_the_next(
    pair: tuple[Driver, Driver],
) -> None:
    _, joint = pair
    child: list[Argument] = [5, "r2", 1, "p", HOLD_MS, "child", "root", None, joint.epoch]
    replies = jointly(
        joint,
        "check",
        [
            [5, "r0", 1, "p", HOLD_MS, "root", None, 12, joint.epoch],
            [5, "r1", 1, "p", HOLD_MS, "root", None, None, None],
            child,
            [*child[:1], "r3", *child[2:]],
            [2, "r4", 1, "p", HOLD_MS, "child", None, None, None],
        ],
    )
    # The third and the fourth would pass the root's 12, so there is no child yet for the fifth.
    assert [reply[0] for reply in replies] == [
        *(b"admitted", b"admitted", b"denied", b"denied", b"cold")
    ]
    assert [fields["type"] for _, fields in joint.entries()] == ["chat", "hold", "hold"]


def test_one_reply_for_all_where_the_workspace_is_not_ready(cold: Driver) -> None:
    calls: Calls = [[5, f"r{n}", 1, "p", HOLD_MS, None, None, None, None] for n in range(3)]
    assert jointly(cold, "check", calls) == [b"cold", b"workspace"]


def test_what_fails_for_one_fails_for_it_alone(pair: tuple[Driver, Driver]) -> None:
    _, joint = pair
    prefix = joint.workspace_key.removesuffix("workspace")
    joint.client.set(f"{prefix}hold:r1", "somebody wrote this")
    calls: Calls = [[5, f"r{n}", 0, "p", HOLD_MS, None, None, None, None] for n in range(3)]
    first, second, third = jointly(joint, "check", calls)
    assert (first[0], third[0]) == (b"admitted", b"admitted")
    assert isinstance(second, Exception)
    assert "WRONGTYPE" in str(second)
    assert joint.usage().workspace.held == 10
