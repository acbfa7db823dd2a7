"""What nodes say about slots, understood; and what is no such thing, refused."""

from __future__ import annotations

from typing import Any

import pytest

from limiter.redis.slots import (
    SLOTS,
    moved_to,
    partition_of_key,
    served_slots,
    slot_of_partition,
)
from limiter.urls import Address
from tests.redis.cluster.support import KEYS
from tests.support.cluster import TestCluster

SPEAKER = Address("10.0.0.1", 7000)
OTHER = Address("10.0.0.2", 7001)


def test_slots_are_those_of_the_server(cluster: TestCluster) -> None:
    for partition in (0, 1, 9, 63, 16_383):
        key = f"lim:{{{partition}}}:acme:workspace"
        assert slot_of_partition(partition) == cluster.nodes[0].cluster("KEYSLOT", key)
        assert partition_of_key(key) == partition
    assert partition_of_key(KEYS.stream("acme")) == KEYS.partition("acme")


@pytest.mark.parametrize("partitions", [16, 64, 256])
def test_three_even_nodes_have_about_the_same_share(partitions: int) -> None:
    shares = [0, 0, 0]
    for partition in range(partitions):
        shares[slot_of_partition(partition) * 3 // SLOTS] += 1
    assert max(shares) <= 1.5 * min(shares)


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("10.0.0.2:7001", OTHER),
        (":7001", Address("10.0.0.1", 7001)),
        ("node-2.example:7001", Address("node-2.example", 7001)),
        ("fe80::1:7001", Address("fe80::1", 7001)),
        ("[fe80::1]:7001", Address("fe80::1", 7001)),
        ("?:7001", None),
        ("10.0.0.2:", None),
        ("nonsense", None),
    ],
)
def test_where_keys_have_moved_to(said: str, address: Address | None) -> None:
    assert moved_to(said, SPEAKER) == address


def test_a_map_of_slots_names_the_primaries() -> None:
    reply = [
        [0, 99, [b"10.0.0.2", 7001, b"id", []], [b"10.0.0.3", 7002, b"id"]],
        [100, 100, [None, 7000, b"id"]],
        [101, 101, [b"", 7000]],
        [102, 200, [b"?", 7003]],
    ]
    served = served_slots(reply, SPEAKER)
    assert len(served) == SLOTS
    assert served[:103] == [*[OTHER] * 100, SPEAKER, SPEAKER, None]
    assert set(served[103:]) == {None}


@pytest.mark.parametrize(
    "reply",
    [
        b"OK",
        1,
        None,
        [1],
        [[0, 1]],
        [[0, 1, b"host"]],
        [[5, 4, [b"h", 1]]],
        [[0, SLOTS, [b"h", 1]]],
    ],
)
def test_what_is_no_map_is_refused(reply: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        served_slots(reply, SPEAKER)


def test_addresses_read_as_in_a_url() -> None:
    assert (str(OTHER), str(Address("::1", 7000))) == ("10.0.0.2:7001", "[::1]:7000")
