"""The folder of the host's cache, in tests."""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ecr_secrets_backend.host_store import FOLDER_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from ecr_secrets_backend.host_lock import HostLock
    from ecr_secrets_backend.host_store import HostStore

KEY = "entry"
NAME = f"{KEY}.json"
LOCK = f"{KEY}.lock"
DAY_SECONDS = 86_400.0


def folder_in(place: Path) -> Path:
    return place / FOLDER_NAME.format(uid=os.geteuid())


def write(store: HostStore, content: bytes, name: str = NAME) -> None:
    """Write a file that expires in a day."""
    store.write(name, content, time.time() + DAY_SECONDS)


def hold(store: HostStore, key: str = KEY) -> HostLock:
    """Hold a lock, as another process does."""
    lock = store.take_lock(key)
    assert lock is not None
    return lock


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def replace_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return a function that replaces a file by what `make` makes at its path."""

    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


def cache_descriptors() -> list[str]:
    """Return the number and path of each open folder, file and lock of a cache, deleted ones included."""
    prefix, found = FOLDER_NAME.format(uid=""), []
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            path = str(file.readlink())
            if prefix in path:
                found.append(f"{file.name} {path}")
    return sorted(found)


def ignore_permissions(
    monkeypatch: pytest.MonkeyPatch, place: Path, is_kind: Callable[[int], bool] = lambda _: True
) -> None:
    """Simulate a file system that ignores permissions: files or folders below a place are open to all users."""
    status_of = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        status = status_of(descriptor)
        is_below = place in Path(f"/proc/self/fd/{descriptor}").readlink().parents
        return os.stat_result((status.st_mode | 0o077, *status[1:])) if is_below and is_kind(status[0]) else status

    monkeypatch.setattr("os.fstat", fstat)
