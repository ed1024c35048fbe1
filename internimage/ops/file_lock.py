"""A lock between processes that a killed holder cannot leave behind."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[bool]:
    """Holds a lock that the operating system releases when this process dies; gives False where locks don't work.

    Without it two processes may build the same at once, which wastes time and breaks nothing.
    """
    with path.open("a+b") as file:
        try:
            if not _try_lock(file):
                logger.info("internimage: another process builds the kernels; waiting for it (%s)", path)
                while not _try_lock(file):
                    time.sleep(0.05)
        except OSError as error:  # some network file systems
            logger.info("internimage: %s cannot be locked (%s); building without a lock", path, error)
            yield False
            return
        try:
            yield True
        finally:
            _unlock(file)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: BinaryIO) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

    def _unlock(file: BinaryIO) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)  # not left to close(): a forked child may hold the file open, too
