"""The folder that all processes of one user on one host share: files that are safe to read, and turns to take."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER_NAME: Final = "airflow-ecr-secrets-backend-{uid}"
#: Memory first: a token need not outlive the host, and a read costs microseconds.
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - the folder within is ours alone, or refused

#: More than any entry: a token has some 3 kB, "size not fixed". What is larger is not ours.
LARGEST_FILE_BYTES: Final = 64 * 1024

_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_OPEN_SAFELY: Final = os.O_NOFOLLOW | os.O_NONBLOCK  # not blocking: a pipe in a file's place would
#: What opening gives for an unsafe file, a link, a folder, a socket, and a file that is closed to us.
_NO_FILE_OF_OURS: Final = (errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES)


class UnsafeFileError(OSError):
    """Something in the folder's or a file's place that another user may have put there or may read."""


class StoredFile(NamedTuple):
    """A file of the folder, as it was found.

    :param size: in bytes
    :param problem: why it would be refused; None if it would not
    """

    name: str
    size: int
    problem: str | None


class Survey(NamedTuple):
    """The folder, as it was found.

    :param path: where it is; None: there is none
    :param mode: its permissions; :class:`HostStore` closes it to others whenever it is used
    :param files: all that it holds
    :param refused: what stands in the folder's place elsewhere and is not used, each with the reason
    """

    path: str | None
    mode: int | None
    files: tuple[StoredFile, ...]
    refused: tuple[str, ...]


class HostStore:
    """Named files in a folder of mode 0700, each of mode 0600 and owned by this process's user.

    Every operation opens the folder anew and works relative to it, so the folder may be deleted or replaced at any
    time, and no descriptor outlives an operation. All of them raise OSError where the folder cannot be used.

    :param cache_dir: where the folder is made; None: in the first of ``$XDG_RUNTIME_DIR``, ``/dev/shm`` and the temp
        folder that can be used
    """

    def __init__(self, cache_dir: str | None) -> None:
        self._cache_dir = cache_dir

    def read(self, name: str) -> bytes | None:
        """Read a file.

        :param name: the file's name
        :return: all it holds; None if there is none
        :raises UnsafeFileError: what stands under the name is not a file of this user alone
        """
        folder = self._open_folder()
        try:
            descriptor = _open_file(name, os.O_RDONLY, folder)
        except FileNotFoundError:
            return None
        finally:
            os.close(folder)
        try:
            return os.read(descriptor, LARGEST_FILE_BYTES)
        finally:
            os.close(descriptor)

    def write(self, name: str, content: bytes) -> None:
        """Replace a file at once, so that a reader sees the old or the new one whole.

        :param name: the file's name
        :param content: all it is to hold
        """
        with self._folder() as folder:
            for leftover in os.listdir(folder):  # of writers that were killed
                if leftover.startswith(f"{name}.") and leftover.endswith(".tmp"):
                    with suppress(OSError):
                        _remove(leftover, folder)
            temporary = f"{name}.{secrets.token_hex()}.tmp"
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=_FILE_MODE, dir_fd=folder)
            try:
                with open(descriptor, "wb") as file:
                    file.write(content)
                try:
                    os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                except IsADirectoryError:
                    os.rmdir(name, dir_fd=folder)
                    os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except FileNotFoundError:
                pass  # another writer took our file for a leftover, and has written its own
            except OSError:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    @contextmanager
    def turn(self, name: str) -> Iterator[bool]:
        """Take a turn, without waiting, at what only one process of the host should do at a time.

        A bare ``flock``, because the kernel releases it when its holder dies.

        :param name: what it is about
        :return: a context that tells whether the turn is ours, and in whose end it ends
        """
        with self._folder() as folder:
            descriptor = _open_lock(f"{name}.lock", folder)
        _lock_descriptors.add(descriptor)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                try:
                    yield True
                finally:
                    # Closing would not do: a child that was forked meanwhile shares the lock and would hold it.
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            _lock_descriptors.discard(descriptor)
            os.close(descriptor)

    def delete(self, name: str) -> bool:
        """Delete a file, at once: who reads it meanwhile has read it whole.

        :param name: the file's name
        :return: whether there was one
        """
        with self._folder() as folder:
            try:
                _remove(name, folder)
            except FileNotFoundError:
                return False
        return True

    def survey(self) -> Survey:
        """Look at the folder without making or mending anything.

        :return: what is there; of the places where the folder may be, the first that a user has made
        """
        refused: list[str] = []
        for path in self._places():
            try:
                folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _OPEN_SAFELY)
            except FileNotFoundError:
                continue
            except OSError as error:
                refused.append(f"{path}: {error.strerror}")
                continue
            try:
                status = os.fstat(folder)
                if status.st_uid != os.geteuid():
                    refused.append(f"{path}: belongs to user {status.st_uid}")
                    continue
                return Survey(path, stat.S_IMODE(status.st_mode), tuple(_surveyed(folder)), tuple(refused))
            finally:
                os.close(folder)
        return Survey(None, None, (), tuple(refused))

    @contextmanager
    def _folder(self) -> Iterator[int]:
        descriptor = self._open_folder()
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_folder(self) -> int:
        make = os.mkdir if self._cache_dir is None else _make_folders
        problem = OSError()
        for path in self._places():
            try:
                return _open_private_folder(path, make)
            except OSError as error:  # noqa: PERF203 - there are four places at the most
                problem = error
        raise problem

    def _places(self) -> Iterator[str]:
        """Tell where the folder may be; the first place that can be used is the one."""
        name = FOLDER_NAME.format(uid=os.geteuid())
        if self._cache_dir is not None:
            yield os.path.join(self._cache_dir, name)
            return
        for parent in (os.environ.get("XDG_RUNTIME_DIR", ""), _SHARED_MEMORY):
            if os.path.isabs(parent):
                yield os.path.join(parent, name)
        yield os.path.join(tempfile.gettempdir(), name)

    def __str__(self) -> str:
        """Tell where it is."""
        return self._cache_dir or f"$XDG_RUNTIME_DIR, {_SHARED_MEMORY} or the temp folder"


def _make_folders(path: str, mode: int) -> None:
    """Make a folder and those above it, as ``os.makedirs`` does, but all of them with the mode."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        with suppress(FileExistsError):
            _make_folders(parent, mode)
    os.mkdir(path, mode)


