"""`limiter keys`: wiring of its commands only. What they need is loaded when one of them runs."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from limiter.access import Role

keys_app = typer.Typer(help="API keys: make, list and revoke them.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]


@keys_app.command()
def create(
    role: Annotated[
        Role, typer.Option(help="caller: check, record, release, usage; monitor: metrics")
    ],
    workspace: Annotated[
        str | None, typer.Option(help="the only one that a caller may reach; absent: all")
    ] = None,
    label: Annotated[str, typer.Option(help="what it is for, for people")] = "",
    json: AsJson = False,
) -> None:
    """Make a key and print it, this once: only a hash of it is stored.

    The first admin key is made before the service is started, or while it refuses to start.
    """
    from limiter.commands.keys import create_key, print_created
    from limiter.settings import load_settings

    made = asyncio.run(create_key(load_settings(), role, workspace_id=workspace, label=label))
    print_created(made, as_json=json)


@keys_app.command("list")
def list_(json: AsJson = False) -> None:
    """List all keys, those that were revoked included. Secrets are not known."""
    from limiter.commands.keys import all_keys, print_keys
    from limiter.settings import load_settings

    print_keys(asyncio.run(all_keys(load_settings())), as_json=json)


@keys_app.command()
def revoke(key_id: str, json: AsJson = False) -> None:
    """End a key. Running services refuse it within two seconds, and its sessions on the page."""
    from limiter.commands.keys import print_revoked, revoke_key
    from limiter.settings import load_settings

    print_revoked(asyncio.run(revoke_key(load_settings(), key_id)), as_json=json)
