"""The folder that all processes of one user on one host share: private files that expire, and locks."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from ecr_secrets_backend import host_lock
from ecr_secrets_backend.logs import log
from ecr_secrets_backend.private_files import (
    LARGEST_FILE_BYTES,
    Descriptor,
    PermissionsIgnoredError,
    can_make_folder,
    find_problem,
    get_mode,
    get_status,
    make_file,
    make_folders,
    open_file,
    open_folder,
    remove,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ecr_secrets_backend.host_lock import HostLock

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

FOLDER_NAME: Final = "airflow-ecr-secrets-backend-{uid}"
#: Memory first: a token need not outlive the host, and a read costs microseconds.
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - the folder in it is private, or refused
#: Not tempfile.gettempdir(), which falls back to the working directory.
_TEMP_VARIABLES: Final = ("TMPDIR", "TEMP", "TMP")
_TEMP_FOLDERS: Final = ("/tmp", "/var/tmp")  # noqa: S108 - as above

#: A writer needs milliseconds, so that an older temporary file is that of a writer that was killed.
_LEFTOVER_SECONDS: Final = 60.0

#: Each cache_dir that this process has warned of.
_warned: Final[dict[str, object]] = {}


class StoredFile(NamedTuple):
    """A file of the folder.

    :param size: in bytes
    :param problem: why it is refused; None if it is not
    """

    name: str
    size: int
    problem: str | None


class Survey(NamedTuple):
    """The folder, as it was found.

    :param path: where it is, or where the next lookup makes it; None if no place can be used
    :param mode: its permissions; None if it does not exist yet
    :param files: all files in it
    :param refused: the places before it that cannot be used, each with the reason
    """

    path: str | None
    mode: int | None
    files: tuple[StoredFile, ...]
    refused: tuple[str, ...]


class HostStore:
    """Named files in a folder of mode 0700, each of mode 0600 and owned by this process's user.

    Every operation opens the folder anew and works relative to it, so the folder may be deleted or replaced at any
    time. The folder is in the first of several places that can be used: ``cache_dir``, ``$XDG_RUNTIME_DIR``,
    ``/dev/shm``, the temp folders. Every operation raises OSError if there is none.

    :param cache_dir: the first place; None: one of the others
    """

    def __init__(self, cache_dir: str | None) -> None:
        self._cache_dir = cache_dir

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None if there is no such file.

        :raises UnsafeFileError: another user may have written the file, or may read it
        """
        with self._open_folder() as folder:
            try:
                file = open_file(name, os.O_RDONLY, folder)
            except FileNotFoundError:
                return None
        with file:
            return os.read(file.fileno(), LARGEST_FILE_BYTES)

    def write(self, name: str, content: bytes, useful_until: float) -> None:
        """Replace a file atomically: a reader gets the whole of the old or of the new one.

        :param useful_until: the time from which any process may remove it, in seconds since the epoch
        :raises OSError: with EFBIG if the content is larger than a reader accepts
        """
        if len(content) > LARGEST_FILE_BYTES:
            raise OSError(errno.EFBIG, f"{len(content):,} bytes are too large for the cache", name)
        self._in_folder(partial(_replace_file, name, content, useful_until))

    def remove_expired(self) -> None:
        """Remove what is of no use any more: expired files, locks without a file, and what killed writers left."""
        with self._open_folder() as folder:
            names = os.listdir(folder.fileno())
            for name in names:
                with suppress(OSError):
                    if name.endswith(".tmp") and _is_leftover(name, folder):
                        remove(name, folder)
            for key in {name.rpartition(".")[0] for name in names if name.endswith((".json", ".lock"))}:
                with suppress(OSError):
                    _remove_if_expired(key, folder)

    def take_lock(self, name: str) -> HostLock | None:
        """Take a lock without waiting; None if another process holds it."""
        return self._in_folder(partial(host_lock.take_lock, f"{name}.lock"))

    def lock_holder(self, name: str) -> str | None:
        """Return the random ID that the last holder wrote into the lock file; None if there is none."""
        return self._in_folder(partial(host_lock.read_holder, f"{name}.lock"))

    def replace_lock(self, name: str, holder: str) -> HostLock | None:
        """Take a lock from a holder that is stopped or hangs. Of several processes that try at once, one gets it.

        :param holder: the holder's ID, from :meth:`lock_holder`
        :return: the lock; None if it has another holder by now, or another process replaces it at this moment
        """
        return self._in_folder(partial(host_lock.replace_lock, f"{name}.lock", holder))

    def delete(self, name: str) -> bool:
        """Delete a file, and return whether there was one. A process that has opened it still reads the whole."""
        with self._open_folder() as folder:
            try:
                remove(name, folder)
            except FileNotFoundError:
                return False
        return True

    def survey(self) -> Survey:
        """Look at the folder that lookups use, without making or changing anything."""
        refused: list[str] = []
        expected = Survey(None, None, (), ())
        for path, make in self._places():
            try:
                with Descriptor(path, os.O_RDONLY | os.O_DIRECTORY) as folder:
                    found = Survey(path, get_mode(folder), tuple(_list_files(folder)), tuple(refused))
            except FileNotFoundError:  # noqa: PERF203 - there are eight places at the most
                if can_make_folder(path, make):
                    expected = expected if expected.path else Survey(path, None, (), tuple(refused))
                    if make is make_folders:  # in cache_dir, which lookups prefer to any folder that exists
                        break
                elif make is make_folders:
                    refused.append(f"{path}: cannot be made")
            except OSError as error:
                refused.append(f"{path}: {error.strerror}")
            else:
                if found.files or not (found.mode or 0) & 0o077:
                    return found
                # Empty and open: lookups leave it so if the file system ignores permissions, and use the next place.
                expected = expected if expected.mode else found
                refused.append(f"{path}: open to other users")
        return expected if expected.path else expected._replace(refused=tuple(refused))

    def __str__(self) -> str:
        """Return the places in words."""
        return self._cache_dir or f"$XDG_RUNTIME_DIR, {_SHARED_MEMORY} or the temp folder"

    def _in_folder(self, work: Callable[[Descriptor], Result]) -> Result:
        """Work in the folder, and in the next place if files turn out not to be private there."""
        while True:
            with self._open_folder() as folder, suppress(PermissionsIgnoredError):
                return work(folder)

    def _open_folder(self) -> Descriptor:
        first_problem: OSError | None = None
        for path, make in self._places():
            try:
                folder = open_folder(path, make)
            except OSError as error:  # noqa: PERF203 - as above
                first_problem = first_problem or error
            else:
                if first_problem and self._cache_dir:
                    _warn_once(self._cache_dir, first_problem, path)
                return folder
        raise first_problem or OSError()

    def _places(self) -> Iterator[tuple[str, Callable[[str, int], None]]]:
        """Yield where the folder may be, in order of preference, each with what makes it."""
        name = FOLDER_NAME.format(uid=os.geteuid())
        if self._cache_dir is not None:
            yield os.path.join(self._cache_dir, name), make_folders
        temp_folders = (*map(os.environ.get, _TEMP_VARIABLES), *_TEMP_FOLDERS)
        for parent in (os.environ.get("XDG_RUNTIME_DIR"), _SHARED_MEMORY, *temp_folders):
            if parent and os.path.isabs(parent):
                yield os.path.join(parent, name), os.mkdir


