"""Inspect the folder of the host's cache, without creating or changing it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.private_files import Descriptor, find_problem, get_mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ecr_secrets_backend.host_store import HostStore

ENTRY_SUFFIX: Final = ".json"


class CacheFile(NamedTuple):
    """A file of the folder.

    :param size: in bytes
    :param problem: why lookups refuse it; None if they read it
    """

    name: str
    size: int
    problem: str | None


class CacheFolder(NamedTuple):
    """The folder that lookups use.

    :param path: its path, also if the next lookup creates it; None if there is no cache or no usable place
    :param mode: its permissions; None if it does not exist yet
    :param files: all files in it
    :param refused: the preferred places that cannot be used, each with the reason
    """

    path: str | None = None
    mode: int | None = None
    files: tuple[CacheFile, ...] = ()
    refused: tuple[str, ...] = ()

    @classmethod
    def inspect(cls, store: HostStore | None) -> CacheFolder:
        """Return the folder of a store.

        :param store: None: the configuration has no cache on the host
        """
        refused: list[str] = []
        expected = cls()
        for path, make_parents in store.places() if store else ():
            try:
                with Descriptor(path, os.O_DIRECTORY) as folder:
                    found = cls(path, get_mode(folder), tuple(_list_files(folder)), tuple(refused))
            except FileNotFoundError:  # noqa: PERF203 - there are at most eight places
                if _can_make(path, make_parents=make_parents):
                    expected = expected if expected.path else cls(path, refused=tuple(refused))
                    if make_parents:  # in cache_dir, which lookups prefer to any folder that exists
                        break
                elif make_parents:
                    refused.append(f"{path}: cannot be created")
            except OSError as error:
                refused.append(f"{path}: {error.strerror}")
            else:
                if found.files or not (found.mode or 0) & 0o077:
                    return found
                # If the file system ignores permissions, lookups leave the folder empty and use the next place.
                expected = expected if expected.mode else found
                refused.append(f"{path}: open to other users")
        return expected if expected.path else expected._replace(refused=tuple(refused))

    def entries(self, store: HostStore | None) -> Iterator[Entry]:
        """Read all valid entries."""
        for file in self.files:
            if store and not file.problem and file.name.endswith(ENTRY_SUFFIX):
                with suppress(OSError):  # another process has replaced it
                    if entry := Entry.from_json(store.read(file.name) or b""):
                        yield entry


def _can_make(path: str, *, make_parents: bool) -> bool:
    parent = os.path.dirname(path)
    while make_parents and not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    return os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK, effective_ids=True)


def _list_files(folder: Descriptor) -> Iterator[CacheFile]:
    for name in sorted(os.listdir(folder.fileno())):
        with suppress(FileNotFoundError):  # another process has replaced it
            status = os.stat(name, dir_fd=folder.fileno(), follow_symlinks=False)
            yield CacheFile(name, status.st_size, find_problem(status))
