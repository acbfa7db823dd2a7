"""The guardian by itself, with small shell commands in the place of a server."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from limiter.redis import guardian
from tests.redis.support import is_alive, wait_until

GRACE_MS = 300


@contextmanager
def guarded(
    tmp_path: Path, *command: str
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    lock_fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock_fd, fcntl.LOCK_EX)
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", guardian.__file__, str(GRACE_MS), str(lock_fd), *command],
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[lock_fd],
        start_new_session=True,
    )
    theirs.close()
    os.close(lock_fd)
    with ours:
        try:
            yield process, ours
        finally:
            process.kill()
            process.wait()


def shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


def test_it_says_the_childs_pid_and_ends_with_its_status(tmp_path: Path) -> None:
    with guarded(tmp_path, *shell("exit 7")) as (process, control):
        assert int(control.recv(32)) != process.pid
        assert process.wait(10) == 7


def test_a_child_that_a_signal_ended_shows_in_the_status(tmp_path: Path) -> None:
    with guarded(tmp_path, *shell("kill -9 $$")) as (process, _control):
        assert process.wait(10) == 128 + signal.SIGKILL


def test_the_child_is_asked_to_end_when_the_other_end_closes(tmp_path: Path) -> None:
    script = "trap 'exit 5' TERM; while :; do sleep 0.01; done"
    with guarded(tmp_path, *shell(script)) as (process, control):
        pid = int(control.recv(32))
        assert is_alive(pid)
        control.close()
        assert process.wait(10) == 5


def test_a_child_that_does_not_end_is_killed_after_the_grace(tmp_path: Path) -> None:
    script = f"trap '' TERM; touch {tmp_path}/ready; while :; do sleep 0.01; done"
    with guarded(tmp_path, *shell(script)) as (process, control):
        pid = int(control.recv(32))
        wait_until((tmp_path / "ready").exists, "the child ignores SIGTERM")
        began = time.monotonic()
        control.close()
        assert process.wait(10) == 128 + signal.SIGKILL
        assert (time.monotonic() - began) * 1000 >= GRACE_MS
        assert not is_alive(pid)


def test_the_signals_of_a_terminal_pass_it_by(tmp_path: Path) -> None:
    with guarded(tmp_path, *shell("exec sleep 60")) as (process, control):
        pid = int(control.recv(32))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        assert is_alive(pid)
        control.close()
        assert process.wait(10) == 128 + signal.SIGTERM


def test_the_child_does_not_inherit_what_the_guardian_ignores(tmp_path: Path) -> None:
    script = "kill -INT $$; exit 3"
    with guarded(tmp_path, *shell(script)) as (process, _control):
        assert process.wait(10) == 128 + signal.SIGINT


def test_the_lock_lives_as_long_as_the_child_and_not_as_the_guardian(tmp_path: Path) -> None:
    with guarded(tmp_path, *shell("exec sleep 60")) as (process, control):
        pid = int(control.recv(32))
        process.kill()
        process.wait()
        with (tmp_path / "lock").open() as lock:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not is_alive(pid), "the child is gone")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
