"""The canonical configuration: workspaces and chats, each change audited in its transaction.

It must not touch a counter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from msgspec import UNSET, Struct, UnsetType
from sqlalchemy import Connection, delete, insert, select, update

from limiter.durable.books import UnknownWorkspaces, lock_workspaces
from limiter.durable.bulk import insert_new
from limiter.durable.chats import Chat, load_chats
from limiter.durable.load import settings
from limiter.durable.schema import budget_limits, config_audit, workspaces
from limiter.errors import WorkspaceNotFound
from limiter.stored import StoredChat, WorkspaceSettings


class AuditRow(Struct, frozen=True, kw_only=True):
    """One change of a configuration. `at_ms` is by the clock of the process that made it."""

    at_ms: int
    actor: str
    workspace_id: str
    chat_id: str | None
    before: dict[str, object] | None
    after: dict[str, object]


def create_rows(connection: Connection, workspace_ids: list[str]) -> None:
    """Makes rows that can be locked, for workspaces whose entries came before anything else."""
    insert_new(connection, workspaces, ("workspace_id",), [(id_,) for id_ in workspace_ids])


def create_workspace(
    connection: Connection, workspace_id: str, initial: WorkspaceSettings, actor: str, now_ms: int
) -> None:
    """Configures a workspace, unless it is."""
    create_rows(connection, [workspace_id])
    lock_workspaces(connection, {workspace_id})
    if settings(connection, workspace_id) is None:
        # Redis has nothing of it, and will be loaded with this.
        _write_settings(connection, workspace_id, initial, 1, is_told=True)
        _audit(connection, now_ms, actor, workspace_id, None, None, _settings_fields(initial))


def configure_workspace(
    connection: Connection,
    workspace_id: str,
    change: Callable[[WorkspaceSettings], WorkspaceSettings],
    initial: WorkspaceSettings,
    actor: str,
    now_ms: int,
) -> tuple[WorkspaceSettings, int]:
    """Changes what is there, or `initial`. What `change` raises leaves everything as it was."""
    create_rows(connection, [workspace_id])
    lock_workspaces(connection, {workspace_id})
    known = settings(connection, workspace_id)
    current, revision = known or (initial, 0)
    changed = change(current)
    _write_settings(connection, workspace_id, changed, revision + 1)
    before = None if known is None else _settings_fields(current)
    _audit(connection, now_ms, actor, workspace_id, None, before, _settings_fields(changed))
    return changed, revision + 1


def configure_chat(
    connection: Connection,
    workspace_id: str,
    chat_id: str,
    parent_chat_id: str | UnsetType | None,
    limit_micros: int | UnsetType | None,
    actor: str,
    now_ms: int,
) -> StoredChat:
    """Creates a chat or changes its limit.

    Raises WorkspaceNotFound, ChatParentUnknown, ChatParentImmutable, ChatCycle and ChatTooDeep.
    """
    try:
        lock_workspaces(connection, {workspace_id})
    except UnknownWorkspaces:
        raise WorkspaceNotFound(workspace_id) from None
    wanted = {(workspace_id, chat_id)}
    if isinstance(parent_chat_id, str):
        wanted.add((workspace_id, parent_chat_id))
    trees = load_chats(connection, wanted)
    chat = trees.get(workspace_id, chat_id)
    before = None if chat is None else _chat_fields(chat)
    if chat is None or parent_chat_id is not UNSET:
        chat = trees.create(
            workspace_id,
            chat_id,
            None if parent_chat_id is UNSET else parent_chat_id,
            limit_micros=None if chat is None else chat.limit_micros,
            provisional=False,
        )
    if limit_micros is not UNSET:
        chat.limit_micros = limit_micros
    chat.revision += 1
    trees.changed.add(chat.key)
    trees.write(connection)
    _audit(connection, now_ms, actor, workspace_id, chat_id, before, _chat_fields(chat))
    return chat.stored()


def audit(connection: Connection, workspace_id: str, limit: int) -> Sequence[AuditRow]:
    """The latest changes of a workspace's configuration and of its chats', latest first."""
    rows = connection.execute(
        select(config_audit)
        .where(config_audit.c.workspace_id == workspace_id)
        .order_by(config_audit.c.id.desc())
        .limit(limit)
    )
    return [
        AuditRow(
            at_ms=row.at_ms,
            actor=row.actor,
            workspace_id=row.workspace_id,
            chat_id=row.chat_id,
            before=None if row.before is None else json.loads(row.before),
            after=json.loads(row.after),
        )
        for row in rows
    ]


def _write_settings(
    connection: Connection,
    workspace_id: str,
    new: WorkspaceSettings,
    revision: int,
    *,
    is_told: bool = False,
) -> None:
    told = {"told_revision": revision} if is_told else {}
    connection.execute(
        update(workspaces)
        .where(workspaces.c.workspace_id == workspace_id)
        .values(
            revision=revision,
            default_estimate_micros=new.default_estimate_micros,
            on_hold_expiry=new.on_hold_expiry,
            outage_policy=new.outage_policy,
            **told,
        )
    )
    connection.execute(
        delete(budget_limits).where(
            budget_limits.c.workspace_id == workspace_id, budget_limits.c.period.in_(new.limits)
        )
    )
    limits = [
        {"workspace_id": workspace_id, "period": period, "limit_micros": limit_micros}
        for period, limit_micros in new.limits.items()
        if limit_micros is not None
    ]
    if limits:
        connection.execute(insert(budget_limits), limits)


def _settings_fields(value: WorkspaceSettings) -> dict[str, object]:
    return {
        "limits": dict(value.limits),
        "default_estimate_micros": value.default_estimate_micros,
        "on_hold_expiry": value.on_hold_expiry,
        "outage_policy": value.outage_policy,
    }


def _chat_fields(chat: Chat) -> dict[str, object]:
    return {"parent_chat_id": chat.parent_chat_id, "limit_micros": chat.limit_micros}


def _audit(
    connection: Connection,
    now_ms: int,
    actor: str,
    workspace_id: str,
    chat_id: str | None,
    before: Mapping[str, object] | None,
    after: Mapping[str, object],
) -> None:
    connection.execute(
        insert(config_audit).values(
            at_ms=now_ms,
            actor=actor,
            workspace_id=workspace_id,
            chat_id=chat_id,
            before=None if before is None else json.dumps(before),
            after=json.dumps(after),
        )
    )
