"""Private files and folders: opened without following links, and refused if another user may read or write them."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

#: A token has some 3 kB, "size not fixed". A larger file is not ours, and is not read.
LARGEST_FILE_BYTES: Final = 64 * 1024

_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY
_OPEN_SAFELY: Final = os.O_NOFOLLOW | os.O_NONBLOCK  # not blocking: a pipe in the place of a file would block

#: Folders whose files turned out not to be private, though the folders are.
_ignoring_permissions: Final[set[str]] = set()


class UnsafeFileError(OSError):
    """A file or folder that another user may have put there, or may read."""


class PermissionsIgnoredError(UnsafeFileError):
    """The file system does not keep permissions, so that other users may read what is written there.

    :param path: the folder
    """

    def __init__(self, path: str) -> None:
        super().__init__(errno.EPERM, "the file system ignores permissions", path)


class Descriptor:
    """An open file or folder.

    A signal handler may raise an exception at any moment, as that of Airflow's task timeout does. So the object holds
    the number from the start, and closes it at the latest when nothing refers to the object.

    :param path: the path, relative to ``folder`` if that is given
    :param flags: how to open it, as for ``os.open``
    """

    _numbers: list[int] = []  # noqa: RUF012 - empty until it is open, and never changed

    def __init__(self, path: str, flags: int, folder: Descriptor | None = None) -> None:
        self._numbers: list[int] = []
        self.path = path
        open_there = partial(os.open, dir_fd=None if folder is None else folder.fileno())
        # Open and store, and pop and close below, are one step of the interpreter: no signal handler runs in between.
        self._numbers.extend(map(open_there, [path], [flags | _OPEN_SAFELY], [_FILE_MODE]))

    def fileno(self) -> int:
        """Return the number, for the functions of ``os``."""
        return self._numbers[0]

    def close(self) -> None:
        """Close it. Of several calls, also from several threads, the first one does."""
        if self._numbers:
            with suppress(IndexError):  # there is none left
                list(map(os.close, iter(self._numbers.pop, None)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def open_folder(path: str, make: Callable[[str, int], None]) -> Descriptor:
    """Open a private folder.

    The folder is made if it does not exist. If it is open to other users, it is closed to them first.

    :param path: the folder's path
    :param make: makes a folder of a mode
    :return: the folder, of mode 0700 and owned by this user
    :raises UnsafeFileError: the folder belongs to another user, or the file system ignores permissions
    """
    try:
        folder = Descriptor(path, _OPEN_FOLDER)
    except FileNotFoundError:
        with suppress(FileExistsError):
            make(path, _FOLDER_MODE)
        folder = Descriptor(path, _OPEN_FOLDER)
    try:
        _make_private(folder)
    except OSError:
        folder.close()
        raise
    return folder


def _make_private(folder: Descriptor) -> None:
    mode = get_mode(folder)
    if mode != _FOLDER_MODE:
        os.fchmod(folder.fileno(), _FOLDER_MODE)
        mode = get_mode(folder)
    if mode & 0o077 or folder.path in _ignoring_permissions:
        raise PermissionsIgnoredError(folder.path)


def make_folders(path: str, mode: int) -> None:
    """Make a folder and its missing parents, as ``os.makedirs`` does, but all of them with the mode."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        with suppress(FileExistsError):
            make_folders(parent, mode)
    os.mkdir(path, mode)


def can_make_folder(path: str, make: Callable[[str, int], None]) -> bool:
    """Return whether a folder can be made, without making it."""
    parent = os.path.dirname(path)
    while make is make_folders and not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    return os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK, effective_ids=True)


def get_mode(folder: Descriptor) -> int:
    """Return the permissions of a folder of this user.

    :raises UnsafeFileError: the folder belongs to another user
    """
    status = os.fstat(folder.fileno())
    if status.st_uid != os.geteuid():
        raise UnsafeFileError(errno.EPERM, f"the folder belongs to user {status.st_uid}", folder.path)
    return stat.S_IMODE(status.st_mode)


def open_file(name: str, flags: int, folder: Descriptor) -> Descriptor:
    """Open an existing private file.

    :raises UnsafeFileError: it is not a file of this user alone
    """
    file = Descriptor(name, flags, folder)
    if problem := find_problem(os.fstat(file.fileno())):
        file.close()
        raise UnsafeFileError(errno.EPERM, f"a file of the cache {problem}", name)
    return file


def make_file(name: str, flags: int, folder: Descriptor) -> Descriptor:
    """Make a private file, and open it.

    :raises FileExistsError: the name is in use
    :raises PermissionsIgnoredError: the new file is not private. It is removed, and :func:`open_folder` refuses the
        folder from now on.
    """
    file = Descriptor(name, flags | os.O_CREAT | os.O_EXCL, folder)
    status = os.fstat(file.fileno())
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        file.close()
        with suppress(OSError):
            os.unlink(name, dir_fd=folder.fileno())
        _ignoring_permissions.add(folder.path)
        raise PermissionsIgnoredError(folder.path)
    return file


def get_status(name: str, folder: Descriptor) -> os.stat_result:
    """Return the status of a file or a link in a folder."""
    return os.stat(name, dir_fd=folder.fileno(), follow_symlinks=False)


def remove(name: str, folder: Descriptor) -> None:
    """Remove a file, a link or an empty folder."""
    try:
        os.unlink(name, dir_fd=folder.fileno())
    except IsADirectoryError:
        os.rmdir(name, dir_fd=folder.fileno())


def find_problem(status: os.stat_result) -> str | None:
    """Return why a file is refused; None if it is not."""
    if not stat.S_ISREG(status.st_mode):
        return "is not a file"
    if status.st_uid != os.geteuid():
        return "belongs to another user"
    if status.st_nlink > 1:  # 0 is sound: the file may have been replaced since it was opened
        return "has a second name"
    if stat.S_IMODE(status.st_mode) & 0o077:
        return "is open to other users"
    if status.st_size > LARGEST_FILE_BYTES:
        return "is too large"
    return None
