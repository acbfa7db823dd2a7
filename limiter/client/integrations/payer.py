"""Who pays for model calls: a workspace, and perhaps one of its chats. It knows no SDK.

An integration is given a payer when it is made. `paid_by` replaces that for a block of code, and
for the tasks that are started in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Payer:
    """A workspace, and perhaps one of its chats. `spend_limit_micros` is taken if that is new."""

    workspace_id: str
    chat_id: str | None = None
    parent_chat_id: str | None = None
    spend_limit_micros: int | None = None


_current: ContextVar[Payer | None] = ContextVar("limiter_payer", default=None)


@contextmanager
def paid_by(
    workspace_id: str,
    chat_id: str | None = None,
    *,
    parent_chat_id: str | None = None,
    spend_limit_micros: int | None = None,
) -> Iterator[Payer]:
    """Calls inside of the block are paid by this, whatever their integration was given.

    It holds for the current task or thread, and for what is started from it with its context.
    """
    payer = Payer(workspace_id, chat_id, parent_chat_id, spend_limit_micros)
    token = _current.set(payer)
    try:
        yield payer
    finally:
        _current.reset(token)


def current_payer(given: Payer) -> Payer:
    """The payer of a call that is made now: that of the innermost `paid_by`, or the given one."""
    return _current.get() or given
