"""The `limiter` command: wiring only."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from limiter import __version__
from limiter.commands.config_app import config_app
from limiter.commands.keys_app import keys_app
from limiter.commands.looking_app import looking_app
from limiter.commands.options import collects
from limiter.commands.output import print_json, print_table, right
from limiter.errors import InvalidRequest, LimiterError, StartupError
from limiter.redis.cli import redis_cli_argv, redis_cli_env, run_command
from limiter.redis.embedded import embedded_url
from limiter.redis.scripts import bundled_scripts
from limiter.settings import Settings, load_settings
from limiter.settings_text import describe, describe_values

app = typer.Typer(
    help="A spend limiter for LLM calls.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.add_typer(looking_app)
app.add_typer(config_app, name="config")
app.add_typer(keys_app, name="keys")


Json = Annotated[bool, typer.Option("--json", help="print one JSON value")]


def main() -> None:
    """Runs the command. Exit status 1: it failed; 2: it could not start or was used wrongly."""
    try:
        app()
    except (InvalidRequest, StartupError) as error:
        _fail(str(error), status=2)
    except LimiterError as error:
        _fail(f"{error.code}: {error}", status=1)


def _fail(message: str, *, status: int) -> None:
    print(f"limiter: {message}", file=sys.stderr)
    raise SystemExit(status)


# Values are checked where variables are.
_takes_settings = collects(
    "options", {name: field.description for name, field in Settings.model_fields.items()}
)


@app.command()
@_takes_settings
def serve(options: dict[str, str]) -> None:
    """Run the service. Without a Redis URL it brings its own server and keeps one data folder.

    Every option can be set as a variable: LIMITER_ and its name in capitals.
    """
    # Only this command needs the service and the web framework: the others start faster without.
    from limiter.serve import serve as run

    run(load_settings(options), options)


@app.command()
@_takes_settings
def check_config(options: dict[str, str], json: Json = False) -> None:
    """Check the settings, and print them, without passwords."""
    settings = load_settings(options)
    if json:
        print_json(describe_values(settings))
    else:
        print_table(Console(), ["setting", "value"], describe(settings).items())


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def redis_cli(context: typer.Context) -> None:
    """Run redis-cli on the limiter's Redis, also the embedded: limiter redis-cli KEYS 'lim:*'."""
    settings = load_settings()
    if settings.redis_url is not None:
        url: str | None = settings.redis_url.get_secret_value()
    else:
        url = embedded_url(settings.data_dir)
    if url is None:
        raise StartupError(f"no embedded server ever ran in {str(settings.data_dir)!r}")
    argv = redis_cli_argv(url, context.args)
    if argv is not None:
        os.execvpe(argv[0], argv, {**os.environ, **redis_cli_env(url)})  # noqa: S606
    try:
        sys.stdout.write(run_command(url, context.args, raw=not sys.stdout.isatty()))
    except ValueError as error:
        raise StartupError(str(error)) from error


@app.command()
def lua(name: str) -> None:
    """Print a script as it is sent to Redis, for redis-cli --eval."""
    scripts = bundled_scripts()
    if name not in scripts.names:
        raise StartupError(f"there is no script {name!r}, only {', '.join(scripts.names)}")
    sys.stdout.write(scripts[name].text)


@app.command()
def verify(
    json: Json = False,
) -> None:
    """Recompute every counter from the ledger, and compare it with the aggregates and with Redis.

    Exit status 1: a counter drifted. 3: none did, but a workspace changed all the while.
    """
    from limiter.commands.show import bar, print_verified
    from limiter.commands.verify import verify as run

    with bar(Console(stderr=True), "verify") as progress:
        verified = asyncio.run(run(load_settings(), progress))
    if json:
        print_json(verified)
    else:
        print_verified(Console(), verified)
    raise SystemExit(1 if verified.drift else 3 if verified.unsettled else 0)


@app.command()
def snapshot(json: Json = False) -> None:
    """Move what lies in Redis' streams to durable storage now."""
    from limiter.commands.snapshot import snapshot as run

    moved = asyncio.run(run(load_settings()))
    if json:
        print_json({"entries_moved": moved})
    else:
        print(f"{moved:,} entries moved; durable storage has everything")


