"""Durable storage: the ledger and what is derived from it. The only code that speaks SQL.

`Storage` is all of it that others call; the rest here are the values that go in and come out.
"""

from limiter.durable.config import AuditRow
from limiter.durable.copy import copy_store
from limiter.durable.entries import Entry
from limiter.durable.fold import Applied, DuplicateRecord
from limiter.durable.ledger import DeadLetter, LedgerRow
from limiter.durable.parse import PoisonedEntry, parse_entry
from limiter.durable.queue import Queued, UnappliedRecord
from limiter.durable.storage import Storage
from limiter.durable.sums import Sums
from limiter.durable.verify import ChatSums, Drift, Recomputed

__all__ = [
    "Applied",
    "AuditRow",
    "ChatSums",
    "DeadLetter",
    "Drift",
    "DuplicateRecord",
    "Entry",
    "LedgerRow",
    "PoisonedEntry",
    "Queued",
    "Recomputed",
    "Storage",
    "Sums",
    "UnappliedRecord",
    "copy_store",
    "parse_entry",
]
