"""Whole numbers in memory that every worker of a service reads, and each writes its own of.

A worker has a file of the service's folder mapped into its memory, so that adding to a cell is one
store and not a system call, and what it added outlives it. It must not know what is counted.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

# What a cell holds is below this.
CELL_LIMIT = 2**64

_CELL_BYTES = 8
_SUFFIX = ".cells"


class Cells:
    """`size` cells of this process, all zero at first.

    With `folder`, they lie in a file of it. Whoever has a file's lock writes it: a worker that
    comes in a dead one's place goes on with its numbers, so that no sum ever goes back and the
    folder does not grow. `values` belongs to one thread.
    """

    def __init__(self, size: int, folder: Path | None = None) -> None:
        self._bytes = size * _CELL_BYTES
        self._folder = folder
        self._path: Path | None = None
        self._descriptor = -1
        self._memory: bytearray | mmap.mmap = bytearray(self._bytes)
        if folder is not None:
            self._path, self._descriptor = _claimed(folder)
            os.ftruncate(self._descriptor, self._bytes)
            self._memory = mmap.mmap(self._descriptor, self._bytes)
        self.values = memoryview(self._memory).cast("Q")

    def others(self) -> Iterator[tuple[list[int], bool]]:
        """What the cells of every other worker hold now that there was, and whether it lives."""
        if self._folder is None:
            return
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if path == self._path:
                continue
            with path.open("rb") as file:
                is_live = _is_locked(file.fileno())
                # A file that is only just being made has no content yet.
                if os.fstat(file.fileno()).st_size == self._bytes:
                    yield _copied(file.fileno(), self._bytes), is_live

    def close(self) -> None:
        """Lets another worker have the file. Harmless to repeat; `values` must not be used then."""
        self.values.release()
        if isinstance(self._memory, mmap.mmap) and not self._memory.closed:
            self._memory.close()
            os.close(self._descriptor)


def _claimed(folder: Path) -> tuple[Path, int]:
    """A file of the folder that no process has, and its descriptor, which holds its lock."""
    for number in count():
        path = folder / f"{number}{_SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # The lock goes with the process, however that ends.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return path, descriptor
    raise AssertionError("there are numbers without end")


def _copied(descriptor: int, size: int) -> list[int]:
    # Cell by cell: a plain read could catch one half written.
    with (
        mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as memory,
        memoryview(memory) as content,
        content.cast("Q") as values,
    ):
        return values.tolist()


def _is_locked(descriptor: int) -> bool:
    try:
        # For a moment this keeps a starting worker from taking the file: it takes another one.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
