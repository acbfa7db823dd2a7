"""A look at durable storage as it is, for `limiter doctor`. No migration is applied."""

from __future__ import annotations

from dataclasses import dataclass

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select

from limiter.durable.api_keys import has_admin
from limiter.durable.engine import SQLITE, Database
from limiter.durable.ledger import DeadLetter, dead_letter_list
from limiter.durable.migrate import alembic_config
from limiter.durable.schema import (
    chat_is_untold,
    chats,
    dead_letters,
    is_unapplied,
    spend_events,
    workspace_is_untold,
    workspaces,
)

# Beyond that it does not matter how many there are.
_COUNTED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class ExaminedContents:
    """`clock_ms`: the latest moment of the Redis clock that came here. Counts end at 10,000."""

    workspaces: int
    clock_ms: int
    queued_records: int
    untold_scopes: int
    dead_letters: int
    last_dead_letter: DeadLetter | None
    has_admin_key: bool


@dataclass(frozen=True, slots=True)
class ExaminedStore:
    """`revision` None: nothing was ever stored. `is_newer`: by a later version of the program.

    `contents` None: it is not at the revision that this version of the program expects.
    """

    engine: str
    revision: str | None
    expected: str
    is_newer: bool
    contents: ExaminedContents | None


async def examine(url: str) -> ExaminedStore:
    """Raises StoreUnavailable, and StartupError for a URL that cannot be used."""
    database = Database(url)
    try:
        return await database.read(_examine)
    finally:
        await database.close()


def _examine(connection: Connection) -> ExaminedStore:
    scripts = ScriptDirectory.from_config(alembic_config())
    known = {script.revision for script in scripts.walk_revisions()}
    expected = scripts.get_current_head() or ""
    revision = MigrationContext.configure(connection).get_current_revision()
    return ExaminedStore(
        engine=_engine(connection),
        revision=revision,
        expected=expected,
        is_newer=revision is not None and revision not in known,
        contents=_contents(connection) if revision == expected else None,
    )


def _contents(connection: Connection) -> ExaminedContents:
    count = select(func.count()).select_from
    queued = select(spend_events.c.id).where(is_unapplied).limit(_COUNTED_MAX)
    untold = [
        select(workspaces.c.workspace_id).where(workspace_is_untold).limit(_COUNTED_MAX),
        select(chats.c.workspace_id).where(chat_is_untold).limit(_COUNTED_MAX),
    ]
    letters = select(dead_letters.c.id).limit(_COUNTED_MAX)
    last = dead_letter_list(connection, 1)
    return ExaminedContents(
        workspaces=connection.scalar(count(workspaces)) or 0,
        clock_ms=connection.scalar(select(func.max(workspaces.c.clock_ms))) or 0,
        queued_records=connection.scalar(count(queued.subquery())) or 0,
        untold_scopes=sum(connection.scalar(count(each.subquery())) or 0 for each in untold),
        dead_letters=connection.scalar(count(letters.subquery())) or 0,
        last_dead_letter=last[0] if last else None,
        has_admin_key=has_admin(connection),
    )


def _engine(connection: Connection) -> str:
    version = ".".join(map(str, connection.dialect.server_version_info or ()))
    name = "SQLite" if connection.dialect.name == SQLITE else "PostgreSQL"
    return f"{name} {version}"