@app.command()
def restore(json: Json = False) -> None:
    """Load every workspace and chat into Redis from durable storage, before they are needed."""
    from limiter.commands.restore import restore as run
    from limiter.commands.show import bar

    with bar(Console(stderr=True), "restore") as progress:
        restored = asyncio.run(run(load_settings(), progress))
    if json:
        print_json(restored)
    else:
        print(f"{restored.workspaces:,} workspaces and {restored.chats:,} chats are in Redis")


@app.command()
def ledger(
    workspace: str,
    since: Annotated[str, typer.Option(help="date or time (UTC), or ms since 1970")] = "1970-01-01",
    until: Annotated[str | None, typer.Option(help="the same; rows before it")] = None,
    csv: Annotated[bool, typer.Option("--csv/--json", help="or a JSON object a line")] = True,
) -> None:
    """Print a workspace's charges, oldest first, as durable storage has them."""
    from limiter.commands.ledger import ledger as run
    from limiter.commands.ledger import moment_ms

    work = run(
        load_settings(),
        workspace,
        sys.stdout,
        since_ms=moment_ms(since, "--since"),
        until_ms=None if until is None else moment_ms(until, "--until"),
        as_json=not csv,
    )
    try:
        asyncio.run(work)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has seen enough. Python would complain when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.command()
def copy_store(
    source: Annotated[str, typer.Option("--from", help="URL of the database that has the data")],
    target: Annotated[str, typer.Option("--to", help="URL of a database that is empty")],
    json: Json = False,
) -> None:
    """Copy durable storage to another database, such as from SQLite to PostgreSQL.

    Stop the service first. The target has everything afterwards, or stays empty.
    """
    from limiter.commands.show import bar
    from limiter.durable import copy_store as run

    with bar(Console(stderr=True), "copy") as progress:
        counts = asyncio.run(run(source, target, progress))
    if json:
        print_json({"rows": counts})
    else:
        rows = ((name, f"{count:,}") for name, count in counts.items())
        print_table(Console(), ["table", right("rows")], rows)


@app.command()
def replay(
    trace: Annotated[
        Path, typer.Argument(help="CSV with TIMESTAMP, ContextTokens, GeneratedTokens")
    ],
    url: Annotated[str, typer.Option(help="the running service")] = "http://127.0.0.1:8080",
    key: Annotated[str | None, typer.Option(help="an admin's key, if it asks for keys")] = None,
    workspaces: Annotated[int, typer.Option(help="to spread the requests over")] = 8,
    chats: Annotated[int, typer.Option(help="of each workspace, in trees up to three deep")] = 12,
    speed: Annotated[float, typer.Option(help="1 as the trace, 0 as fast as it goes")] = 0,
    model: Annotated[str, typer.Option(help="whose prices apply")] = "gpt-4o",
    seed: int = 1,
    concurrency: Annotated[int, typer.Option(help="calls at once")] = 32,
    withhold_estimates: Annotated[float, typer.Option(help="fraction of checks without one")] = 0,
    limit_percent: Annotated[
        int, typer.Option(help="limits, in percent of what it would cost")
    ] = 60,
    patience: Annotated[float, typer.Option(help="seconds that a call is repeated for")] = 60,
    requests: Annotated[int | None, typer.Option(help="only so many of the trace")] = None,
    json: Annotated[Path | None, typer.Option(help="write the report to this file as well")] = None,
) -> None:
    """Send a real trace through a running service, then audit every counter.

    Exit status 1: a counter differs from an independent tally, or a limit was exceeded.
    """
    from limiter.replay.command import ReplayOptions
    from limiter.replay.command import replay as run

    options = ReplayOptions(
        trace=trace,
        url=url,
        workspaces=workspaces,
        chats=chats,
        speed=speed,
        model=model,
        seed=seed,
        concurrency=concurrency,
        withhold_estimates=withhold_estimates,
        limit_percent=limit_percent,
        patience_s=patience,
        requests_max=requests,
        json_path=json,
        key=key,
    )
    raise SystemExit(asyncio.run(run(options, Console())))


@app.command()
def version(json: Json = False) -> None:
    """Print the version."""
    if json:
        print_json({"version": __version__})
    else:
        print(__version__)
