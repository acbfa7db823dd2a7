"""The tables of durable storage, as the current version of the program expects them.

`migrations/` brings a database here; a test compares the two. Amounts are BIGINT micros, moments
BIGINT milliseconds of the Redis clock, words are TEXT. No table names a period: adding one is a
line in `limiter.periods` and no migration. It must not run SQL.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.dialects import postgresql

from limiter.models import DEPTH_MAX
from limiter.money import MICROS_MAX

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# The scope of the only windows there are.
WORKSPACE_SCOPE = "workspace"

# Before every entry of a stream.
NO_STREAM_ID = "0-0"

# Bytewise order, so that an index survives an upgrade of the system's collations and sorts as
# Python does.
Word = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

# SQLite numbers rows by itself only where the type is exactly INTEGER.
RowId = BigInteger().with_variant(Integer(), "sqlite")

# A partial index serves a query that says the same, word for word and without parameters.
_UNAPPLIED = {"postgresql": text("NOT applied"), "sqlite": text("applied = 0")}
_UNTOLD = text("told_revision < revision")
_HELD = text("state = 'held'")
_ENDED = text("state <> 'held'")


def _amount(name: str) -> CheckConstraint:
    return CheckConstraint(f"{name} BETWEEN 0 AND {MICROS_MAX}", name=name)


# One row a workspace: the head of its configuration, and what its stream has brought so far.
# Revision 0: entries came before the configuration did. Whoever writes anything that belongs to a
# workspace locks its row first.
workspaces = Table(
    "workspaces",
    metadata,
    Column("workspace_id", Word, primary_key=True),
    Column("revision", BigInteger, nullable=False, server_default="0"),
    Column("default_estimate_micros", BigInteger, nullable=False, server_default="0"),
    Column("on_hold_expiry", Word, nullable=False, server_default="refund"),
    Column("outage_policy", Word),
    # The highest number and stream id among the entries that were applied.
    Column("seq", BigInteger, nullable=False, server_default="0"),
    Column("stream_id", Word, nullable=False, server_default=NO_STREAM_ID),
    Column("clock_ms", BigInteger, nullable=False, server_default="0"),
    Column("spent_at_ms", BigInteger, nullable=False, server_default="0"),
    Column("unpriced_records", BigInteger, nullable=False, server_default="0"),
    # What was pruned: every ledger row before that moment may be gone, so many of them unpriced.
    Column("pruned_before_ms", BigInteger, nullable=False, server_default="0"),
    Column("pruned_unpriced_records", BigInteger, nullable=False, server_default="0"),
    # The revision that Redis was told of last. A scope that is not in Redis needs no telling.
    Column("told_revision", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("revision >= 0", name="revision"),
    _amount("default_estimate_micros"),
    CheckConstraint("on_hold_expiry IN ('refund', 'charge')", name="on_hold_expiry"),
    CheckConstraint("outage_policy IN ('allow', 'deny')", name="outage_policy"),
    Index(
        "ix_workspaces_untold",
        "workspace_id",
        postgresql_where=_UNTOLD,
        sqlite_where=_UNTOLD,
    ),
)

# The limits of a workspace's periods. No row: unlimited.
budget_limits = Table(
    "budget_limits",
    metadata,
    Column("workspace_id", Word, primary_key=True),
    Column("period", Word, primary_key=True),
    Column("limit_micros", BigInteger, nullable=False),
    _amount("limit_micros"),
    sqlite_with_rowid=False,
)

# A chat, its place in the tree, and its sums. `spent_micros` and `held_micros` include everything
# below it. `provisional`: spend came before the news of its place, which is still to come.
chats = Table(
    "chats",
    metadata,
    Column("workspace_id", Word, primary_key=True),
    Column("chat_id", Word, primary_key=True),
    Column("parent_chat_id", Word),
    Column("root_chat_id", Word, nullable=False),
    Column("depth", Integer, nullable=False),
    Column("provisional", Boolean, nullable=False),
    Column("limit_micros", BigInteger),
    Column("revision", BigInteger, nullable=False),
    Column("spent_micros", BigInteger, nullable=False),
    Column("own_spent_micros", BigInteger, nullable=False),
    Column("held_micros", BigInteger, nullable=False),
    # The part of `own_spent_micros` whose ledger rows were pruned.
    Column("pruned_micros", BigInteger, nullable=False),
    # As in `workspaces`.
    Column("told_revision", BigInteger, nullable=False, server_default="0"),
    CheckConstraint(f"depth BETWEEN 1 AND {DEPTH_MAX}", name="depth"),
    CheckConstraint(f"limit_micros BETWEEN 1 AND {MICROS_MAX}", name="limit_micros"),
    CheckConstraint("revision >= 0", name="revision"),
    _amount("spent_micros"),
    CheckConstraint("own_spent_micros BETWEEN 0 AND spent_micros", name="own_spent_micros"),
    _amount("held_micros"),
    CheckConstraint("pruned_micros BETWEEN 0 AND own_spent_micros", name="pruned_micros"),
    Index(None, "workspace_id", "parent_chat_id", "chat_id"),
    Index(
        "ix_chats_untold",
        "workspace_id",
        "chat_id",
        postgresql_where=_UNTOLD,
        sqlite_where=_UNTOLD,
    ),
    sqlite_with_rowid=False,
)

# The ledger: one row a charge. `applied`: Redis has counted it too. A row that was written while
# Redis was away carries what was reported, and no stream id until its entry comes by.
spend_events = Table(
    "spend_events",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("workspace_id", Word, nullable=False),
    Column("event_id", Word, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("charged_micros", BigInteger, nullable=False),
    Column("fingerprint", Word, nullable=False),
    Column("chat_id", Word),
    Column("reservation_id", Word),
    Column("reservation_state", Word),
    Column("source", Word),
    Column("total_micros", BigInteger),
    Column("sequence", BigInteger),
    Column("priced", Boolean, nullable=False),
    Column("data", Text),
    Column("seq", BigInteger),
    Column("stream_id", Word),
    Column("applied", Boolean, nullable=False),
    Column("applied_at_ms", BigInteger),
    Column("reported_micros", BigInteger),
    _amount("charged_micros"),
    CheckConstraint("(stream_id IS NULL) = (seq IS NULL)", name="stream_id"),
    UniqueConstraint("workspace_id", "event_id"),
    Index(None, "workspace_id", "at_ms", "id"),
    Index(
        "ix_spend_events_unapplied",
        "workspace_id",
        "id",
        postgresql_where=_UNAPPLIED["postgresql"],
        sqlite_where=_UNAPPLIED["sqlite"],
    ),
)

# What was charged in one bucket of one rolling window of one scope.
window_buckets = Table(
    "window_buckets",
    metadata,
    Column("workspace_id", Word, primary_key=True),
    Column("scope", Word, primary_key=True),
    Column("period", Word, primary_key=True),
    Column("start_ms", BigInteger, primary_key=True),
    Column("micros", BigInteger, nullable=False),
    _amount("micros"),
    sqlite_with_rowid=False,
)

# The widths that `window_buckets` was filled with. A period that is new here, or has another width
# now, is filled from the ledger at start.
window_periods = Table(
    "window_periods",
    metadata,
    Column("period", Word, primary_key=True),
    Column("window_ms", BigInteger, nullable=False),
    Column("bucket_ms", BigInteger, nullable=False),
)

# Holds, and for a while those that ended, so that a stream entry which comes twice or late cannot
# bring one back. `stream_id` is that of the entry which decided `state`.
reservations = Table(
    "reservations",
    metadata,
    Column("workspace_id", Word, primary_key=True),
    Column("reservation_id", Word, primary_key=True),
    Column("state", Word, nullable=False),
    Column("micros", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("chat_id", Word),
    Column("fingerprint", Word, nullable=False),
    # What its expiry was charged; a record that comes late is credited with it.
    Column("charged_micros", BigInteger, nullable=False),
    Column("stream_id", Word, nullable=False),
    # When the row of an ended hold may go, on the workspace's clock.
    Column("forget_at_ms", BigInteger),
    CheckConstraint("state IN ('held', 'recorded', 'released', 'expired')", name="state"),
    _amount("micros"),
    CheckConstraint("(state = 'held') = (forget_at_ms IS NULL)", name="forget_at_ms"),
    Index(
        "ix_reservations_ended",
        "workspace_id",
        "forget_at_ms",
        postgresql_where=_ENDED,
        sqlite_where=_ENDED,
    ),
    Index(
        "ix_reservations_held",
        "workspace_id",
        "expires_at_ms",
        postgresql_where=_HELD,
        sqlite_where=_HELD,
    ),
    sqlite_with_rowid=False,
)

is_held = reservations.c.state == literal_column("'held'")
has_ended = reservations.c.state != literal_column("'held'")
is_unapplied = ~spend_events.c.applied
workspace_is_untold = workspaces.c.told_revision < workspaces.c.revision
chat_is_untold = chats.c.told_revision < chats.c.revision

# The last running total of each cumulative reporter, as Redis has it and, until an entry comes, as
# it was reported while Redis was away. Stream id 0-0: Redis has never told of this one.
sources = Table(
    "sources",
    metadata,
    Column("workspace_id", Word, primary_key=True),
    Column("source", Word, primary_key=True),
    Column("total_micros", BigInteger, nullable=False),
    Column("sequence", BigInteger),
    Column("stream_id", Word, nullable=False),
    Column("queued_total_micros", BigInteger),
    Column("queued_sequence", BigInteger),
    _amount("total_micros"),
    _amount("queued_total_micros"),
    sqlite_with_rowid=False,
)

# Who changed which configuration, when (this one by the wall clock), from what to what, as JSON.
config_audit = Table(
    "config_audit",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("workspace_id", Word, nullable=False),
    Column("chat_id", Word),
    Column("before", Text),
    Column("after", Text, nullable=False),
    Index(None, "workspace_id", "id"),
)

# Stream entries that could not be understood, or not be applied, as JSON.
dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("stream_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("fields", Text, nullable=False),
    UniqueConstraint("partition", "stream_id"),
)

# Who may call, and as what. Of the secret only its SHA-256 is here. No workspace: all of them.
api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Word, primary_key=True),
    Column("secret_hash", Word, nullable=False),
    Column("role", Word, nullable=False),
    Column("workspace_id", Word),
    Column("label", Text, nullable=False),
    # Both by the wall clock.
    Column("created_at_ms", BigInteger, nullable=False),
    Column("revoked_at_ms", BigInteger),
    CheckConstraint("role IN ('caller', 'admin', 'monitor')", name="role"),
    CheckConstraint("workspace_id IS NULL OR role = 'caller'", name="workspace_id"),
    sqlite_with_rowid=False,
)
