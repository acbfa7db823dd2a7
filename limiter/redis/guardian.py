"""The process between the limiter and its embedded server: it sees that the server never stays.

Run as a script by `limiter.redis.embedded`, with nothing imported but the standard library's
smallest modules, so that it starts at once and stays small:

    guardian.py GRACE_MS LOCK_FD COMMAND [ARGUMENT…]

It starts the command as its own child and writes the child's pid and a newline to its standard
input, which is one end of a socket pair. The limiter holds the other end, and holds it only by
being alive: when that end closes, by a clean stop or by any kind of death, the guardian asks the
server to end, and after GRACE_MS kills it. This needs nothing that one operating system alone has,
and as the server's parent the guardian can never signal a process id that was given to another.

LOCK_FD is passed on to the server and closed here: it stays locked for as long as the server lives.

The exit status is the server's, or 128 + n if signal n ended it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

CONTROL_FD = 0
# What a terminal or a service manager sends to a whole group: the limiter decides when to end.
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Python ignores SIGPIPE, and a child would inherit that.
RESTORED_SIGNALS = (*IGNORED_SIGNALS, signal.SIGPIPE)


def main(arguments: list[str]) -> int:
    grace_ms, lock_fd, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    child_ended_fd = _report_ended_children()
    pid = os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        setsigmask=[],
        setsigdef=RESTORED_SIGNALS,
    )
    os.close(lock_fd)
    # If the limiter is gone already, the loop below sees it.
    with contextlib.suppress(BrokenPipeError):
        os.write(CONTROL_FD, b"%d\n" % pid)
    return _guard(pid, child_ended_fd, grace_ms)


def _report_ended_children() -> int:
    """Makes every SIGCHLD readable on the descriptor that is returned."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    return reader


def _guard(pid: int, child_ended_fd: int, grace_ms: int) -> int:
    watched = [child_ended_fd, CONTROL_FD]
    kill_at: float | None = None
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        wait_s = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        readable, _, _ = select.select(watched, [], [], wait_s)
        if child_ended_fd in readable:
            os.read(child_ended_fd, 512)
        if CONTROL_FD in readable:
            watched.remove(CONTROL_FD)
            os.kill(pid, signal.SIGTERM)
            # A suspended process cannot act upon SIGTERM.
            os.kill(pid, signal.SIGCONT)
            kill_at = time.monotonic() + grace_ms / 1000
        elif kill_at is not None and time.monotonic() >= kill_at:
            os.kill(pid, signal.SIGKILL)
            kill_at = None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
