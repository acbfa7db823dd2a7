"""`limiter config get` and `limiter config set`. Wiring only."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import typer
from rich.console import Console

from limiter.commands.options import collects
from limiter.models import HoldExpiry
from limiter.periods import PERIOD_NAMES
from limiter.settings import load_settings

config_app = typer.Typer(
    help="Show or change limits and rules. Amounts are dollars.", no_args_is_help=True
)

Workspace = Annotated[str, typer.Argument(help="its id")]
_LIMIT = "limit, such as 2.50; none: unlimited; 0: block all"

Json = Annotated[bool, typer.Option("--json", help="print one JSON value")]


@config_app.command("get")
def get(
    workspace: Workspace,
    chat: Annotated[str | None, typer.Option(help="one of its chats")] = None,
    json: Json = False,
) -> None:
    """Show the configuration of a workspace or a chat."""
    from limiter.commands import config as run
    from limiter.commands.output import print_json

    found = asyncio.run(run.get(load_settings(), workspace, chat))
    if json:
        print_json(found)
    else:
        run.show_config(Console(), found)


@config_app.command("set")
@collects("limits", dict.fromkeys(PERIOD_NAMES, _LIMIT))
def set_(
    workspace: Workspace,
    limits: dict[str, str],
    default_estimate: Annotated[
        str | None, typer.Option(help="what a check holds that brings no estimate")
    ] = None,
    on_hold_expiry: Annotated[
        HoldExpiry | None, typer.Option(help="what becomes of a hold that expires")
    ] = None,
    outage_policy: Annotated[
        Literal["allow", "deny", "default"] | None,
        typer.Option(help="what checks answer while Redis is away; default: as the service has it"),
    ] = None,
    chat: Annotated[
        str | None, typer.Option(help="a chat: only --limit and --parent apply")
    ] = None,
    limit: Annotated[str | None, typer.Option(help="of the chat: 5.00, or none")] = None,
    parent: Annotated[str | None, typer.Option(help="of the chat, when it is new")] = None,
    json: Json = False,
) -> None:
    """Change what is named, and nothing else. It holds for the next call.

    Creates the workspace, or the chat, where there is none. The audit names the user.
    """
    from limiter.commands import config as run
    from limiter.commands.output import print_json

    settings = load_settings()
    change = run.Change(
        limits=limits,
        default_estimate=default_estimate,
        on_hold_expiry=on_hold_expiry,
        outage_policy=outage_policy,
        chat_limit=limit,
        parent=parent,
    )
    found: run.Config
    if chat is None:
        found = asyncio.run(run.set_workspace(settings, workspace, change.workspace_patch()))
    else:
        found = asyncio.run(run.set_chat(settings, workspace, chat, change.chat_patch()))
    if json:
        print_json(found)
    else:
        run.show_config(Console(), found)