def _open_private_folder(path: str, make: Callable[[str, int], None]) -> int:
    """Open a folder of ours, made if need be; one that we had left open to others is closed to them first."""
    flags = os.O_RDONLY | os.O_DIRECTORY | _OPEN_SAFELY
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        with suppress(FileExistsError):
            make(path, _FOLDER_MODE)
        descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            raise UnsafeFileError(errno.EPERM, "the cache's folder belongs to another user", path)
        if stat.S_IMODE(status.st_mode) != _FOLDER_MODE:
            os.fchmod(descriptor, _FOLDER_MODE)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _open_file(name: str, flags: int, folder: int) -> int:
    descriptor = os.open(name, flags | _OPEN_SAFELY, mode=_FILE_MODE, dir_fd=folder)
    try:
        _check_file(name, os.fstat(descriptor))
    except UnsafeFileError:
        os.close(descriptor)
        raise
    return descriptor


def _open_lock(name: str, folder: int) -> int:
    """Open a lock of ours, made if need be; whatever else stands in its place is removed, if it may be."""
    flags = os.O_RDWR | os.O_CREAT  # to be written, though nothing is: an NFS would lock no other
    try:
        return _open_file(name, flags, folder)
    except OSError as error:
        if error.errno not in _NO_FILE_OF_OURS:
            raise
    with suppress(FileNotFoundError):  # another process was quicker
        _remove(name, folder)
    return _open_file(name, flags, folder)


def _remove(name: str, folder: int) -> None:
    """Remove what stands under a name: a folder only if it is empty."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        os.rmdir(name, dir_fd=folder)


def _surveyed(folder: int) -> Iterator[StoredFile]:
    for name in sorted(os.listdir(folder)):
        with suppress(FileNotFoundError):  # it has just been replaced
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            yield StoredFile(name, status.st_size, _problem(status))


def _check_file(name: str, status: os.stat_result) -> None:
    problem = _problem(status)
    if problem is not None:
        raise UnsafeFileError(errno.EPERM, f"a file of the cache {problem}", name)


def _problem(status: os.stat_result) -> str | None:
    if not stat.S_ISREG(status.st_mode):
        return "is not a file"
    if status.st_uid != os.geteuid():
        return "belongs to another user"
    if status.st_nlink > 1:  # and not none: it may have been replaced since it was opened
        return "has a second name"
    if stat.S_IMODE(status.st_mode) & 0o077:
        return "is open to other users"
    if status.st_size > LARGEST_FILE_BYTES:
        return "is too large"
    return None


_lock_descriptors: Final[set[int]] = set()


def _close_inherited_locks() -> None:
    """In a child: a lock that it has inherited would stay held when its holder, the parent, is killed."""
    while _lock_descriptors:
        os.close(_lock_descriptors.pop())


os.register_at_fork(after_in_child=_close_inherited_locks)
