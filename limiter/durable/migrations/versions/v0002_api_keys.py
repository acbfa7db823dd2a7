"""API keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

Word = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", Word, nullable=False),
        sa.Column("secret_hash", Word, nullable=False),
        sa.Column("role", Word, nullable=False),
        sa.Column("workspace_id", Word, nullable=True),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("role IN ('caller', 'admin', 'monitor')", name=op.f("ck_api_keys_role")),
        sa.CheckConstraint(
            "workspace_id IS NULL OR role = 'caller'", name=op.f("ck_api_keys_workspace_id")
        ),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_keys")),
        sqlite_with_rowid=False,
    )
