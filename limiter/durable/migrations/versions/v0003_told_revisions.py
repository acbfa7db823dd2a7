"""Which revision of each configuration Redis was told of.

What it was told of before, nobody knows: it is told of everything once more.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_UNTOLD = sa.text("told_revision < revision")


def upgrade() -> None:
    for table, key in (("workspaces", ["workspace_id"]), ("chats", ["workspace_id", "chat_id"])):
        told = sa.Column("told_revision", sa.BigInteger(), server_default="0", nullable=False)
        op.add_column(table, told)
        op.create_index(
            f"ix_{table}_untold",
            table,
            key,
            unique=False,
            postgresql_where=_UNTOLD,
            sqlite_where=_UNTOLD,
        )
