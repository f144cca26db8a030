from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend.cli.cache_folder import CacheFolder
from ecr_secrets_backend.host_store import HostStore
from tests.requirements import need_root
from tests.unit.folders import NAME, folder_in, ignore_permissions, mode_of, write

if TYPE_CHECKING:
    from pathlib import Path


def test_files_are_listed_with_their_problems(store: HostStore, folder: Path) -> None:
    write(store, b"content")
    (folder / "open").touch(mode=0o644)
    (folder / "link").symlink_to(NAME)
    found = CacheFolder.inspect(store)

    assert (found.path, found.mode, found.refused) == (str(folder), 0o700, ())
    assert [file[::2] for file in found.files] == [
        *((NAME, None), ("link", "is not a file"), ("open", "is open to other users"))
    ]
    assert found.files[0].size == len(b"content")


def test_an_inspection_changes_nothing(store: HostStore, tmp_path: Path) -> None:
    assert CacheFolder.inspect(store) == CacheFolder(str(folder_in(tmp_path)))
    assert list(tmp_path.iterdir()) == []
    store.read(NAME)
    (folder,) = tmp_path.iterdir()
    folder.chmod(0o755)

    assert CacheFolder.inspect(store)[:2] == (str(folder), 0o755)
    assert mode_of(folder) == 0o755


def test_a_folder_that_may_be_of_another_user_is_refused(store: HostStore, folder: Path, tmp_path: Path) -> None:
    need_root()
    os.chown(folder, 4321, 4321)
    assert CacheFolder.inspect(store).refused == (f"{folder}: the folder belongs to user 4321",)

    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path)
    found = CacheFolder.inspect(store)
    assert (found.path, len(found.refused)) == (None, 1)


@pytest.fixture
def places(no_default_place: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The folders of ``cache_dir`` and of ``TMPDIR``."""
    del no_default_place
    places = tmp_path / "first", tmp_path / "second"
    for place in places:
        place.mkdir()
    monkeypatch.setenv("TMPDIR", str(places[1]))
    return places


def test_a_default_place_replaces_a_cache_dir_that_cannot_be_used(places: tuple[Path, Path]) -> None:
    file, temp = places[0] / "file", str(folder_in(places[1]))
    file.touch()
    store = HostStore(str(file))
    refused = (f"{folder_in(file)}: Not a directory",)
    assert CacheFolder.inspect(store) == CacheFolder(temp, refused=refused)

    write(store, b"content")
    assert CacheFolder.inspect(store)._replace(files=()) == CacheFolder(temp, 0o700, (), refused)


def test_a_default_place_replaces_a_cache_dir_that_ignores_permissions(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = places
    folder_in(first).mkdir(mode=0o755)
    ignore_permissions(monkeypatch, first)
    write(HostStore(str(first)), b"content")
    found = CacheFolder.inspect(HostStore(str(first)))

    assert found[:2] == (str(folder_in(second)), 0o700)
    assert found.refused == (f"{folder_in(first)}: open to other users",)


def test_a_default_folder_that_exists_comes_after_cache_dir_and_before_other_places(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user with a runtime folder sees the cache of a service, which has none."""
    first, second = places
    write(HostStore(None), b"content")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(first))

    assert CacheFolder.inspect(HostStore(None)).path == str(folder_in(second))
    for cache_dir in (first, first / "a" / "b"):
        assert CacheFolder.inspect(HostStore(str(cache_dir))) == CacheFolder(str(folder_in(cache_dir)))


def test_a_read_only_file_system_has_no_place(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    refused = (f"{folder_in(places[0])}: cannot be created",)

    assert CacheFolder.inspect(HostStore(str(places[0]))) == CacheFolder(refused=refused)
    assert CacheFolder.inspect(HostStore(None)) == CacheFolder()
