"""docs/howto/backup.md, step by step, with the commands as they stand there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

from tests.commands.test_command_line import counters, use
from tests.support.command_line import run, succeeded
from tests.support.postgres import PostgresCluster
from tests.support.redis_process import RedisProcess
from tests.support.service import running_service

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "backup.md").read_text(encoding="utf-8")
LINES = [
    line.strip()
    for block in re.findall(r"^ *```sh\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
# What the page calls them.
PLACES = {
    "database": "postgresql://limiter@db.example/limiter",
    "redis": "-u redis://redis.example:6379/0",
}
COMMAND_MS_MAX = 60_000


def type_in(folder: Path, start: str, binaries: Path | None = None, **addresses: str) -> None:
    """Runs the page's one line that starts so, with this test's addresses for those of the page."""
    (line,) = (line for line in LINES if line.startswith(start))
    for shown, real in addresses.items():
        assert PLACES[shown] in line
        line = line.replace(PLACES[shown], f"'{real}'" if shown == "database" else real)
    path = os.environ["PATH"] if binaries is None else f"{binaries}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=COMMAND_MS_MAX / 1_000,
    )


def back_up_sqlite(folder: Path) -> None:
    if shutil.which("sqlite3") is not None:
        type_in(folder, "sqlite3 ")
        return
    # What the program does, by the library that it is a shell of.
    with (
        contextlib.closing(sqlite3.connect(folder / "limiter-data" / "limiter.db")) as source,
        contextlib.closing(sqlite3.connect(folder / "backup.db")) as target,
    ):
        source.backup(target)


def test_going_back_to_a_backup_of_sqlite_with_the_embedded_server(tmp_path: Path) -> None:
    settings: dict[str, object] = {"data_dir": tmp_path / "limiter-data"}
    later = {"workspace_id": "acme", "chat_id": "c3", "cost_micros": 9, "event_id": "later"}
    with running_service(tmp_path, **settings) as service:
        use(service)
        before = counters(service)
        succeeded(run(tmp_path, "snapshot", **settings))
        back_up_sqlite(tmp_path)
        assert service.post("/record", later).status == 200
        succeeded(run(tmp_path, "snapshot", **settings))
        assert counters(service) != before
        service.kill()
        assert (tmp_path / "limiter-data" / "limiter.db-wal").stat().st_size > 0

        type_in(tmp_path, "rm -f ")
        type_in(tmp_path, "cp ")
        # What the page says of a Redis that is left as it is.
        drifted = run(tmp_path, "verify", **settings)
        assert (drifted.returncode, "spent.hourly" in drifted.stdout) == (1, True), drifted
        type_in(tmp_path, "rm -r ")
        service.start()
        assert counters(service) == before
        assert "no drift" in succeeded(run(tmp_path, "verify", **settings))
        # What came after the backup is not known any more, and counts when it is sent again.
        assert service.post("/record", later).body["duplicate"] is False


def test_going_back_to_a_backup_of_postgresql_with_a_redis_of_its_own(
    tmp_path: Path, redis_server: RedisProcess, postgres: PostgresCluster
) -> None:
    url = postgres.create_database()
    settings: dict[str, object] = {"redis_url": redis_server.url, "database_url": url}
    later = {"workspace_id": "acme", "chat_id": "c3", "cost_micros": 9, "event_id": "later"}
    with running_service(tmp_path, **settings) as service:
        use(service)
        before = counters(service)
        succeeded(run(tmp_path, "snapshot", **settings))
        type_in(tmp_path, "pg_dump ", postgres.binaries, database=url)
        assert service.post("/record", later).status == 200
        service.stop()

        type_in(tmp_path, "pg_restore ", postgres.binaries, database=url)
        drifted = run(tmp_path, "verify", **settings)
        assert (drifted.returncode, "spent.hourly" in drifted.stdout) == (1, True), drifted
        type_in(tmp_path, "redis-cli ", redis=f"-s {redis_server.socket_path}")
        service.start()
        assert "1 workspaces and 3 chats" in succeeded(run(tmp_path, "restore", **settings))
        assert counters(service) == before
        assert "no drift" in succeeded(run(tmp_path, "verify", **settings))
        assert service.post("/record", later).body["duplicate"] is False
        service.stop()
    postgres.drop_database(url)
