"""Chat trees: totals over a root and all below it, limits on any node, a shape that stays."""

from __future__ import annotations

import pytest

from tests.support.answers import Admitted, Answer, Denied, Recorded, Said
from tests.support.commands import counted_commands
from tests.support.driver import Driver
from tests.support.keyspace import dump
from tests.support.servers import Server

DEPTH_MAX = 64
CHILDREN = 20_000


@pytest.fixture
def family(acme: Driver) -> Driver:
    """Root c1 with the children c2 and c3; c4 is a child of c2, and c9 a lone root."""
    for chat, parent in [("c1", ""), ("c2", "c1"), ("c3", "c1"), ("c4", "c2"), ("c9", "")]:
        acme.check(0, "r", chat=chat, parent=parent, new=True)
    return acme


def scope_of(answer: Answer) -> list[str]:
    assert isinstance(answer, Denied), answer
    return [violation.scope_id for violation in answer.violations]


def test_spend_and_holds_count_for_the_chat_and_all_its_ancestors(family: Driver) -> None:
    for chat, micros in [("c1", 1), ("c2", 10), ("c3", 100), ("c4", 1_000), ("c9", 10_000)]:
        family.record(micros, f"e-{chat}", chat=chat)
        family.check(micros, f"r-{chat}", chat=chat)
    totals = {"c1": 1_111, "c2": 1_010, "c3": 100, "c4": 1_000, "c9": 10_000}
    for chat, total in totals.items():
        state = family.usage(chat).chats[0]
        assert (state.spent, state.held) == (total, total)
    assert family.usage("c2").chats[0].own == 10
    assert family.usage().workspace.spent["hourly"] == 11_111


def test_usage_goes_from_the_chat_up_to_its_root(family: Driver) -> None:
    chats = family.usage("c4").chats
    assert [(c.chat_id, c.parent, c.root) for c in chats] == [
        ("c4", "c2", "c1"),
        ("c2", "c1", "c1"),
        ("c1", "", "c1"),
    ]


@pytest.mark.parametrize("limited", ["c4", "c2", "c1"])
def test_any_node_may_carry_the_limit_that_binds(family: Driver, limited: str) -> None:
    family.configure(1, {"limit.lifetime": 100}, chat=limited)
    family.record(60, "e1", chat="c4")
    assert scope_of(family.check(41, "r1", chat="c4")) == [limited]
    assert isinstance(family.check(40, "r2", chat="c4"), Admitted)


def test_a_sub_agent_is_denied_by_what_its_siblings_spent(family: Driver) -> None:
    family.configure(1, {"limit.lifetime": 100}, chat="c1")
    family.record(100, "e1", chat="c3")
    assert scope_of(family.check(0, "r1", chat="c4")) == ["c1"]
    assert isinstance(family.check(50, "r1", chat="c9"), Admitted)


def test_a_limit_comes_with_a_new_chat_and_is_ignored_afterwards(acme: Driver) -> None:
    acme.check(0, "r1", chat="c1", limit=10, new=True)
    acme.check(0, "r2", chat="c1", limit=99)
    acme.record(0, "e1", chat="c1", limit=98)
    assert acme.usage("c1").chats[0].limit == 10


@pytest.mark.parametrize("limit", [5, 50, None])
def test_a_limit_can_be_lowered_raised_and_removed_and_spend_stays(
    family: Driver, limit: int | None
) -> None:
    family.configure(1, {"limit.lifetime": 20}, chat="c2")
    family.record(10, "e1", chat="c4")
    family.configure(2, {"limit.lifetime": limit}, chat="c2")
    state = family.usage("c2").chats[0]
    assert (state.limit, state.spent) == (limit, 10)
    is_open = limit != 5
    assert isinstance(family.check(1, "r1", chat="c4"), Admitted if is_open else Denied)


