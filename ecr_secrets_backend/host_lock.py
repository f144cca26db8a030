"""Locks between the processes of one user on one host. The lock of a stuck process is replaced."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Final
from weakref import WeakSet

from ecr_secrets_backend.private_files import Descriptor, PrivateFolder

#: The errors of opening a link, a folder, a socket, an unsafe file, and a file without permissions.
_NOT_OUR_FILE: Final = (errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES)
_ID_BYTES: Final = 32

_locked_files: Final[WeakSet[Descriptor]] = WeakSet()


class HostLock(AbstractContextManager["HostLock"]):
    """A lock that this process holds. The kernel releases it when the process ends, also when it is killed.

    :param name: the name of the lock file; the holder writes a random ID into it
    :raises BlockingIOError: another process holds the lock
    :raises FileExistsError, FileNotFoundError: another process creates or removes the file at this moment
    """

    def __init__(self, folder: PrivateFolder, name: str) -> None:
        self._files: list[Descriptor] = []
        self._process_id = os.getpid()
        file = _open_lock_file(folder, name)
        self._files.append(file)
        _locked_files.add(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(file.fileno(), secrets.token_hex(_ID_BYTES // 2).encode(), 0)
            if not os.path.samestat(folder.get_status(name), os.fstat(file.fileno())):
                raise FileNotFoundError  # noqa: TRY301 - as ``get_status`` raises if there is no file
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock. Further calls, also from other threads, do nothing."""
        with suppress(IndexError), self._files.pop() as file:
            if os.getpid() == self._process_id:
                # Closing the file is not enough if a forked child still has it open.
                fcntl.flock(file, fcntl.LOCK_UN)

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def take_lock(
    folder: PrivateFolder, name: str, is_stuck: Callable[[str], bool] = lambda _holder_id: False
) -> HostLock | None:
    """Take a lock without waiting; return None if another process holds it, or creates or removes its file now.

    :param is_stuck: returns whether the holder with an ID is stopped or hangs; if so, one process replaces its lock
    """
    try:
        return HostLock(folder, f"{name}.lock")
    except (FileExistsError, FileNotFoundError):
        return None
    except BlockingIOError:
        holder_id = _read_holder_id(folder, name)
        if not holder_id or not is_stuck(holder_id):
            return None
    with take_lock(folder, f"{name}.replacing") or nullcontext() as guard:
        if guard is None or _read_holder_id(folder, name) != holder_id:
            return None  # another process replaces or has replaced the lock
        folder.remove(f"{name}.lock")
        return take_lock(folder, name)


def _read_holder_id(folder: PrivateFolder, name: str) -> str:
    """Return the ID that the last holder of a lock wrote into its file; empty if it has not written any."""
    with suppress(FileNotFoundError), folder.open_file(f"{name}.lock", os.O_RDONLY) as file:
        return os.read(file.fileno(), _ID_BYTES).decode(errors="replace")
    return ""


def _open_lock_file(folder: PrivateFolder, name: str) -> Descriptor:
    """Open or create a lock file. Replace anything else that has its name."""
    try:
        return folder.open_file(name, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if error.errno not in _NOT_OUR_FILE:
            raise
    folder.remove(name)
    return folder.make_file(name)


def _close_inherited_locks() -> None:
    """Close the locks in a forked child, so that the child does not hold them after its parent ends."""
    for file in list(_locked_files):
        file.close()


os.register_at_fork(after_in_child=_close_inherited_locks)
