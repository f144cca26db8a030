"""Private files and folders. They are opened without following links, and refused if another user has access."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Self

#: AWS documents no limit for a token, which has about 3 kB. A larger file is neither read nor written.
LARGEST_FILE_BYTES: Final = 64 * 1024

_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_OPEN_SAFELY: Final = os.O_NOFOLLOW | os.O_NONBLOCK  # opening a pipe would block

#: Private folders in which new files are not private.
_folders_ignoring_permissions: Final[set[str]] = set()


class UnsafeFileError(OSError):
    """Another user may have created a file or folder, or can read it."""


class PermissionsIgnoredError(UnsafeFileError):
    """A folder is on a file system that does not keep permissions."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.EPERM, "the file system ignores permissions", path)


class Descriptor:
    """An open file or folder. Deleting the object closes it.

    Airflow's task timeout may raise an exception between any two steps of the interpreter. Therefore opening the file
    and storing its number are one step, and so are removing the number and closing the file.
    """

    _numbers: list[int] = []  # noqa: RUF012 - for __del__ before __init__; never changed

    def __init__(self, path: str, flags: int, folder: Descriptor | None = None) -> None:
        self._numbers = []
        self.path = path
        open_there = partial(os.open, dir_fd=None if folder is None else folder.fileno())
        self._numbers.extend(map(open_there, [path], [flags | _OPEN_SAFELY], [_FILE_MODE]))

    def fileno(self) -> int:
        """Return the file descriptor for the functions of ``os``."""
        return self._numbers[0]

    def close(self) -> None:
        """Close the file or folder. Further calls, also from other threads, do nothing."""
        with suppress(IndexError):  # it is closed
            list(map(os.close, iter(self._numbers.pop, None)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class PrivateFolder(Descriptor):
    """A folder that only this user can open. It is created if it does not exist.

    :raises UnsafeFileError: it belongs to another user, or the file system ignores permissions
    """

    def __init__(self, path: str, *, make_parents: bool) -> None:
        try:
            super().__init__(path, os.O_DIRECTORY)
        except FileNotFoundError:
            _make_folder(path, make_parents=make_parents)
            super().__init__(path, os.O_DIRECTORY)
        try:
            mode = get_mode(self)
            if mode != _FOLDER_MODE:
                os.fchmod(self.fileno(), _FOLDER_MODE)
                mode = get_mode(self)
            if mode & 0o077 or path in _folders_ignoring_permissions:
                raise PermissionsIgnoredError(path)
        except OSError:
            self.close()
            raise

    def open_file(self, name: str, flags: int) -> Descriptor:
        """Open a private file; raise UnsafeFileError if it is not private."""
        file = Descriptor(name, flags, self)
        if problem := find_problem(os.fstat(file.fileno())):
            file.close()
            raise UnsafeFileError(errno.EPERM, f"a file of the cache {problem}", name)
        return file

    def make_file(self, name: str) -> Descriptor:
        """Create a private file and open it. If it is not private, remove it, and refuse the folder from now on."""
        try:
            return self.open_file(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except UnsafeFileError:
            _folders_ignoring_permissions.add(self.path)
            with suppress(OSError):
                self.remove(name)
            raise PermissionsIgnoredError(self.path) from None

    def get_status(self, name: str) -> os.stat_result:
        """Return the status of a file or a link."""
        return os.stat(name, dir_fd=self.fileno(), follow_symlinks=False)

    def remove(self, name: str) -> bool:
        """Remove a file, a link or an empty folder; return whether it existed."""
        try:
            os.unlink(name, dir_fd=self.fileno())
        except IsADirectoryError:
            os.rmdir(name, dir_fd=self.fileno())
        except FileNotFoundError:
            return False
        return True


def get_mode(folder: Descriptor) -> int:
    """Return the permissions of a folder; raise UnsafeFileError if it belongs to another user."""
    status = os.fstat(folder.fileno())
    if status.st_uid != os.geteuid():
        raise UnsafeFileError(errno.EPERM, f"the folder belongs to user {status.st_uid}", folder.path)
    return stat.S_IMODE(status.st_mode)


def find_problem(status: os.stat_result) -> str | None:
    """Return why a file is not private; None if it is."""
    if not stat.S_ISREG(status.st_mode):
        return "is not a file"
    if status.st_uid != os.geteuid():
        return "belongs to another user"
    if status.st_nlink > 1:  # 0 is valid: the file was replaced after it was opened
        return "has more than one hard link"
    if stat.S_IMODE(status.st_mode) & 0o077:
        return "is open to other users"
    if status.st_size > LARGEST_FILE_BYTES:
        return "is too large"
    return None


def _make_folder(path: str, *, make_parents: bool) -> None:
    """Create a folder. Its parents are also private, unlike those that ``os.makedirs`` creates."""
    if make_parents and not os.path.isdir(parent := os.path.dirname(path)):
        _make_folder(parent, make_parents=True)
    with suppress(FileExistsError):
        os.mkdir(path, _FOLDER_MODE)
