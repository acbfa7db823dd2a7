"""The commands that look: usage, top, explain, chats, holds, doctor. Wiring only."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from limiter.settings import load_settings

# What a command works with is imported by it alone: the others start faster without.
looking_app = typer.Typer()

Workspace = Annotated[str, typer.Argument(help="its id")]
Chat = Annotated[str | None, typer.Argument(help="one of its chats")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON value")]
Limit = Annotated[int, typer.Option(min=1, max=1_000, help="so many at most")]


@looking_app.command()
def usage(workspace: Workspace, chat: Chat = None, json: Json = False) -> None:
    """Show what is spent, held and left, of a workspace or a chat."""
    from limiter.commands.output import print_json
    from limiter.commands.usage import show_usage
    from limiter.commands.usage import usage as run

    found = asyncio.run(run(load_settings(), workspace, chat))
    if json:
        print_json(found)
    else:
        show_usage(Console(), found)


@looking_app.command()
def top(
    once: Annotated[bool, typer.Option("--once", help="print it once")] = False,
    interval: Annotated[float, typer.Option(min=0.5, help="seconds between two looks")] = 2.0,
    limit: Annotated[int, typer.Option(min=1, max=100, help="so many at most")] = 20,
    json: Json = False,
) -> None:
    """Show the workspaces that are closest to a limit, live; once into a pipe and as JSON."""
    from limiter.commands.output import print_json
    from limiter.commands.top import run_watch, show_top
    from limiter.commands.top import top as run

    console = Console()
    if console.is_terminal and not once and not json:
        run_watch(load_settings(), console, limit, interval)
        return
    page = asyncio.run(run(load_settings(), limit))
    if json:
        print_json(page)
    else:
        show_top(console, page)


@looking_app.command()
def explain(
    workspace: Workspace,
    chat: Chat = None,
    estimate: Annotated[
        str | None, typer.Option(help="dollars that the call may cost, such as 0.25")
    ] = None,
    json: Json = False,
) -> None:
    """Say what binds a call, what fills that limit, and when the call fits. Nothing is held."""
    from limiter.commands.explain import explain as run
    from limiter.commands.output import amount, print_json
    from limiter.commands.show_explained import explained_text

    estimate_micros = None if estimate is None else amount(estimate, "--estimate")
    found = asyncio.run(run(load_settings(), workspace, chat, estimate_micros))
    if json:
        print_json(found)
    else:
        print(explained_text(found))


@looking_app.command()
def chats(
    workspace: Workspace,
    parent: Annotated[str | None, typer.Option(help="only what is below this chat")] = None,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """Show the chat trees, each chat followed by what is below it."""
    from limiter.commands.chats import chats as run
    from limiter.commands.chats import show_chats
    from limiter.commands.output import print_json

    found = asyncio.run(run(load_settings(), workspace, parent, limit))
    if json:
        print_json(found)
    else:
        show_chats(Console(), found)


@looking_app.command()
def holds(
    workspace: Workspace,
    release: Annotated[str | None, typer.Option(help="give this reservation back")] = None,
    limit: Limit = 100,
    json: Json = False,
) -> None:
    """Show what is held now, the next to expire first, or give a hold back."""
    from limiter.commands import holds as run
    from limiter.commands.output import print_json

    if release is not None:
        released = asyncio.run(run.release(load_settings(), workspace, release))
        if json:
            print_json(released)
        else:
            run.show_released(released)
        return
    found = asyncio.run(run.holds(load_settings(), workspace, limit))
    if json:
        print_json(found)
    else:
        run.show_holds(Console(), found, limit)


@looking_app.command()
def doctor(json: Json = False) -> None:
    """Look at Redis, durable storage and the service, and say what to do.

    Exit status 1: something fails. What is only worth knowing is a warning.
    """
    from limiter.commands.doctor import doctor as run
    from limiter.commands.doctor import is_healthy, show_findings
    from limiter.commands.output import print_json

    found = asyncio.run(run(load_settings()))
    if json:
        print_json({"healthy": is_healthy(found), "findings": found})
    else:
        show_findings(Console(), found)
    raise SystemExit(0 if is_healthy(found) else 1)
