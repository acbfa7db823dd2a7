"""Brings a database to this version of the program, at start, by one process at a time.

The migrations, and the windows of periods that it has not been filled for. It must not be called
while entries are applied by the same process.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import BigInteger, Connection, Engine, cast, delete, func, insert, literal, select
from sqlalchemy.sql.functions import coalesce

from limiter import periods
from limiter.durable.engine import SQLITE
from limiter.durable.schema import (
    WORKSPACE_SCOPE,
    spend_events,
    window_buckets,
    window_periods,
    workspaces,
)
from limiter.errors import StartupError
from limiter.periods import Period

# Any number that no other program on the same database uses.
_ADVISORY_LOCK = 6_714_907_433_216_245_291
WAIT_MS_MAX = 60_000


def migrate(engine: Engine) -> None:
    """Applies what is missing, all of it or nothing. Raises StartupError on a newer database."""
    with engine.connect() as connection:
        if engine.dialect.name == SQLITE:
            driver = connection.connection.driver_connection
            if driver is None:
                raise RuntimeError("a new connection has no driver connection")
            (usual_ms,) = driver.execute("PRAGMA busy_timeout").fetchone()
            # Set past SQLAlchemy, which would begin the transaction with it.
            driver.execute(f"PRAGMA busy_timeout = {WAIT_MS_MAX}")
            try:
                with connection.begin():
                    _upgrade(connection)
            finally:
                driver.execute(f"PRAGMA busy_timeout = {usual_ms}")
            return
        with connection.begin():
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {WAIT_MS_MAX}")
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            _upgrade(connection)


def alembic_config() -> Config:
    """Where the migrations are."""
    config = Config()
    # A percent sign in the path would be taken for an interpolation.
    folder = str(Path(__file__).parent / "migrations").replace("%", "%%")
    config.set_main_option("script_location", folder)
    config.set_main_option("path_separator", "os")
    return config


def _upgrade(connection: Connection) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StartupError(
            f"durable storage belongs to a newer version of the program: {error}"
        ) from error
    _fill_new_windows(connection)


def _fill_new_windows(connection: Connection) -> None:
    """Fills the windows of periods that are new, or cut otherwise now, from the ledger."""
    rows = connection.execute(select(window_periods)).all()
    known = {row.period: (row.window_ms, row.bucket_ms) for row in rows}
    for period in periods.PERIODS:
        cut = (period.window_ms, period.bucket_ms)
        if known.get(period.name) == cut:
            continue
        _fill_window(connection, period)
        connection.execute(delete(window_periods).where(window_periods.c.period == period.name))
        connection.execute(insert(window_periods).values((period.name, *cut)))
    # Nothing is added to these any more, so they must not be found half full if they come back.
    for name in known.keys() - {period.name for period in periods.PERIODS}:
        connection.execute(delete(window_buckets).where(window_buckets.c.period == name))
        connection.execute(delete(window_periods).where(window_periods.c.period == name))


def _fill_window(connection: Connection, period: Period) -> None:
    buckets, events = window_buckets.c, spend_events.c
    connection.execute(delete(window_buckets).where(buckets.period == period.name))
    start = cast(events.at_ms - events.at_ms % period.bucket_ms, BigInteger)
    micros = cast(coalesce(func.sum(events.charged_micros), 0), BigInteger)
    live = events.at_ms > workspaces.c.clock_ms - period.window_ms - 2 * period.bucket_ms
    connection.execute(
        insert(window_buckets).from_select(
            [column.name for column in window_buckets.columns],
            select(
                events.workspace_id, literal(WORKSPACE_SCOPE), literal(period.name), start, micros
            )
            .join_from(spend_events, workspaces, events.workspace_id == workspaces.c.workspace_id)
            .where(live, events.charged_micros > 0)
            .group_by(events.workspace_id, start),
        )
    )
