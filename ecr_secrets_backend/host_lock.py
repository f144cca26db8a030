"""Locks between the processes of one user on one host, of which a stopped holder's can be replaced."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from ecr_secrets_backend.private_files import get_status, make_file, open_file, remove

if TYPE_CHECKING:
    from typing_extensions import Self

    from ecr_secrets_backend.private_files import Descriptor

#: What opening a link, a folder, a socket, an unsafe file or one without permissions fails with.
_NOT_OUR_FILE: Final = (errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES)
#: Another process may make, remove or replace the lock file meanwhile: once at its start, seldom again.
_TRIES: Final = 3
_HOLDER_BYTES: Final = 32

_locked_files: Final[WeakSet[Descriptor]] = WeakSet()


class HostLock:
    """A lock that this process holds. The kernel releases it when the process ends, however it ends.

    :param file: the lock file
    """

    def __init__(self, file: Descriptor) -> None:
        self._files = [file]
        self._process_id = os.getpid()
        _locked_files.add(file)

    def release(self) -> None:
        """Release the lock. Of several calls, also from several threads, the first one does."""
        if self._files:
            with suppress(IndexError), self._files.pop() as file:  # IndexError: another thread was faster
                if os.getpid() == self._process_id:
                    # A child that was forked meanwhile shares the lock, so closing the file would not release it.
                    fcntl.flock(file, fcntl.LOCK_UN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def take_lock(name: str, folder: Descriptor) -> HostLock | None:
    """Take a lock without waiting, and write a new ID into its file.

    :param name: the lock file's name
    :return: the lock; None if another process holds it
    """
    for _ in range(_TRIES):
        with ExitStack() as stack, suppress(FileExistsError):
            file = _open_lock(name, folder)
            lock = stack.enter_context(HostLock(file))
            try:
                _lock(file)
            except BlockingIOError:
                return None
            if _has_name(file, name, folder):
                stack.pop_all()
                return lock
    return None


def replace_lock(name: str, holder: str, folder: Descriptor) -> HostLock | None:
    """Put a new lock file, which this process has locked, in the place of one whose holder is stopped.

    :param name: the lock file's name
    :param holder: the ID of the holder that is stopped
    :return: the lock; None if the file shows another ID by now, or another process replaces it at this moment
    """
    guard = take_lock(f"{name.removesuffix('.lock')}.replacing.lock", folder)
    if guard is None:
        return None
    temporary = f"{name}.{secrets.token_hex()}.tmp"
    with guard, ExitStack() as stack:
        file = make_file(temporary, os.O_RDWR, folder)
        stack.callback(_discard, temporary, folder)
        lock = stack.enter_context(HostLock(file))
        _lock(file)
        if read_holder(name, folder) != holder:
            return None
        if released := take_lock(name, folder):
            return released
        os.replace(temporary, name, src_dir_fd=folder.fileno(), dst_dir_fd=folder.fileno())
        stack.pop_all()
        return lock


def read_holder(name: str, folder: Descriptor) -> str | None:
    """Return the ID that a lock's last holder wrote into its file; None if there is none."""
    try:
        with open_file(name, os.O_RDONLY, folder) as file:
            holder = os.read(file.fileno(), _HOLDER_BYTES)
    except FileNotFoundError:
        return None
    return holder.decode(errors="replace") if len(holder) == _HOLDER_BYTES else None


def _open_lock(name: str, folder: Descriptor) -> Descriptor:
    """Open a lock file; anything else that stands in its place is removed.

    :raises FileExistsError: another process has just made it
    """
    try:
        return open_file(name, os.O_RDWR, folder)
    except OSError as error:
        if error.errno in _NOT_OUR_FILE:
            with suppress(FileNotFoundError):
                remove(name, folder)
        elif error.errno != errno.ENOENT:
            raise
    return make_file(name, os.O_RDWR, folder)


def _lock(file: Descriptor) -> None:
    """Lock a file and write a new ID into it.

    :raises BlockingIOError: another process has locked it
    """
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.pwrite(file.fileno(), secrets.token_hex(_HOLDER_BYTES // 2).encode(), 0)


def _has_name(file: Descriptor, name: str, folder: Descriptor) -> bool:
    """Return whether a file is still found under its name: another process may have removed or replaced it."""
    try:
        status = get_status(name, folder)
    except FileNotFoundError:
        return False
    return os.path.samestat(status, os.fstat(file.fileno()))


def _discard(name: str, folder: Descriptor) -> None:
    with suppress(OSError):
        remove(name, folder)


def _close_inherited_locks() -> None:
    """Close the locks in a forked child, which would hold them after its parent was killed."""
    for file in list(_locked_files):
        file.close()


os.register_at_fork(after_in_child=_close_inherited_locks)
