"""The embedded server and the process that owns it: one at a time, and never outlived."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from limiter.errors import StartupError
from limiter.redis.embedded import EmbeddedServer, embedded_url
from tests.redis.support import (
    connected,
    is_alive,
    owner_process,
    parent_of,
    running_pid,
    wait_until,
)


def test_a_start_while_another_process_has_the_folder_is_refused(
    tmp_path: Path, binary: Path
) -> None:
    with owner_process(tmp_path, binary) as (owner, pid):
        with pytest.raises(StartupError) as refusal:
            EmbeddedServer(tmp_path, binary).start()
        assert f"{tmp_path}/redis already belongs to process {owner.pid}" in str(refusal.value)
        assert "LIMITER_DATA_DIR" in str(refusal.value)
        assert is_alive(pid)


def test_it_dies_with_its_killed_owner_and_the_data_is_there_at_the_next_start(
    tmp_path: Path, binary: Path
) -> None:
    with owner_process(tmp_path, binary) as (owner, pid):
        guardian_pid = parent_of(pid)
        url = embedded_url(tmp_path)
        assert url is not None
        with redis.Redis.from_url(url) as client:
            client.set("written", "before the kill")
        owner.kill()
        owner.wait()
        # At once, while the old server is still ending: the start waits for it.
        with EmbeddedServer(tmp_path, binary) as server, connected(server) as client:
            assert client.get("written") == "before the kill"
            assert not is_alive(pid)
            wait_until(lambda: not is_alive(guardian_pid), "the guardian is gone")


def test_it_dies_with_its_killed_owner_when_nobody_comes_after(
    tmp_path: Path, binary: Path
) -> None:
    with owner_process(tmp_path, binary) as (owner, pid):
        guardian_pid = parent_of(pid)
        owner.kill()
        wait_until(lambda: not is_alive(pid), "the server is gone")
        wait_until(lambda: not is_alive(guardian_pid), "the guardian is gone")


def test_it_dies_with_its_owner_although_a_forked_child_lives_on(
    tmp_path: Path, wheel: Path
) -> None:
    fork = "if os.fork() == 0: sys.stdin.read(); os._exit(0)"
    with owner_process(tmp_path, wheel, more=fork) as (owner, pid):
        owner.kill()
        wait_until(lambda: not is_alive(pid), "the server is gone")
        # Nor does the child keep the folder.
        with EmbeddedServer(tmp_path, wheel) as server:
            assert is_alive(running_pid(server))


def test_a_forked_child_cannot_stop_its_parents_server(tmp_path: Path, wheel: Path) -> None:
    stop = "if os.fork() == 0: server.stop(); os._exit(0)\nos.wait()\nserver.ensure_running()"
    with owner_process(tmp_path, wheel, more=stop) as (_owner, pid):
        log = (tmp_path / "redis" / "server.log").read_text()
        assert log.count("Ready to accept") == 1
        assert is_alive(pid)


def test_a_ctrl_c_reaches_the_owner_alone(tmp_path: Path, binary: Path) -> None:
    """The terminal signals the whole process group; the owner still needs its server then."""
    use_it_while_ending = """
def end(*_):
    import redis
    redis.Redis(unix_socket_path=str(server.socket_path)).set("farewell", "said")
    server.stop()
    sys.exit(0)
signal.signal(signal.SIGINT, end)
"""
    with owner_process(tmp_path, binary, more=use_it_while_ending) as (owner, pid):
        os.killpg(owner.pid, signal.SIGINT)
        assert owner.wait(10) == 0
        assert not is_alive(pid)
    assert "SIGINT" not in (tmp_path / "redis" / "server.log").read_text()
    with EmbeddedServer(tmp_path, binary) as server, connected(server) as client:
        assert client.get("farewell") == "said"


def test_a_server_that_lost_owner_and_guardian_is_ended_by_the_next_start(
    tmp_path: Path, binary: Path
) -> None:
    with owner_process(tmp_path, binary) as (owner, pid):
        url = embedded_url(tmp_path)
        assert url is not None
        os.kill(parent_of(pid), signal.SIGSTOP)
        owner.kill()
        owner.wait()
        os.kill(parent_of(pid), signal.SIGKILL)
        try:
            assert is_alive(pid)
            with redis.Redis.from_url(url) as client:
                client.set("written", "without an owner")
            with EmbeddedServer(tmp_path, binary) as server, connected(server) as client:
                assert not is_alive(pid)
                assert client.get("written") == "without an owner"
        finally:
            # Nobody else would end it if the test fails.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_stop_just_after_the_guardian_was_killed_leaves_no_server(
    tmp_path: Path, wheel: Path
) -> None:
    server = EmbeddedServer(tmp_path, wheel)
    server.start()
    pid = running_pid(server)
    os.kill(parent_of(pid), signal.SIGKILL)
    server.stop()
    assert not is_alive(pid)
    assert (tmp_path / "redis" / "server.log").read_text().count("Ready to accept") <= 2
