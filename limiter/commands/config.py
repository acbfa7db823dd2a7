"""`limiter config`: limits and rules of a workspace or a chat, read and changed.

What is typed is dollars, exact to a micro, or a word. Durable storage has a change first, then
Redis, so that it holds for the very next call, and the audit names who made it.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from msgspec import UNSET, UnsetType
from rich.console import Console

from limiter.commands.data import open_data, open_storage
from limiter.commands.output import amount, dollars, print_table, right
from limiter.configuration import view_chat, view_workspace
from limiter.durable import Storage
from limiter.errors import ChatNotFound, InvalidRequest, WorkspaceNotFound
from limiter.models import (
    ChatConfig,
    ChatPatch,
    HoldExpiry,
    OutagePolicy,
    WorkspaceConfig,
    WorkspacePatch,
)
from limiter.periods import LIFETIME
from limiter.redis.keys import require_id
from limiter.settings import Settings

# What takes a limit away.
NONE = "none"

# `default`: back to the service's own.
OutagePolicyText = Literal["allow", "deny", "default"]
Config = WorkspaceConfig | ChatConfig


async def get(settings: Settings, workspace_id: str, chat_id: str | None) -> Config:
    """As durable storage has it. Raises NotFound, InvalidRequest, StartupError, StoreUnavailable.

    A chat that was made by a call within the last snapshot interval may not be there yet.
    """
    require_id(workspace_id, "workspace_id")
    async with open_storage(settings) as storage:
        return await _stored(storage, workspace_id, chat_id)


async def set_workspace(
    settings: Settings, workspace_id: str, patch: WorkspacePatch
) -> WorkspaceConfig:
    """Creates the workspace or changes what the patch names.

    Raises InvalidRequest, StartupError, Unavailable.
    """
    async with open_data(settings) as parts:
        return await parts.limiter.configure(workspace_id, patch, actor=actor())


async def set_chat(
    settings: Settings, workspace_id: str, chat_id: str, patch: ChatPatch
) -> ChatConfig:
    """Creates the chat or changes its limit. Raises the same, NotFound, and the chat errors."""
    async with open_data(settings) as parts:
        return await parts.limiter.configure_chat(workspace_id, chat_id, patch, actor=actor())


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What was typed, None where nothing was. `limits` has the periods that were named."""

    limits: Mapping[str, str]
    default_estimate: str | None
    on_hold_expiry: HoldExpiry | None
    outage_policy: OutagePolicyText | None
    chat_limit: str | None
    parent: str | None

    def workspace_patch(self) -> WorkspacePatch:
        """Raises InvalidRequest naming the option."""
        for option, text in (("--limit", self.chat_limit), ("--parent", self.parent)):
            if text is not None:
                raise InvalidRequest(f"{option} needs --chat", field=option)
        typed = {name: _limit(text, f"--{name}") for name, text in self.limits.items()}
        estimate = self.default_estimate
        patch = WorkspacePatch(
            budget_limits=typed or UNSET,
            default_estimate_micros=(
                UNSET if estimate is None else amount(estimate, "--default-estimate")
            ),
            on_hold_expiry=self.on_hold_expiry or UNSET,
            outage_policy=self._policy(),
        )
        if patch == WorkspacePatch():
            raise InvalidRequest("nothing to change: name a limit or a rule, see --help")
        return patch

    def _policy(self) -> OutagePolicy | UnsetType | None:
        if self.outage_policy is None:
            return UNSET
        return None if self.outage_policy == "default" else self.outage_policy

    def chat_patch(self) -> ChatPatch:
        """A chat's limit is above 0. Raises InvalidRequest naming the option."""
        others = {
            **self.limits,
            "default-estimate": self.default_estimate,
            "on-hold-expiry": self.on_hold_expiry,
            "outage-policy": self.outage_policy,
        }
        for name, text in others.items():
            if text is not None:
                raise InvalidRequest(f"--{name} is of a workspace, not of a chat", field=name)
        limit = None if self.chat_limit is None else _limit(self.chat_limit, "--limit")
        if limit == 0:
            raise InvalidRequest("--limit: a chat's limit is above 0, or none", field="--limit")
        return ChatPatch(
            spend_limit_micros=UNSET if self.chat_limit is None else limit,
            parent_chat_id=(UNSET if self.parent is None else require_id(self.parent, "--parent")),
        )


def actor() -> str:
    """Who types, for the audit."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # in a container, a user may have no name
        return "cli"


def show_config(console: Console, found: Config) -> None:
    """Limits first, then the rules."""
    if isinstance(found, ChatConfig):
        rows = [[LIFETIME, _limit_text(found.spend_limit_micros)]]
        rules = [["parent", found.parent_chat_id or NONE], ["root", found.root_chat_id]]
    else:
        rows = [[name, _limit_text(limit)] for name, limit in found.budget_limits.items()]
        rules = [
            ["default estimate", dollars(found.default_estimate_micros)],
            ["on hold expiry", found.on_hold_expiry],
            ["outage policy", found.outage_policy or "default"],
        ]
    print_table(console, ["setting", right("value")], [*rows, *rules])


async def _stored(storage: Storage, workspace_id: str, chat_id: str | None) -> Config:
    settings = await storage.settings(workspace_id)
    if settings is None:
        raise WorkspaceNotFound(workspace_id)
    if chat_id is None:
        return view_workspace(workspace_id, settings)
    chat = await storage.chat(workspace_id, require_id(chat_id, "--chat"))
    if chat is None:
        raise ChatNotFound(chat_id)
    return view_chat(chat)


def _limit(text: str, option: str) -> int | None:
    return None if text.strip().lower() == NONE else amount(text, option)


def _limit_text(micros: int | None) -> str:
    return "$0.00 (blocked)" if micros == 0 else dollars(micros)
