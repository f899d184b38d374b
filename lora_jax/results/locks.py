"""Claims on the rows of a file, shared by the processes that write it.

A claim is a POSIX lock on one byte of a lock file. The kernel gives a dead process's
claims back, so nothing has to be cleaned up after `kill -9`.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# (process, lock file) -> its one open descriptor. Never closed: closing any descriptor
# of a file drops all the locks that the process has on that file.
_DESCRIPTORS: dict[tuple[int, Path], int] = {}
# (process, lock file, byte) that this process holds: the kernel neither refuses a
# process its own lock nor makes it wait for it.
_HELD: set[tuple[int, Path, int]] = set()


@contextmanager
def byte_lock(path: Path, offset: int, *, wait: bool) -> Iterator[bool]:
    """Hold one byte of the lock file until the block ends; False if another holds it.

    With `wait`, block until the byte is free. A byte that this process already holds is
    never waited for.
    """
    claim = (os.getpid(), path, offset)
    if claim in _HELD or not _acquire(path, offset, wait):
        yield False
        return
    _HELD.add(claim)
    try:
        yield True
    finally:
        _HELD.discard(claim)
        fcntl.lockf(_descriptor(path), fcntl.LOCK_UN, 1, offset)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the whole lock file until the block ends, waiting for it."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _acquire(path: Path, offset: int, wait: bool) -> bool:
    flags = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    try:
        fcntl.lockf(_descriptor(path), flags, 1, offset)
    except (BlockingIOError, PermissionError):
        return False  # POSIX allows either error for "another process has it"
    return True


def _descriptor(path: Path) -> int:
    owner = (os.getpid(), path)
    if owner not in _DESCRIPTORS:
        path.parent.mkdir(parents=True, exist_ok=True)
        _DESCRIPTORS[owner] = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    return _DESCRIPTORS[owner]
