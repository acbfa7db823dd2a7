"""Ids that the service makes itself, and fingerprints of requests.

It must not know what the ids stand for.
"""

from __future__ import annotations

import os
import time
from base64 import urlsafe_b64encode
from hashlib import blake2b

import msgspec

_encode = msgspec.json.Encoder().encode

# 64 bits: only requests that carry the same id are ever compared.
_FINGERPRINT_BYTES = 8

# Of a request under an id that was made for it: nobody else can have used the id.
UNCOMPARED = "-"


def new_id() -> str:
    """A fresh id that sorts by time, so that the ledger's index grows at its end.

    11 hexadecimal digits of milliseconds, then 80 random bits.
    """
    return f"{time.time_ns() // 1_000_000:011x}{os.urandom(10).hex()}"


def fingerprint(request: msgspec.Struct) -> str:
    """What tells two payloads under one id apart: 11 characters of A-Z a-z 0-9 - _."""
    digest = blake2b(_encode(request), digest_size=_FINGERPRINT_BYTES).digest()
    return urlsafe_b64encode(digest)[:11].decode()
