"""A look at the host's cache, which makes and changes nothing."""

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

    path: str | None = None
    mode: int | None = None
    files: tuple[StoredFile, ...] = ()
    refused: tuple[str, ...] = ()

    @classmethod
    def of(cls, store: HostStore) -> Survey:
        """Look at the folder that lookups use."""
        refused: list[str] = []
        expected = cls()
        for path, makes_parents in store.places():
            try:
                with Descriptor(path, os.O_DIRECTORY) as folder:
                    found = cls(path, get_mode(folder), tuple(_list_files(folder)), tuple(refused))
            except FileNotFoundError:  # noqa: PERF203 - there are eight places at the most
                if _can_make(path, makes_parents=makes_parents):
                    expected = expected if expected.path else cls(path, refused=tuple(refused))
                    if makes_parents:  # in cache_dir, which lookups prefer to any folder that exists
                        break
                elif makes_parents:
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


def read_entries(store: HostStore, survey: Survey) -> Iterator[Entry]:
    """Read all sound entries of the cache that was looked at."""
    for file in survey.files:
        if not file.problem and file.name.endswith(ENTRY_SUFFIX):
            with suppress(OSError):  # it has been replaced meanwhile
                entry = Entry.from_json(store.read(file.name) or b"")
                if entry is not None:
                    yield entry


def _can_make(path: str, *, makes_parents: bool) -> bool:
    parent = os.path.dirname(path)
    while makes_parents and not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    return os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK, effective_ids=True)


def _list_files(folder: Descriptor) -> Iterator[StoredFile]:
    for name in sorted(os.listdir(folder.fileno())):
        with suppress(FileNotFoundError):  # it has just been replaced
            status = os.stat(name, dir_fd=folder.fileno(), follow_symlinks=False)
            yield StoredFile(name, status.st_size, find_problem(status))
