"""The first schema: ledger, aggregates, configuration, audit, dead letters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

Word = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "budget_limits",
        sa.Column("workspace_id", Word, nullable=False),
        sa.Column("period", Word, nullable=False),
        sa.Column("limit_micros", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "limit_micros BETWEEN 0 AND 9007199254740991",
            name=op.f("ck_budget_limits_limit_micros"),
        ),
        sa.PrimaryKeyConstraint("workspace_id", "period", name=op.f("pk_budget_limits")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "chats",
        sa.Column("workspace_id", Word, nullable=False),
        sa.Column("chat_id", Word, nullable=False),
        sa.Column("parent_chat_id", Word, nullable=True),
        sa.Column("root_chat_id", Word, nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("provisional", sa.Boolean(), nullable=False),
        sa.Column("limit_micros", sa.BigInteger(), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("spent_micros", sa.BigInteger(), nullable=False),
        sa.Column("own_spent_micros", sa.BigInteger(), nullable=False),
        sa.Column("held_micros", sa.BigInteger(), nullable=False),
        sa.Column("pruned_micros", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("depth BETWEEN 1 AND 64", name=op.f("ck_chats_depth")),
        sa.CheckConstraint(
            "held_micros BETWEEN 0 AND 9007199254740991", name=op.f("ck_chats_held_micros")
        ),
        sa.CheckConstraint(
            "limit_micros BETWEEN 1 AND 9007199254740991", name=op.f("ck_chats_limit_micros")
        ),
        sa.CheckConstraint(
            "own_spent_micros BETWEEN 0 AND spent_micros", name=op.f("ck_chats_own_spent_micros")
        ),
        sa.CheckConstraint(
            "pruned_micros BETWEEN 0 AND own_spent_micros", name=op.f("ck_chats_pruned_micros")
        ),
        sa.CheckConstraint("revision >= 0", name=op.f("ck_chats_revision")),
        sa.CheckConstraint(
            "spent_micros BETWEEN 0 AND 9007199254740991", name=op.f("ck_chats_spent_micros")
        ),
        sa.PrimaryKeyConstraint("workspace_id", "chat_id", name=op.f("pk_chats")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_chats_workspace_id_parent_chat_id_chat_id"),
        "chats",
        ["workspace_id", "parent_chat_id", "chat_id"],
        unique=False,
    )
    op.create_table(
        "config_audit",
        sa.Column("id", RowId, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("workspace_id", Word, nullable=False),
        sa.Column("chat_id", Word, nullable=True),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_config_audit")),
    )
    op.create_index(
        op.f("ix_config_audit_workspace_id_id"),
        "config_audit",
        ["workspace_id", "id"],
        unique=False,
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", RowId, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("stream_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("fields", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letters")),
        sa.UniqueConstraint(
            "partition", "stream_id", name=op.f("uq_dead_letters_partition_stream_id")
        ),
    )
    op.create_table(
        "reservations",
        sa.Column("workspace_id", Word, nullable=False),
        sa.Column("reservation_id", Word, nullable=False),
        sa.Column("state", Word, nullable=False),
        sa.Column("micros", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("chat_id", Word, nullable=True),
        sa.Column("fingerprint", Word, nullable=False),
        sa.Column("charged_micros", sa.BigInteger(), nullable=False),
        sa.Column("stream_id", Word, nullable=False),
        sa.Column("forget_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(state = 'held') = (forget_at_ms IS NULL)", name=op.f("ck_reservations_forget_at_ms")
        ),
        sa.CheckConstraint(
            "state IN ('held', 'recorded', 'released', 'expired')",
            name=op.f("ck_reservations_state"),
        ),
        sa.CheckConstraint(
            "micros BETWEEN 0 AND 9007199254740991", name=op.f("ck_reservations_micros")
        ),
        sa.PrimaryKeyConstraint("workspace_id", "reservation_id", name=op.f("pk_reservations")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_reservations_ended",
        "reservations",
        ["workspace_id", "forget_at_ms"],
        unique=False,
        postgresql_where=sa.text("state <> 'held'"),
        sqlite_where=sa.text("state <> 'held'"),
    )
    op.create_index(
        "ix_reservations_held",
        "reservations",
        ["workspace_id", "expires_at_ms"],
        unique=False,
        postgresql_where=sa.text("state = 'held'"),
        sqlite_where=sa.text("state = 'held'"),
    )
    op.create_table(
        "sources",
        sa.Column("workspace_id", Word, nullable=False),
        sa.Column("source", Word, nullable=False),
        sa.Column("total_micros", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("stream_id", Word, nullable=False),
        sa.Column("queued_total_micros", sa.BigInteger(), nullable=True),
        sa.Column("queued_sequence", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "queued_total_micros BETWEEN 0 AND 9007199254740991",
            name=op.f("ck_sources_queued_total_micros"),
        ),
        sa.CheckConstraint(
            "total_micros BETWEEN 0 AND 9007199254740991", name=op.f("ck_sources_total_micros")
        ),
        sa.PrimaryKeyConstraint("workspace_id", "source", name=op.f("pk_sources")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "spend_events",
        sa.Column("id", RowId, nullable=False),
        sa.Column("workspace_id", Word, nullable=False),
        sa.Column("event_id", Word, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("charged_micros", sa.BigInteger(), nullable=False),
        sa.Column("fingerprint", Word, nullable=False),
        sa.Column("chat_id", Word, nullable=True),
        sa.Column("reservation_id", Word, nullable=True),
        sa.Column("reservation_state", Word, nullable=True),
        sa.Column("source", Word, nullable=True),
        sa.Column("total_micros", sa.BigInteger(), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("priced", sa.Boolean(), nullable=False),
        sa.Column("data", sa.Text(), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("stream_id", Word, nullable=True),
        sa.Column("applied", sa.Boolean(), nullable=False),
        sa.Column("applied_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("reported_micros", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(stream_id IS NULL) = (seq IS NULL)", name=op.f("ck_spend_events_stream_id")
        ),
        sa.CheckConstraint(
            "charged_micros BETWEEN 0 AND 9007199254740991",
            name=op.f("ck_spend_events_charged_micros"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spend_events")),
        sa.UniqueConstraint(
            "workspace_id", "event_id", name=op.f("uq_spend_events_workspace_id_event_id")
        ),
    )
    op.create_index(
        "ix_spend_events_unapplied",
        "spend_events",
        ["workspace_id", "id"],
        unique=False,
        postgresql_where=sa.text("NOT applied"),
        sqlite_where=sa.text("applied = 0"),
    )
    op.create_index(
        op.f("ix_spend_events_workspace_id_at_ms_id"),
        "spend_events",
        ["workspace_id", "at_ms", "id"],
        unique=False,
    )
    op.create_table(
        "window_buckets",
        sa.Column("workspace_id", Word, nullable=False),
        sa.Column("scope", Word, nullable=False),
        sa.Column("period", Word, nullable=False),
        sa.Column("start_ms", sa.BigInteger(), nullable=False),
        sa.Column("micros", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "micros BETWEEN 0 AND 9007199254740991", name=op.f("ck_window_buckets_micros")
        ),
        sa.PrimaryKeyConstraint(
            "workspace_id", "scope", "period", "start_ms", name=op.f("pk_window_buckets")
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "window_periods",
        sa.Column("period", Word, nullable=False),
        sa.Column("window_ms", sa.BigInteger(), nullable=False),
        sa.Column("bucket_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("period", name=op.f("pk_window_periods")),
    )
    op.create_table(
        "workspaces",
        sa.Column("workspace_id", Word, nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("default_estimate_micros", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("on_hold_expiry", Word, server_default="refund", nullable=False),
        sa.Column("outage_policy", Word, nullable=True),
        sa.Column("seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("stream_id", Word, server_default="0-0", nullable=False),
        sa.Column("clock_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("spent_at_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("unpriced_records", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("pruned_before_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("pruned_unpriced_records", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "on_hold_expiry IN ('refund', 'charge')", name=op.f("ck_workspaces_on_hold_expiry")
        ),
        sa.CheckConstraint(
            "outage_policy IN ('allow', 'deny')", name=op.f("ck_workspaces_outage_policy")
        ),
        sa.CheckConstraint(
            "default_estimate_micros BETWEEN 0 AND 9007199254740991",
            name=op.f("ck_workspaces_default_estimate_micros"),
        ),
        sa.CheckConstraint("revision >= 0", name=op.f("ck_workspaces_revision")),
        sa.PrimaryKeyConstraint("workspace_id", name=op.f("pk_workspaces")),
    )
