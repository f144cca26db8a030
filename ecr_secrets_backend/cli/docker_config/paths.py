"""Paths that other users may change: opened part by part, so that no link of theirs leads root to its own files."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Final

from ecr_secrets_backend.private_files import Descriptor, UnsafeFileError

#: Opens a link itself, and a folder that may only be passed through. Without it, as on macOS, no link is followed.
_O_PATH: Final[int] = getattr(os, "O_PATH", 0)
_MOST_LINKS: Final = 40  # as in Linux


def open_folder_of(path: str, *, makes_folders: bool = False) -> tuple[Descriptor, str]:
    """Open the folder that a file is in, which may not exist yet, and return it with the file's name in it.

    Links on the way, and one in the place of the file, are followed if they, and the folders that they are in, belong
    to root or to this user: those of other users could lead root to its own files. Each part of the path is opened in
    the one before, so that nobody can put another into its place after it was checked.

    :param makes_folders: make those that do not exist, for this user alone
    :raises UnsafeFileError: a link is refused
    """
    folder, parts, rest, links = Descriptor(".", _O_PATH), list[str](), path, 0
    while True:
        if rest:
            folder = Descriptor("/", _O_PATH) if rest.startswith("/") else folder
            parts += reversed([part for part in rest.split("/") if part])
            rest = ""
        name = parts.pop()
        try:
            part = Descriptor(name, _O_PATH, folder)
        except FileNotFoundError:
            if not parts:
                return folder, name
            if not makes_folders:
                raise
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=folder.fileno())
            part = Descriptor(name, _O_PATH, folder)
        status = os.fstat(part.fileno())
        if stat.S_ISLNK(status.st_mode):
            rest, links = os.readlink("", dir_fd=part.fileno()), links + 1
            if links > _MOST_LINKS:
                raise UnsafeFileError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if not {status.st_uid, os.fstat(folder.fileno()).st_uid} <= {0, os.geteuid()}:
                problem = f"{name} is a link, and it or its folder belongs to another user"
                raise UnsafeFileError(errno.EPERM, problem, path)
        elif parts:
            folder = part
        else:
            return folder, name
