"""Statements over many rows at once, in one round trip, on both databases.

PostgreSQL gets rows as one JSON document, which is by far the fastest that its driver can send.
SQLite runs a prepared statement for each row, past SQLAlchemy's per-row work; only keys to look up
come as JSON. This is the only module that tells the two apart in a statement.
It must not know what any table means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ClauseElement,
    ColumnElement,
    Connection,
    Executable,
    FromClause,
    Integer,
    Row,
    String,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    collate,
    column,
    func,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from limiter.durable.engine import SQLITE

Values = tuple[Any, ...]
AnyRow = Row[*tuple[Any, ...]]

# One parameter holds it all; its name is no column's.
_DOCUMENT = "rows_given"
_encode = msgspec.json.Encoder().encode


def matching(
    connection: Connection, table: Table, key: tuple[str, ...], keys: Iterable[Values]
) -> Sequence[AnyRow]:
    """The rows whose `key` columns are among `keys`, in no order. The columns are words."""
    wanted = list(keys)
    if not wanted:
        return []
    statement = _matching(connection.dialect.name, table, key)
    return connection.execute(statement, key_parameter(wanted)).all()


def key_source(dialect_name: str, width: int) -> tuple[FromClause, list[ColumnElement[str]]]:
    """A relation of `width` word columns, which `key_parameter` fills."""
    document = bindparam(_DOCUMENT, type_=Text)
    if dialect_name == SQLITE:
        rows = func.json_each(document).table_valued("value", name="wanted")
        return rows, [func.json_extract(rows.c.value, f"$[{i}]", type_=Text) for i in range(width)]
    rows = func.json_array_elements(cast(document, JSON)).table_valued(
        column("value", JSON), name="wanted"
    )
    # Its words have the database's own collation, and the columns another.
    return rows, [collate(rows.c.value[i].as_string(), "C") for i in range(width)]


def key_parameter(keys: Sequence[Values]) -> dict[str, str]:
    return {_DOCUMENT: _encode(keys).decode()}


def insert_new(
    connection: Connection, table: Table, names: tuple[str, ...], rows: Sequence[Values]
) -> int:
    """Inserts the rows that are not there yet, and says how many."""
    return _execute(connection, _insert, (table, names, None), names, rows)


def replace(
    connection: Connection, table: Table, names: tuple[str, ...], rows: Sequence[Values]
) -> None:
    """Inserts rows, or sets all that is named of the ones that are there."""
    _execute(connection, _insert, (table, names, ""), names, rows)


def add(
    connection: Connection,
    table: Table,
    names: tuple[str, ...],
    rows: Sequence[Values],
    *,
    amount: str,
) -> None:
    """Inserts rows, or adds the column `amount` to the ones that are there."""
    _execute(connection, _insert, (table, names, amount), names, rows)


def change(
    connection: Connection,
    table: Table,
    key: tuple[str, ...],
    names: tuple[str, ...],
    rows: Sequence[Values],
    *,
    adds: bool = False,
) -> int:
    """Sets (or adds to) the columns `names` of rows that are there; each row is `(*key, *names)`.

    Returns how many were there.
    """
    return _execute(connection, _update, (table, key, names, adds), (*key, *names), rows)


Build = Callable[..., Executable]


def _execute(
    connection: Connection,
    build: Build,
    arguments: Values,
    names: tuple[str, ...],
    rows: Sequence[Values],
) -> int:
    """Runs the statement that `build` makes of `arguments`, for rows of the columns `names`."""
    if not rows:
        return 0
    if connection.dialect.name == SQLITE:
        text, in_order = _sqlite_text(build, arguments, names)
        return connection.exec_driver_sql(text, [in_order(row) for row in rows]).rowcount
    statement = build("postgresql", *arguments)
    document = _encode([dict(zip(names, row, strict=True)) for row in rows]).decode()
    return connection.execute(statement, {_DOCUMENT: document}).rowcount


@lru_cache
def _sqlite_text(
    build: Build, arguments: Values, names: tuple[str, ...]
) -> tuple[str, Callable[[Values], Values]]:
    """The statement as text, and what brings a row's values into the order of its parameters."""
    statement = build(SQLITE, *arguments)
    if not isinstance(statement, ClauseElement):
        raise TypeError("a statement that has no text")
    compiled = statement.compile(dialect=sqlite.dialect(paramstyle="qmark"))
    if not isinstance(compiled, SQLCompiler):
        raise TypeError("a statement that has no parameters")
    order = [names.index(name.removeprefix(_PREFIX)) for name in compiled.positiontup or ()]
    # With a single index it would return a value, not a tuple.
    return str(compiled), itemgetter(*order) if len(order) > 1 else tuple


# An update must not find its parameters named like the columns that it sets.
_PREFIX = "p_"


def _parameters(table: Table, names: tuple[str, ...]) -> dict[str, ColumnElement[Any]]:
    return {name: bindparam(_PREFIX + name, type_=table.c[name].type) for name in names}


def _document(table: Table, names: tuple[str, ...]) -> FromClause:
    columns = [column(name, _plain_type(table.c[name].type)) for name in names]
    rows = func.json_to_recordset(cast(bindparam(_DOCUMENT, type_=Text), JSON))
    return rows.table_valued(*columns, name="given").render_derived(with_types=True)


@lru_cache
def _matching(dialect_name: str, table: Table, key: tuple[str, ...]) -> Executable:
    wanted, values = key_source(dialect_name, len(key))
    on = and_(*(table.c[name] == value for name, value in zip(key, values, strict=True)))
    return select(table).select_from(wanted.join(table, on))


@lru_cache
def _insert(
    dialect_name: str, table: Table, names: tuple[str, ...], amount: str | None
) -> Executable:
    """`amount` None: leave what is there; '': replace it; else: add that column to it."""
    statement: sqlite.Insert | postgresql.Insert
    if dialect_name == SQLITE:
        statement = sqlite.insert(table).values(_parameters(table, names))
    else:
        given = _document(table, names)
        statement = postgresql.insert(table).from_select(
            names, select(*(given.c[name] for name in names))
        )
    if amount is None:
        return statement.on_conflict_do_nothing().execution_options(preserve_rowcount=True)
    key = [column.name for column in table.primary_key]
    changes: dict[str, Any] = {name: statement.excluded[name] for name in names if name not in key}
    if amount:
        changes = {amount: table.c[amount] + statement.excluded[amount]}
    return statement.on_conflict_do_update(index_elements=key, set_=changes)


@lru_cache
def _update(
    dialect_name: str, table: Table, key: tuple[str, ...], names: tuple[str, ...], adds: bool
) -> Executable:
    given: dict[str, ColumnElement[Any]]
    if dialect_name == SQLITE:
        given = _parameters(table, (*key, *names))
    else:
        given = dict(_document(table, (*key, *names)).c.items())
    return (
        update(table)
        .where(*(table.c[name] == given[name] for name in key))
        .values({name: table.c[name] + given[name] if adds else given[name] for name in names})
    )


def _plain_type(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    """The type of a column, without its collation."""
    if isinstance(type_, Boolean):
        return Boolean()
    if isinstance(type_, BigInteger):
        return BigInteger()
    if isinstance(type_, Integer):
        return Integer()
    if isinstance(type_, String):
        return Text()
    raise TypeError(f"no column of {type_!r} is filled in bulk")
