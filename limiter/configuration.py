"""How configuration is changed and shown. Pure: settings in, settings or views out."""

from __future__ import annotations

from dataclasses import replace

from msgspec import UNSET

from limiter.models import ChatConfig, WorkspaceConfig, WorkspacePatch
from limiter.money import cents_from_micros, micros_from_cents
from limiter.periods import LEGACY_PERIOD, PERIOD_NAMES
from limiter.settings import Settings
from limiter.stored import StoredChat, WorkspaceSettings


def default_workspace(settings: Settings) -> WorkspaceSettings:
    """What a new workspace starts with."""
    return WorkspaceSettings(
        limits={name: settings.default_limits.get(name) for name in PERIOD_NAMES},
        default_estimate_micros=settings.default_estimate_micros,
        on_hold_expiry=settings.on_hold_expiry,
    )


def patched(base: WorkspaceSettings, patch: WorkspacePatch) -> WorkspaceSettings:
    """The settings with what the patch names. The legacy limit is the monthly one, in cents."""
    limits = dict(base.limits)
    if patch.budget_limit is not UNSET:
        cents = patch.budget_limit
        limits[LEGACY_PERIOD] = None if cents is None else micros_from_cents(cents)
    if patch.budget_limits is not UNSET:
        limits.update(patch.budget_limits)
    settings = replace(base, limits=limits)
    if patch.default_estimate_micros is not UNSET:
        settings = replace(settings, default_estimate_micros=patch.default_estimate_micros)
    if patch.on_hold_expiry is not UNSET:
        settings = replace(settings, on_hold_expiry=patch.on_hold_expiry)
    if patch.outage_policy is not UNSET:
        settings = replace(settings, outage_policy=patch.outage_policy)
    return settings


def view_workspace(workspace_id: str, settings: WorkspaceSettings) -> WorkspaceConfig:
    monthly = settings.limits.get(LEGACY_PERIOD)
    return WorkspaceConfig(
        workspace_id=workspace_id,
        budget_limits={name: settings.limits.get(name) for name in PERIOD_NAMES},
        budget_limit=None if monthly is None else cents_from_micros(monthly),
        default_estimate_micros=settings.default_estimate_micros,
        on_hold_expiry=settings.on_hold_expiry,
        outage_policy=settings.outage_policy,
    )


def view_chat(stored: StoredChat) -> ChatConfig:
    return ChatConfig(
        chat_id=stored.chat_id,
        parent_chat_id=stored.parent_chat_id,
        root_chat_id=stored.root_chat_id,
        depth=stored.depth,
        spend_limit_micros=stored.limit_micros,
    )
