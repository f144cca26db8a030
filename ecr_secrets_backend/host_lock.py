"""Locks between the processes of one user on one host, of which a stopped holder's is replaced."""

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

#: What opening a link, a folder, a socket, an unsafe file or one without permissions fails with.
_NOT_OUR_FILE: Final = (errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES)
_ID_BYTES: Final = 32

_locked_files: Final[WeakSet[Descriptor]] = WeakSet()


class HostLock(AbstractContextManager["HostLock"]):
    """A lock that this process holds. The kernel releases it when the process ends, however it ends.

    :param name: the file's; the holder writes a random ID into it
    :raises BlockingIOError: another process holds it
    :raises FileExistsError, FileNotFoundError: another process makes or removes the file at this moment
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
                raise FileNotFoundError  # noqa: TRY301 - handled like the same one of ``get_status``
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock. Of several calls, also from several threads, the first one does."""
        with suppress(IndexError), self._files.pop() as file:
            if os.getpid() == self._process_id:
                # A child that was forked meanwhile shares the lock, so closing the file would not release it.
                fcntl.flock(file, fcntl.LOCK_UN)

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def take_lock(
    folder: PrivateFolder, name: str, is_stopped: Callable[[str], bool] = lambda _holder: False
) -> HostLock | None:
    """Take a lock without waiting; None if another process holds, makes or removes it at this moment.

    :param is_stopped: returns whether the holder with an ID is stopped or hangs; one process then replaces its lock
    """
    try:
        return HostLock(folder, f"{name}.lock")
    except (FileExistsError, FileNotFoundError):
        return None
    except BlockingIOError:
        holder = _read_holder(folder, name)
        if not holder or not is_stopped(holder):
            return None
    with take_lock(folder, f"{name}.replacing") or nullcontext() as guard:
        if guard is None or _read_holder(folder, name) != holder:
            return None  # another process replaces it, or has done so
        folder.remove(f"{name}.lock")
        return take_lock(folder, name)


def _read_holder(folder: PrivateFolder, name: str) -> str:
    """Return the ID that a lock's last holder wrote into its file; empty if it was stopped before."""
    with suppress(FileNotFoundError), folder.open_file(f"{name}.lock", os.O_RDONLY) as file:
        return os.read(file.fileno(), _ID_BYTES).decode(errors="replace")
    return ""


def _open_lock_file(folder: PrivateFolder, name: str) -> Descriptor:
    """Open a lock file, or make it; anything else that stands in its place is removed."""
    try:
        return folder.open_file(name, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if error.errno not in _NOT_OUR_FILE:
            raise
    folder.remove(name)
    return folder.make_file(name)


def _close_inherited_locks() -> None:
    """Close the locks in a forked child, which would hold them after its parent was killed."""
    for file in list(_locked_files):
        file.close()


os.register_at_fork(after_in_child=_close_inherited_locks)