def test_a_record_creates_a_chat_too(acme: Driver) -> None:
    acme.record(3, "e1", chat="c1", limit=7, new=True)
    answer = acme.record(4, "e2", chat="c2", parent="c1", new=True)
    assert isinstance(answer, Recorded)
    assert answer.chat is not None
    assert (answer.chat.parent, answer.chat.root) == ("c1", "c1")
    created = [fields for _, fields in acme.entries() if fields["type"] == "chat"]
    names = ("chat", "parent", "root", "depth", "limit")
    assert [tuple(fields[name] for name in names) for fields in created] == [
        ("c1", "", "c1", "1", "7"),
        ("c2", "c1", "c1", "2", ""),
    ]


REFUSED = {
    "another parent": ({"chat": "c2", "parent": "c3"}, Said("chat_parent_immutable")),
    "a parent for a root": ({"chat": "c9", "parent": "c1"}, Said("chat_parent_immutable")),
    "itself, there": ({"chat": "c2", "parent": "c2"}, Said("chat_parent_immutable")),
    "itself, new": ({"chat": "c5", "parent": "c5", "new": True}, Said("chat_cycle")),
    "an unknown chat": ({"chat": "c5"}, Said("cold", ("chat", "c5"))),
    "an unknown parent": (
        {"chat": "c5", "parent": "c6", "new": True},
        Said("cold", ("chat", "c6")),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("call", ["check", "record"])
def test_a_wrong_place_in_the_tree_is_refused_and_changes_nothing(
    family: Driver, case: str, call: str
) -> None:
    arguments, expected = REFUSED[case]
    before = dump(family.client)
    if call == "check":
        answer = family.check(5, "r1", **arguments)  # type: ignore[arg-type]
    else:
        answer = family.record(5, "e1", **arguments)  # type: ignore[arg-type]
    assert answer == expected
    assert dump(family.client) == before


def test_saying_the_same_parent_again_is_no_change(family: Driver) -> None:
    answer = family.check(5, "r1", chat="c2", parent="c1")
    assert isinstance(answer, Admitted)


def test_a_tree_may_be_so_deep_and_no_deeper(acme: Driver) -> None:
    chats = [f"c{depth}" for depth in range(1, DEPTH_MAX + 2)]
    for chat, parent in zip(chats[:DEPTH_MAX], ["", *chats], strict=False):
        assert isinstance(acme.record(1, f"e-{chat}", chat=chat, parent=parent, new=True), Recorded)
    deepest = acme.usage(chats[DEPTH_MAX - 1]).chats
    assert [state.spent for state in deepest] == list(range(1, DEPTH_MAX + 1))
    assert deepest[0].root == "c1"

    before = dump(acme.client)
    beyond, parent = chats[DEPTH_MAX], chats[DEPTH_MAX - 1]
    assert acme.check(1, "r1", chat=beyond, parent=parent, new=True) == Said("chat_too_deep")
    assert acme.record(1, "e1", chat=beyond, parent=parent, new=True) == Said("chat_too_deep")
    assert dump(acme.client) == before


def test_a_cycle_that_a_foreign_write_made_does_not_hang_a_call(acme: Driver) -> None:
    acme.load_chat("c1", "c2", root="c2", depth=2)
    acme.load_chat("c2", "c1", root="c1", depth=2)
    assert acme.check(1, "r1", chat="c1") == Said("chat_too_deep")


def test_many_children_leave_a_check_as_it_was(real_server: Server, family: Driver) -> None:
    def commands_of_checks() -> dict[str, int]:
        with counted_commands(real_server.client) as counts:
            for chat in ("c1", "c2", "c4"):
                assert isinstance(family.check(1, f"r-{chat}", fresh=True, chat=chat), Admitted)
        for chat in ("c1", "c2", "c4"):
            family.release(f"r-{chat}")
        return dict(counts)

    commands_of_checks()  # the first hold of all is also what is due next, which is written once
    before = commands_of_checks()
    family.preload()
    for thousand in range(CHILDREN // 1_000):
        pipeline = real_server.client.pipeline(transaction=False)
        for number in range(1_000):
            child = f"child-{thousand}-{number}"
            command = family.command(
                "check", family.memory_ms, 0, "r", 1, "f", 1, child, "c2", "", 1
            )
            pipeline.execute_command(*command)
        assert {reply[0] for reply in pipeline.execute()} == {b"admitted"}
    assert real_server.client.execute_command("DBSIZE") > CHILDREN
    assert commands_of_checks() == before
