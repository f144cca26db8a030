from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend.cli.survey import Survey
from ecr_secrets_backend.host_store import HostStore
from tests.requirements import need_root
from tests.unit.folders import NAME, folder_in, ignore_permissions, mode_of, write

if TYPE_CHECKING:
    from pathlib import Path


class TestSurvey:
    def test_it_lists_what_is_there(self, store: HostStore, folder: Path) -> None:
        """Names, sizes, and why a file is refused."""
        write(store, b"content")
        (folder / "open").touch(mode=0o644)
        (folder / "link").symlink_to(NAME)
        survey = Survey.of(store)

        assert (survey.path, survey.mode, survey.refused) == (str(folder), 0o700, ())
        assert [(file.name, file.problem) for file in survey.files] == [
            (NAME, None),
            ("link", "is not a file"),
            ("open", "is open to other users"),
        ]
        assert survey.files[0].size == len(b"content")

    def test_it_changes_nothing(self, store: HostStore, tmp_path: Path) -> None:
        """It neither makes the folder nor closes one that is open."""
        assert Survey.of(store) == Survey(str(folder_in(tmp_path)), None, (), ())
        assert list(tmp_path.iterdir()) == []
        store.read(NAME)
        (folder,) = tmp_path.iterdir()
        folder.chmod(0o755)

        assert (Survey.of(store).path, Survey.of(store).mode) == (str(folder), 0o755)
        assert mode_of(folder) == 0o755

    def test_it_reports_what_stands_in_the_place_of_the_folder(self, store: HostStore, tmp_path: Path) -> None:
        folder_in(tmp_path).symlink_to(tmp_path)
        survey = Survey.of(store)

        assert survey.path is None
        assert len(survey.refused) == 1

    def test_it_reports_the_folder_of_another_user(self, store: HostStore, folder: Path) -> None:
        """Without looking into it."""
        need_root()
        os.chown(folder, 4321, 4321)

        assert Survey.of(store).refused == (f"{folder}: the folder belongs to user 4321",)

    @pytest.mark.usefixtures("no_default_place")
    def test_it_shows_the_place_that_lookups_use_instead_of_cache_dir(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before and after the first of them."""
        file, temp = tmp_path / "file", tmp_path / "temp"
        file.touch()
        temp.mkdir()
        monkeypatch.setenv("TMPDIR", str(temp))
        store = HostStore(str(file))
        refused = (f"{folder_in(file)}: Not a directory",)
        assert Survey.of(store) == Survey(str(folder_in(temp)), None, (), refused)

        write(store, b"content")
        assert Survey.of(store)[:2] == (str(folder_in(temp)), 0o700)
        assert Survey.of(store).refused == refused

    @pytest.mark.usefixtures("no_default_place")
    def test_it_shows_the_place_that_lookups_use_where_permissions_are_ignored(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        second.mkdir()
        monkeypatch.setenv("TMPDIR", str(second))
        folder_in(first).mkdir(parents=True, mode=0o755)
        store = HostStore(str(first))
        ignore_permissions(monkeypatch, first)
        write(store, b"content")

        assert Survey.of(store)[:2] == (str(folder_in(second)), 0o700)
        assert Survey.of(store).refused == (f"{folder_in(first)}: open to other users",)

    def test_cache_dir_comes_before_a_default_folder_of_another_configuration(
        self, store: HostStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next lookup makes the folder there."""
        temp = tmp_path / "temp"
        temp.mkdir()
        monkeypatch.setenv("TMPDIR", str(temp))
        write(HostStore(None), b"content")

        assert Survey.of(store) == Survey(str(folder_in(tmp_path)), None, (), ())
        assert Survey.of(HostStore(str(tmp_path / "a" / "b"))).path == str(folder_in(tmp_path / "a" / "b"))

    @pytest.mark.usefixtures("no_default_place")
    def test_a_default_folder_that_exists_comes_before_one_that_could_be_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A user with a runtime folder sees the cache of a service, which has none."""
        runtime, temp = tmp_path / "runtime", tmp_path / "temp"
        for place in (runtime, temp):
            place.mkdir()
        monkeypatch.setenv("TMPDIR", str(temp))
        write(HostStore(None), b"content")
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))

        assert Survey.of(HostStore(None)).path == str(folder_in(temp))

    @pytest.mark.usefixtures("no_default_place")
    def test_it_finds_that_there_is_no_place_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Here on a read-only file system."""
        monkeypatch.setattr("os.access", lambda *_, **__: False)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        refused = (f"{folder_in(tmp_path / 'a')}: cannot be made",)

        assert Survey.of(HostStore(str(tmp_path / "a"))) == Survey(None, None, (), refused)
        assert Survey.of(HostStore(None)) == Survey(None, None, (), ())
