"""Paths that other users may change: opened part by part, so that no link of theirs leads root to its own files."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from ecr_secrets_backend.cli.command import FAILED, CommandError
from ecr_secrets_backend.private_files import Descriptor

#: Opens a link itself, and a folder that this user may enter but not read. Without it, as on macOS, links are refused.
_O_PATH: Final[int] = getattr(os, "O_PATH", 0)
_MAX_PARTS: Final = 4096  # of a path, with the parts of its links, which may form a circle


def open_folder_of(path: Path, *, make_folders: bool = False) -> tuple[Descriptor, str]:
    """Open the folder of a file, which need not exist, and return the folder and the file's name in it.

    A link is followed if the link and its folder belong to root or to this user. Each part is opened relative to the
    one before, so that no other user can replace a part after its check.

    :param make_folders: make missing folders, for this user alone
    :raises CommandError: a link belongs to another user
    """
    folder, parts = Descriptor(".", _O_PATH), list(reversed(path.parts))
    for _ in range(_MAX_PARTS):
        name = parts.pop()
        try:
            part = Descriptor(name, _O_PATH, folder)
        except FileNotFoundError:
            if not parts:
                return folder, name
            if not make_folders:
                raise
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=folder.fileno())
            part = Descriptor(name, _O_PATH, folder)
        status = os.fstat(part.fileno())
        if not stat.S_ISLNK(status.st_mode):
            if not parts:
                return folder, name
            folder = part
        elif {status.st_uid, os.fstat(folder.fileno()).st_uid} <= {0, os.geteuid()}:
            parts += reversed(Path(os.readlink("", dir_fd=part.fileno())).parts)
        else:
            problem = f"{path} is not used: {name} is a link that another user controls"
            raise CommandError(problem, "Replace the link with a file or folder.", FAILED)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
