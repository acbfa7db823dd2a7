"""`limiter config`: what is typed is what holds, for the next call, and who typed it is known."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from limiter.commands import config
from limiter.commands.config import Change
from limiter.errors import (
    ChatNotFound,
    ChatParentUnknown,
    InvalidRequest,
    StartupError,
    WorkspaceNotFound,
)
from limiter.models import ChatPatch, CheckRequest, Denied, WorkspacePatch
from limiter.runtime import open_parts
from limiter.settings import Settings
from tests.support.redis_process import RedisProcess


def change(**typed: object) -> Change:
    nothing: dict[str, object] = dict.fromkeys(
        ["default_estimate", "on_hold_expiry", "outage_policy", "chat_limit", "parent"]
    )
    return Change(**{"limits": {}, **nothing, **typed})  # type: ignore[arg-type]


def test_dollars_and_words_become_a_patch() -> None:
    typed = change(
        limits={"hourly": "2.50", "daily": "none", "weekly": "0", "monthly": "$0.000001"},
        default_estimate="0.01",
        on_hold_expiry="charge",
        outage_policy="deny",
    )
    assert typed.workspace_patch() == WorkspacePatch(
        budget_limits={"hourly": 2_500_000, "daily": None, "weekly": 0, "monthly": 1},
        default_estimate_micros=10_000,
        on_hold_expiry="charge",
        outage_policy="deny",
    )
    assert change(outage_policy="default").workspace_patch() == WorkspacePatch(outage_policy=None)
    assert change(chat_limit="None").chat_patch() == ChatPatch(spend_limit_micros=None)
    assert change(chat_limit="5", parent="c0").chat_patch() == ChatPatch(
        spend_limit_micros=5_000_000, parent_chat_id="c0"
    )
    assert change().chat_patch() == ChatPatch()  # creates the chat


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ({}, "nothing to change"),
        ({"limits": {"hourly": "2,50"}}, "--hourly"),
        ({"limits": {"daily": "-1"}}, "--daily"),
        ({"limits": {"daily": "0.0000001"}}, "--daily"),
        ({"default_estimate": "none"}, "--default-estimate"),
        ({"chat_limit": "5"}, "--limit needs --chat"),
        ({"parent": "c1"}, "--parent needs --chat"),
    ],
)
def test_what_a_workspace_cannot_have_is_refused(typed: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        change(**typed).workspace_patch()


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ({"chat_limit": "0"}, "above 0"),
        ({"chat_limit": "x"}, "--limit"),
        ({"parent": "a:b"}, "--parent"),
        ({"limits": {"hourly": "1"}}, "--hourly is of a workspace"),
        ({"outage_policy": "deny"}, "--outage-policy is of a workspace"),
    ],
)
def test_what_a_chat_cannot_have_is_refused(typed: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        change(**typed).chat_patch()


async def test_a_change_holds_for_the_next_call_and_is_audited(settings: Settings) -> None:
    await config.set_workspace(settings, "acme", WorkspacePatch(budget_limits={"daily": 70}))
    async with open_parts(settings) as parts:
        check = CheckRequest(workspace_id="acme", chat_id="c1", estimate_micros=50)
        assert (await parts.limiter.check(check)).allowed
        # While this goes on, as a running service would.
        changed = await config.set_workspace(
            settings, "acme", WorkspacePatch(budget_limits={"hourly": 60})
        )
        assert changed.budget_limits == {"hourly": 60, "daily": 70, "weekly": None, "monthly": None}
        assert changed == await config.get(settings, "acme", None)
        denied = await parts.limiter.check(check)
        assert isinstance(denied, Denied)
        assert denied.exceeded_periods == ["hourly", "daily"]

        chat = await config.set_chat(settings, "acme", "c1", ChatPatch(spend_limit_micros=9))
        assert chat == await config.get(settings, "acme", "c1")
        denied = await parts.limiter.check(check)
        assert isinstance(denied, Denied)
        assert denied.scope == "chat_lifetime"
        audit = await parts.limiter.reads.audit("acme")
        assert [(row.actor, row.chat_id) for row in audit] == [
            (f"cli:{getpass.getuser()}", chat_id) for chat_id in ("c1", None, None)
        ]


async def test_what_is_not_there_is_said(settings: Settings) -> None:
    await config.set_workspace(settings, "acme", WorkspacePatch(budget_limits={"daily": 70}))
    with pytest.raises(WorkspaceNotFound):
        await config.get(settings, "nobody", None)
    with pytest.raises(ChatNotFound):
        await config.get(settings, "acme", "nobody")
    with pytest.raises(ChatParentUnknown):
        await config.set_chat(settings, "acme", "c1", ChatPatch(parent_chat_id="nobody"))
    with pytest.raises(InvalidRequest):
        await config.get(settings, "ac:me", None)


async def test_no_data_is_made(tmp_path: Path, redis_server: RedisProcess) -> None:
    empty = Settings.model_validate({"data_dir": tmp_path / "new", "redis_url": redis_server.url})
    with pytest.raises(StartupError, match="there is no data"):
        await config.set_workspace(empty, "acme", WorkspacePatch(budget_limits={"daily": 70}))
    assert not (tmp_path / "new").exists()
