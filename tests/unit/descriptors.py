"""The open files of this process in the cache's folders. Others depend on other tests."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ecr_secrets_backend.host_store import FOLDER_NAME


def cache_descriptors() -> list[str]:
    """Return the number and path of each open folder, file and lock of a cache, deleted ones included."""
    prefix, found = FOLDER_NAME.format(uid=""), []
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            path = str(file.readlink())
            if prefix in path:
                found.append(f"{file.name} {path}")
    return sorted(found)
