"""Any history, delivered in any order and any number of times, comes to the same sums."""

from __future__ import annotations

from itertools import count

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limiter.durable import Entry, Storage
from tests.durable.oracle import History, Oracle
from tests.durable.stream import UNLIMITED, Stream

WORKSPACES = 2

# Each example has workspaces of its own in the one database.
_examples = count()

actions = st.lists(
    st.tuples(
        st.integers(0, WORKSPACES - 1),
        st.tuples(st.integers(0, History.KINDS - 1), st.integers(0, 200), st.integers(0, 99)),
    ),
    max_size=40,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data(), done=actions)
async def test_sums_do_not_depend_on_delivery(
    storage: Storage, data: st.DataObject, done: list[tuple[int, tuple[int, int, int]]]
) -> None:
    example = next(_examples)
    histories = [History(Stream(f"{example}-{number}")) for number in range(WORKSPACES)]
    for number, action in done:
        histories[number].act(action)
    entries = [entry for history in histories for entry in history.entries]
    batches = data.draw(deliveries(entries), label="batches")

    oracles = {history.stream.workspace_id: Oracle() for history in histories}
    for batch in batches:
        applied = await storage.apply(batch)
        seconds = []
        for workspace_id, oracle in oracles.items():
            mine = [entry for entry in batch if entry.workspace_id == workspace_id]
            seconds += [(workspace_id, event_id) for event_id in oracle.deliver(mine)]
        reported = [(record.workspace_id, record.event_id) for record in applied.duplicates]
        assert sorted(reported) == sorted(seconds)
        assert (applied.rewound, applied.poisoned) == (set(), 0)

    for workspace_id, oracle in oracles.items():
        await assert_agrees(storage, workspace_id, oracle)


def deliveries(entries: list[Entry]) -> st.SearchStrategy[list[list[Entry]]]:
    """Some batches of any entries, then all of them in some order."""
    if not entries:
        return st.just([[]])
    some = st.lists(st.lists(st.sampled_from(entries), max_size=12), max_size=5)
    every = st.permutations(entries).flatmap(
        lambda order: st.integers(1, len(order)).map(
            lambda size: [order[i : i + size] for i in range(0, len(order), size)]
        )
    )
    return st.tuples(some, every).map(lambda both: [*both[0], *both[1]])


async def assert_agrees(storage: Storage, workspace_id: str, oracle: Oracle) -> None:
    await storage.create_workspace(workspace_id, UNLIMITED, actor="test")
    workspace = await storage.workspace(workspace_id)
    assert workspace is not None
    assert (workspace.seq, workspace.clock_ms) == (oracle.seq, oracle.clock_ms)
    assert workspace.spent_at_ms == oracle.spent_at_ms
    assert workspace.unpriced_records == oracle.unpriced_records
    assert workspace.windows == oracle.windows()
    holds = {h.reservation_id: (h.micros, h.expires_at_ms, h.chat_id) for h in workspace.holds}
    assert holds == oracle.holds()
    for name, source in oracle.sources().items():
        assert await storage.source(workspace_id, name) == source
    recomputed = await storage.recompute(workspace_id)
    assert recomputed is not None or oracle.seq == 0
    assert (recomputed.chats if recomputed else {}) == oracle.chats()
    for chat_id in oracle.parents:
        chat = await storage.chat(workspace_id, chat_id)
        assert chat is not None
        chain = oracle.chain(chat_id)
        assert (chat.depth, chat.root_chat_id) == (len(chain), chain[-1])
    assert await storage.drift(workspace_id) == []
