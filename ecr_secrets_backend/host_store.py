"""The folder that all processes of one user on one host share: private files that expire, and locks."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Final

from ecr_secrets_backend import host_lock
from ecr_secrets_backend.host_lock import HostLock
from ecr_secrets_backend.logs import log
from ecr_secrets_backend.private_files import LARGEST_FILE_BYTES, PermissionsIgnoredError, PrivateFolder

logger = logging.getLogger(__name__)

FOLDER_NAME: Final = "airflow-ecr-secrets-backend-{uid}"
#: Tried before the temp folders, because a read takes microseconds and tokens are not written to a disk.
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - the folder in it is private, or refused
#: Used instead of tempfile.gettempdir(), which falls back to the working directory.
_TEMP_FOLDERS: Final = ("/tmp", "/var/tmp")  # noqa: S108 - as above


class HostStore:
    """Named files and locks in a private folder, in the first place that can be used.

    Each operation opens the folder again, so that the folder may be deleted at any time, and raises OSError if no place
    can be used.

    :param cache_dir: the first place to try; None: only the default places
    """

    def __init__(self, cache_dir: str | None) -> None:
        self._cache_dir = cache_dir

    def __str__(self) -> str:
        return self._cache_dir or f"$XDG_RUNTIME_DIR, {_SHARED_MEMORY} or the temp folder"

    def places(self) -> Iterator[tuple[str, bool]]:
        """Yield the possible paths of the folder, in order, each with whether its missing parents are created."""
        name = FOLDER_NAME.format(uid=os.geteuid())
        if self._cache_dir is not None:
            yield os.path.join(self._cache_dir, name), True
        runtime, *temp = map(os.environ.get, ("XDG_RUNTIME_DIR", "TMPDIR", "TEMP", "TMP"))
        for parent in (runtime, _SHARED_MEMORY, *temp, *_TEMP_FOLDERS):
            if parent and os.path.isabs(parent):
                yield os.path.join(parent, name), False

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None if there is no such file."""
        with self._open_folder() as folder, suppress(FileNotFoundError), folder.open_file(name, os.O_RDONLY) as file:
            return os.read(file.fileno(), LARGEST_FILE_BYTES)
        return None

    def write(self, name: str, content: bytes, expires_at: float) -> None:
        """Replace a file atomically, so that a reader gets either the old or the new content.

        :param expires_at: when the file expires and any process may remove it, in seconds since the epoch
        """
        if len(content) > LARGEST_FILE_BYTES:
            raise OSError(errno.EFBIG, f"{len(content):,} bytes are too large for the cache", name)
        with self._open_folder() as folder:
            for leftover in os.listdir(folder.fileno()):  # the temporary file of a writer that was killed
                if leftover.startswith(f"{name}.") and leftover.endswith(".tmp"):
                    with suppress(OSError):
                        folder.remove(leftover)
            temporary = f"{name}.{secrets.token_hex()}.tmp"
            # Not found: another process has deleted the folder, or another writer has removed the file as a leftover.
            with suppress(FileNotFoundError), folder.make_file(temporary) as file:
                try:
                    unwritten = memoryview(content)
                    while unwritten:
                        unwritten = unwritten[os.write(file.fileno(), unwritten) :]
                    os.utime(file.fileno(), (expires_at, expires_at))
                    file.close()  # a network file system reports here what it could not write
                    with suppress(FileNotFoundError, NotADirectoryError):
                        os.rmdir(name, dir_fd=folder.fileno())  # a file cannot replace a folder
                    os.replace(temporary, name, src_dir_fd=folder.fileno(), dst_dir_fd=folder.fileno())
                finally:  # it still exists only if a step failed
                    with suppress(OSError):
                        folder.remove(temporary)

    def remove_expired(self) -> None:
        """Remove all files of each entry that has expired or was never written."""
        with self._open_folder() as folder:
            names = [name for name in os.listdir(folder.fileno()) if name.endswith((".json", ".lock", ".tmp"))]
            for key in {name.partition(".")[0] for name in names}:
                with suppress(OSError):
                    _remove_if_expired(folder, key, [name for name in names if name.startswith(f"{key}.")])

    def take_lock(self, name: str, is_stuck: Callable[[str], bool] = lambda _holder_id: False) -> HostLock | None:
        """Take a lock, as ``host_lock.take_lock`` does."""
        while True:
            with self._open_folder() as folder, suppress(PermissionsIgnoredError):  # then try the next place
                return host_lock.take_lock(folder, name, is_stuck)

    def _open_folder(self) -> PrivateFolder:
        first_error: OSError | None = None
        for path, make_parents in self.places():
            try:
                folder = PrivateFolder(path, make_parents=make_parents)
            except OSError as error:  # noqa: PERF203 - there are at most eight places
                first_error = first_error or error
            else:
                if first_error and self._cache_dir:
                    _warn(self._cache_dir, first_error.strerror, path)
                return folder
        raise first_error or OSError()


@lru_cache  # to warn once for each folder
def _warn(cache_dir: str, problem: str, path: str) -> None:
    message = (
        "Cannot use cache_dir %s for ECR tokens: %s. This process uses %s instead. "
        "Make cache_dir with mode 1777 on a file system that keeps permissions."
    )
    log(logger, logging.WARNING, message, cache_dir, problem, path)


def _remove_if_expired(folder: PrivateFolder, key: str, names: list[str]) -> None:
    """Remove the files of a key, if its entry has expired and no process holds its lock."""
    if _is_expired(folder, key) and (lock := host_lock.take_lock(folder, key)):
        with lock:
            if _is_expired(folder, key):  # another process may have renewed it before this one took the lock
                for name in sorted({*names, f"{key}.lock"}):  # the lock is last
                    folder.remove(name)


def _is_expired(folder: PrivateFolder, key: str) -> bool:
    try:
        return folder.get_status(f"{key}.json").st_mtime <= time.time()
    except FileNotFoundError:
        return True
