"""What nodes of a cluster say about who serves which slot. It must not talk to Redis."""

from __future__ import annotations

from binascii import crc_hqx
from typing import Any

from limiter.urls import Address

SLOTS = 16_384


def slot_of_partition(partition: int) -> int:
    """CRC16 (XMODEM) of the hash tag, which is the partition's number in every key."""
    return crc_hqx(b"%d" % partition, 0) % SLOTS


def partition_of_key(key: str) -> int:
    """The number between the braces of `lim:{<partition>}:…`."""
    return int(key[key.index("{") + 1 : key.index("}")])


def moved_to(text: str, said_by: Address) -> Address | None:
    """The address in a `MOVED`, of which the host is left out when it is the speaker's own."""
    host, _, port = text.rpartition(":")
    if host == "?" or not port.isdigit():
        return None
    return Address(host.strip("[]") or said_by.host, int(port))


def served_slots(reply: Any, said_by: Address) -> list[Address | None]:
    """By slot its primary, from the reply of `CLUSTER SLOTS`; None: nobody, or nobody with a name.

    Raises ValueError for a reply of another shape.
    """
    served: list[Address | None] = [None] * SLOTS
    try:
        for first, last, (host, port, *_), *_replicas in reply:
            if not 0 <= first <= last < SLOTS:
                raise ValueError("a slot that does not exist")
            name = said_by.host if not host else host.decode()
            address = None if name == "?" else Address(name, port)
            served[first : last + 1] = [address] * (last + 1 - first)
    except (TypeError, AttributeError, UnicodeError) as error:
        raise ValueError("no list of slots") from error
    return served