def _warn_once(cache_dir: str, problem: OSError, path: str) -> None:
    if _warned.setdefault(cache_dir, mark := object()) is mark:
        log(
            logger,
            logging.WARNING,
            "Cannot use cache_dir %s for ECR tokens: %s. This process uses %s instead. "
            "Make cache_dir with mode 1777, on a file system that keeps permissions.",
            cache_dir,
            problem.strerror,
            path,
        )


def _replace_file(name: str, content: bytes, useful_until: float, folder: Descriptor) -> None:
    for leftover in os.listdir(folder.fileno()):  # of a killed writer: its successor holds the lock now
        if leftover.startswith(f"{name}.") and leftover.endswith(".tmp"):
            with suppress(OSError):
                remove(leftover, folder)
    temporary = f"{name}.{secrets.token_hex()}.tmp"
    with make_file(temporary, os.O_WRONLY, folder) as file:
        try:
            unwritten = memoryview(content)
            while unwritten:
                unwritten = unwritten[os.write(file.fileno(), unwritten) :]
            os.utime(file.fileno(), (useful_until, useful_until))
            file.close()  # a network file system reports here what it could not write
            _rename(temporary, name, folder)
        except FileNotFoundError:
            pass  # the folder has just been deleted, or another writer has removed the file, and writes its own
        except BaseException:
            with suppress(OSError):
                remove(temporary, folder)
            raise


def _rename(old: str, new: str, folder: Descriptor) -> None:
    """Rename a file, in the place of a file, a link or an empty folder."""
    directory = folder.fileno()
    try:
        os.replace(old, new, src_dir_fd=directory, dst_dir_fd=directory)
    except IsADirectoryError:
        os.rmdir(new, dir_fd=directory)
        os.replace(old, new, src_dir_fd=directory, dst_dir_fd=directory)


def _is_leftover(name: str, folder: Descriptor) -> bool:
    """Return whether no writer needs a temporary file any more."""
    status = get_status(name, folder)
    return find_problem(status) is not None or status.st_ctime < time.time() - _LEFTOVER_SECONDS


def _remove_if_expired(key: str, folder: Descriptor) -> None:
    """Remove a key's file and lock if the file has expired or does not exist, and nobody holds the lock."""
    if not _is_expired(f"{key}.json", folder):
        return
    lock = host_lock.take_lock(f"{key}.lock", folder)
    if lock is None:
        return
    with lock:
        if _is_expired(f"{key}.json", folder):  # still: another process may have renewed it
            with suppress(FileNotFoundError):
                remove(f"{key}.json", folder)
            remove(f"{key}.lock", folder)


def _is_expired(name: str, folder: Descriptor) -> bool:
    try:
        return get_status(name, folder).st_mtime <= time.time()
    except FileNotFoundError:
        return True


def _list_files(folder: Descriptor) -> Iterator[StoredFile]:
    for name in sorted(os.listdir(folder.fileno())):
        with suppress(FileNotFoundError):  # it has just been replaced
            status = get_status(name, folder)
            yield StoredFile(name, status.st_size, find_problem(status))
