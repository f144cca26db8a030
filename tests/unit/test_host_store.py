from __future__ import annotations

import errno
import logging
import os
import signal
import stat
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from ecr_secrets_backend import host_lock, host_store, private_files
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.private_files import LARGEST_FILE_BYTES, UnsafeFileError
from tests.requirements import need_root
from tests.unit.folders import KEY, NAME, folder_in, ignore_permissions, mode_of, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecr_secrets_backend.host_lock import HostLock

LOCK = f"{KEY}.lock"
DESCRIPTORS = Path("/proc/self/fd")


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def hold(store: HostStore, name: str = KEY) -> HostLock:
    lock = store.take_lock(name)
    assert lock is not None
    return lock


class TestFiles:
    @pytest.mark.parametrize("size", [7, 20_000, LARGEST_FILE_BYTES])
    def test_a_written_file_is_read(self, store: HostStore, size: int) -> None:
        """AWS does not limit the size of a token: several times its current size fits."""
        write(store, b"x" * size)

        assert store.read(NAME) == b"x" * size
        assert store.read("other") is None

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o177])
    def test_no_other_user_may_read_or_write(self, store: HostStore, folder: Path, umask: int) -> None:
        """The modes are 0600 and 0700 with any umask."""
        previous = os.umask(umask)
        try:
            write(store, b"content")
            hold(store).release()
        finally:
            os.umask(previous)

        assert mode_of(folder) == 0o700
        assert {mode_of(file) for file in folder.iterdir()} == {0o600}

    def test_what_is_too_large_to_be_read_is_not_written(self, store: HostStore, folder: Path) -> None:
        """The old file is kept."""
        write(store, b"old")
        with pytest.raises(OSError, match="65,537 bytes are too large") as caught:
            write(store, b"x" * (LARGEST_FILE_BYTES + 1))

        assert caught.value.errno == errno.EFBIG
        assert store.read(NAME) == b"old"
        assert names_in(folder) == [NAME]

    def test_a_reader_never_reads_half_a_file(self, store: HostStore, folder: Path) -> None:
        """A file is replaced and not rewritten, so a reader that has opened the old one reads all of it."""
        write(store, b"old")
        with (folder / NAME).open("rb") as reader:
            write(store, b"new")
            assert reader.read() == b"old"

    def test_a_file_that_is_replaced_while_it_is_read_is_read(
        self, store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A reader that has opened the old file returns it."""
        write(store, b"old")
        status_of = os.fstat

        def meanwhile_replaced(descriptor: int) -> os.stat_result:
            if stat.S_ISREG(status_of(descriptor).st_mode):
                (folder / NAME).unlink(missing_ok=True)
            return status_of(descriptor)

        monkeypatch.setattr("os.fstat", meanwhile_replaced)
        assert store.read(NAME) == b"old"

    def test_a_partial_write_is_completed(self, store: HostStore, monkeypatch: pytest.MonkeyPatch) -> None:
        write_all = os.write
        monkeypatch.setattr("os.write", lambda file, content: write_all(file, content[:3]))
        write(store, b"content")

        assert store.read(NAME) == b"content"

    def test_a_link_is_not_followed(self, store: HostStore, folder: Path, tmp_path: Path) -> None:
        """Neither a read nor a write uses its target. A write replaces the link."""
        target = tmp_path / "target"
        target.write_bytes(b"theirs")
        (folder / NAME).symlink_to(target)

        with pytest.raises(OSError, match="symbolic links"):
            store.read(NAME)
        write(store, b"ours")
        assert store.read(NAME) == b"ours"
        assert target.read_bytes() == b"theirs"

    def test_an_empty_folder_in_the_place_of_a_file_is_replaced(self, store: HostStore, folder: Path) -> None:
        (folder / NAME).mkdir()
        with pytest.raises(UnsafeFileError, match="is not a file"):
            store.read(NAME)

        write(store, b"content")
        assert store.read(NAME) == b"content"

    def test_a_write_that_fails_leaves_nothing_behind(self, store: HostStore, folder: Path) -> None:
        """Here because a folder has the name of the file."""
        (folder / NAME).mkdir()
        (folder / NAME / "content").touch()

        with pytest.raises(OSError, match="not empty"):
            write(store, b"content")
        assert names_in(folder) == [NAME]

    def test_a_write_that_fails_reports_the_cause(self, store: HostStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also if another process has removed the temporary file."""

        def fail(temporary: str, _: str, *, src_dir_fd: int, **_options: Any) -> None:
            os.unlink(temporary, dir_fd=src_dir_fd)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="No space left"):
            write(store, b"content")

    def test_a_write_creates_its_temporary_file(
        self, store: HostStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It refuses an existing one, even if an attacker guesses its name."""
        monkeypatch.setattr("secrets.token_hex", lambda: "guessed")
        monkeypatch.setattr("os.listdir", lambda _: [])  # the attacker creates it just in time
        target = tmp_path / "target"
        target.write_bytes(b"theirs")
        (folder / f"{NAME}.guessed.tmp").hardlink_to(target)

        with pytest.raises(FileExistsError):
            write(store, b"ours")
        assert target.read_bytes() == b"theirs"

    def test_no_two_writes_share_a_temporary_file(self, store: HostStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Otherwise one of them could publish the incomplete file of the other."""
        temporaries: list[str] = []
        replace = os.replace

        def record(temporary: str, *arguments: Any, **options: Any) -> None:
            temporaries.append(temporary)
            replace(temporary, *arguments, **options)

        monkeypatch.setattr("os.replace", record)
        for _ in range(2):
            write(store, b"content")

        assert len(set(temporaries)) == 2

    def test_two_writers_at_once_both_succeed(
        self, store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file has the content of one of them."""
        replace = os.replace

        def after_another(*arguments: Any, **options: Any) -> None:
            monkeypatch.setattr("os.replace", replace)
            write(store, b"another")
            replace(*arguments, **options)

        monkeypatch.setattr("os.replace", after_another)
        write(store, b"one")
        assert names_in(folder) == [NAME]
        assert store.read(NAME) in {b"one", b"another"}


def replace_by_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


class TestUnsafeFiles:
    @pytest.mark.parametrize(
        ("spoil", "problem"),
        [
            *((partial(os.chmod, mode=0o600 | 1 << bit), "is open to other users") for bit in range(6)),
            (lambda file: file.with_name("second").hardlink_to(file), "has more than one hard link"),
            (lambda file: file.write_bytes(b"x" * (LARGEST_FILE_BYTES + 1)), "is too large"),
            (replace_by_pipe, "is not a file"),
        ],
    )
    def test_an_unsafe_file_is_refused_and_can_be_replaced(
        self, store: HostStore, folder: Path, spoil: Callable[[Path], object], problem: str
    ) -> None:
        """Another user may have written it or may read it."""
        write(store, b"content")
        spoil(folder / NAME)

        with pytest.raises(UnsafeFileError) as caught:
            store.read(NAME)
        assert str(caught.value) == f"[Errno {errno.EPERM}] a file of the cache {problem}: '{NAME}'"
        write(store, b"ours")
        assert store.read(NAME) == b"ours"

    def test_a_file_a_lock_and_a_folder_of_another_user_are_refused(self, store: HostStore, folder: Path) -> None:
        need_root()
        write(store, b"forged")
        os.chown(folder / NAME, 12345, 12345)
        with pytest.raises(UnsafeFileError, match=rf"^\[Errno 1\] a file of the cache belongs to another.*'{NAME}'$"):
            store.read(NAME)

        (folder / LOCK).touch(0o600)
        os.chown(folder / LOCK, 12345, 12345)
        hold(store).release()
        assert (folder / LOCK).stat().st_uid == 0

        os.chown(folder, 12345, 12345)
        for operation in (store.read, lambda name: write(store, b"content", name)):
            with pytest.raises(UnsafeFileError) as caught:
                operation(NAME)
            assert str(caught.value) == f"[Errno {errno.EPERM}] the folder belongs to user 12345: '{folder}'"

    @pytest.mark.parametrize("them", [1, 54321])
    def test_any_other_user_is_refused(
        self, store: HostStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, them: int
    ) -> None:
        """Also root, and users with a smaller or larger ID."""
        need_root()
        us = 12345
        monkeypatch.setattr("os.geteuid", lambda: us)
        folder = folder_in(tmp_path)
        folder.mkdir()
        (folder / NAME).touch(0o600)
        (folder / NAME).write_bytes(b"ours")
        for place in (folder / NAME, folder):
            os.chown(place, us, us)
        assert store.read(NAME) == b"ours"

        for place in (folder / NAME, folder):
            os.chown(place, them, them)
            with pytest.raises(UnsafeFileError, match=f"another user|user {them}"):
                store.read(NAME)


class TestFolder:
    @pytest.mark.parametrize("mode", [0o777, 0o701, 0o500, 0o1700])
    def test_the_next_operation_corrects_the_mode_of_the_folder(
        self, store: HostStore, folder: Path, mode: int
    ) -> None:
        folder.chmod(mode)
        store.read(NAME)

        assert mode_of(folder) == 0o700

    @pytest.mark.usefixtures("no_default_place")
    def test_the_parents_of_cache_dir_are_created_and_private_from_the_start(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A new volume of a container is empty. Other users cannot open the folders at any moment."""
        monkeypatch.setattr("os.fchmod", lambda *_: pytest.fail("it was created open to other users"))
        store = HostStore(str(tmp_path / "a" / "b"))
        previous = os.umask(0)
        try:
            write(store, b"content")
        finally:
            os.umask(previous)

        assert store.read(NAME) == b"content"
        assert mode_of(tmp_path / "a") == mode_of(tmp_path / "a" / "b") == 0o700

    @pytest.mark.usefixtures("no_default_place")
    def test_processes_that_create_the_folder_at_once_all_succeed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make = os.mkdir

        def make_late(path: str, mode: int) -> None:
            make(path, mode)
            raise FileExistsError(errno.EEXIST, "File exists", path)

        monkeypatch.setattr("os.mkdir", make_late)
        store = HostStore(str(tmp_path / "a" / "b"))
        write(store, b"content")

        assert store.read(NAME) == b"content"

    def test_the_folder_may_be_deleted_at_any_time(self, store: HostStore, folder: Path) -> None:
        """The next operation creates it again."""
        write(store, b"old")
        (folder / NAME).unlink()
        folder.rmdir()
        assert store.read(NAME) is None
        write(store, b"new")

        assert store.read(NAME) == b"new"

    def test_the_folder_may_be_deleted_during_a_write(
        self, store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The effect is the same as if it were deleted just after the write."""

        def delete(descriptor: int, *_: object) -> None:
            (folder / next(iter(names_in(folder)))).unlink()
            folder.rmdir()
            assert os.fstat(descriptor).st_nlink == 0

        monkeypatch.setattr("os.utime", delete)
        write(store, b"content")

        assert store.read(NAME) is None

    def test_a_link_with_the_name_of_the_folder_is_refused(
        self, store: HostStore, folder: Path, tmp_path: Path
    ) -> None:
        folder.rmdir()
        target = tmp_path / "target"
        target.mkdir()
        folder.symlink_to(target)

        with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
            write(store, b"content")
        assert not list(target.iterdir())

    def test_a_file_with_the_name_of_the_folder_is_refused_and_kept(self, store: HostStore, folder: Path) -> None:
        folder.rmdir()
        folder.touch(0o644)

        with pytest.raises(NotADirectoryError):
            store.read(NAME)
        assert mode_of(folder) == 0o644

    def test_no_descriptor_is_left_open(self, store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither after a success nor after a failure."""
        before = names_in(DESCRIPTORS)
        write(store, b"content")
        store.read(NAME)
        store.remove_expired()
        (folder / NAME).chmod(0o640)
        with pytest.raises(UnsafeFileError) as unsafe:
            store.read(NAME)
        folder.chmod(0o755)
        monkeypatch.setattr("os.fchmod", lambda *_: Path("/proc/nonexistent").stat())  # any OSError
        with pytest.raises(OSError, match="nonexistent") as closed:
            store.read(NAME)

        assert names_in(DESCRIPTORS) == before
        del unsafe, closed


class TestExpiry:
    def test_an_expired_file_is_removed_with_its_lock(self, store: HostStore, folder: Path) -> None:
        """Identities that keep changing do not fill the host's cache."""
        write(store, b"useful")
        for number in range(300):
            store.write(f"{number}.json", b"content", time.time() - 1)
            hold(store, str(number)).release()
        store.remove_expired()

        assert names_in(folder) == [NAME]

    def test_a_file_is_kept_until_it_expires(self, store: HostStore) -> None:
        with freeze_time() as clock:
            store.write(NAME, b"content", time.time() + 100)
            for seconds, content in ((99, b"content"), (2, None)):
                clock.tick(seconds)
                store.remove_expired()
                assert store.read(NAME) == content

    def test_an_expired_file_is_kept_while_a_process_holds_its_lock(self, store: HostStore) -> None:
        """That process is renewing it."""
        store.write(NAME, b"content", time.time() - 1)
        with hold(store):
            store.remove_expired()
            assert store.read(NAME) == b"content"
            assert store.take_lock(KEY) is None

    def test_a_file_that_is_renewed_just_before_its_lock_is_taken_is_kept(
        self, store: HostStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.write(NAME, b"old", time.time() - 1)
        take_lock = host_lock.take_lock

        def take_late(*arguments: Any) -> object:
            monkeypatch.setattr(host_lock, "take_lock", take_lock)
            write(store, b"new")
            return take_lock(*arguments)

        monkeypatch.setattr(host_lock, "take_lock", take_late)
        store.remove_expired()

        assert store.read(NAME) == b"new"

    def test_a_lock_that_is_held_is_kept(self, store: HostStore, folder: Path) -> None:
        """Its holder requests a first token."""
        with hold(store):
            store.remove_expired()
            assert names_in(folder) == [LOCK]
            assert store.take_lock(KEY) is None
        store.remove_expired()

        assert names_in(folder) == []

    @pytest.fixture
    def leftover(self, store: HostStore, folder: Path) -> Path:
        """The temporary file of a writer that was killed."""
        writer = os.fork()
        if writer == 0:
            os.replace = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
            with suppress(BaseException):
                write(store, b"content")
            os._exit(1)
        os.waitpid(writer, 0)
        (leftover,) = folder.iterdir()
        return leftover

    def test_the_next_writer_of_a_file_removes_the_leftover_of_a_killed_one(
        self, store: HostStore, folder: Path, leftover: Path
    ) -> None:
        """The writer of another file does not, because it may still be in use."""
        write(store, b"content", "other.json")
        assert leftover.exists()
        write(store, b"content")

        assert names_in(folder) == [NAME, "other.json"]

    def test_the_leftover_of_an_entry_that_was_never_written_is_removed_if_its_lock_is_free(
        self, store: HostStore, leftover: Path
    ) -> None:
        """The holder of the lock may still use it."""
        with hold(store):
            store.remove_expired()
            assert leftover.exists()
        store.remove_expired()

        assert not leftover.exists()

    @pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("x"), Path.touch])
    def test_an_unsafe_temporary_file_is_removed(
        self, store: HostStore, folder: Path, make: Callable[[Path], None]
    ) -> None:
        make(folder / f"{NAME}.0.tmp")
        store.remove_expired()

        assert names_in(folder) == []

    def test_other_files_are_removed_although_one_cannot_be(self, store: HostStore, folder: Path) -> None:
        for name in ("a.json.0.tmp", "a.json"):
            (folder / name).mkdir()
            (folder / name / "content").touch()
            os.utime(folder / name, (0, 0))
        store.write(NAME, b"content", 0)
        store.remove_expired()

        assert store.read(NAME) is None
        assert {"a.json.0.tmp", "a.json"} <= {*names_in(folder)}

    def test_files_may_be_removed_by_another_process_meanwhile(
        self, store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.listdir", lambda _: [f"{NAME}.0.tmp", "gone.json", "gone.lock"])
        store.remove_expired()
        monkeypatch.undo()

        assert names_in(folder) == []


class TestPlaces:
    pytestmark = pytest.mark.usefixtures("no_default_place")

    @pytest.mark.parametrize(
        ("variables", "shared_memory", "temp_folders"),
        [
            ({"XDG_RUNTIME_DIR": "{place}"}, "/proc/nonexistent", ()),
            *(
                ({"XDG_RUNTIME_DIR": unusable}, "{place}", ())
                for unusable in ("", "relative", "/proc/nonexistent", "/dev/null")
            ),
            *(({name: "{place}"}, "/proc/nonexistent", ()) for name in ("TMPDIR", "TEMP", "TMP")),
            ({}, "/proc/nonexistent", ("/proc/nonexistent", "{place}")),
        ],
    )
    def test_without_cache_dir_the_first_default_place_that_can_be_used_is_used(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        variables: dict[str, str],
        shared_memory: str,
        temp_folders: tuple[str, ...],
    ) -> None:
        """The user's runtime folder, shared memory, the temp folder of a variable, the system's temp folders."""
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(place=tmp_path))
        monkeypatch.setattr(host_store, "_SHARED_MEMORY", shared_memory.format(place=tmp_path))
        monkeypatch.setattr(host_store, "_TEMP_FOLDERS", [path.format(place=tmp_path) for path in temp_folders])
        write(HostStore(None), b"content")

        assert (folder_in(tmp_path) / NAME).exists()

    def test_the_working_directory_is_never_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It may be a folder of DAGs or a volume that other hosts read."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TMPDIR", ".")
        with pytest.raises(FileNotFoundError):
            write(HostStore(None), b"content")

        assert list(tmp_path.iterdir()) == []

    def test_a_default_place_replaces_a_cache_dir_that_cannot_be_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One warning in each process names the cause and the fix. Unusable default places cause no warning."""
        file, other = tmp_path / "file", tmp_path / "other"
        for path in (file, other):
            path.touch()
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/nonexistent")
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        for _ in range(3):
            store = HostStore(str(file))
            write(store, b"content")
            assert store.read(NAME) == b"content"
        HostStore(str(other)).read(NAME)
        HostStore(None).read(NAME)

        assert (folder_in(tmp_path) / NAME).exists()
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
        assert caplog.messages[0] == (
            f"Cannot use cache_dir {file} for ECR tokens: Not a directory. This process uses {folder_in(tmp_path)} "
            "instead. Make cache_dir with mode 1777 on a file system that keeps permissions."
        )
        assert str(other) in caplog.messages[1]

    def test_a_logging_filter_that_raises_fails_no_lookup(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr(host_store.logger, "filters", [lambda _: 1 / 0])

        assert HostStore("/dev/null").read(NAME) is None

    def test_without_any_place_the_error_of_the_first_one_is_raised_and_not_logged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = tmp_path / "file"
        file.touch()
        monkeypatch.setenv("TMPDIR", "/proc/nonexistent")
        with pytest.raises(NotADirectoryError) as caught:
            write(HostStore(str(file)), b"content")

        assert str(file) in str(caught.value)
        assert caplog.messages == []

    def test_its_text_names_the_places(self) -> None:
        assert str(HostStore("/var/cache/tokens")) == "/var/cache/tokens"
        assert str(HostStore(None)) == "$XDG_RUNTIME_DIR, /proc/nonexistent or the temp folder"


class TestIgnoredPermissions:
    """On a file system that ignores modes. ``test_cache_faults.py`` uses a real one."""

    def test_a_folder_that_stays_open_to_other_users_is_refused(
        self, store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder.chmod(0o755)
        ignore_permissions(monkeypatch, folder.parent)
        for operation in (store.read, store.take_lock, lambda name: write(store, b"content", name)):
            with pytest.raises(UnsafeFileError) as caught:
                operation(NAME)
            assert str(caught.value) == f"[Errno 1] the file system ignores permissions: '{folder}'"

        assert names_in(folder) == []

    def test_a_file_or_lock_that_stays_open_to_other_users_is_removed_before_anything_is_written(
        self, store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The folder is refused from then on."""
        ignore_permissions(monkeypatch, folder.parent, stat.S_ISREG)
        monkeypatch.setattr("os.write", lambda *_: pytest.fail("a token was written"))
        for operation in (store.take_lock, lambda name: write(store, b"content", name)):
            monkeypatch.setattr(private_files, "_folders_ignoring_permissions", set())
            for _ in range(2):
                with pytest.raises(UnsafeFileError, match="ignores permissions"):
                    operation(NAME)

            assert names_in(folder) == []

    @pytest.mark.usefixtures("no_default_place")
    @pytest.mark.parametrize("is_kind", [stat.S_ISDIR, stat.S_ISREG])
    def test_reads_writes_and_locks_use_the_next_place(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        is_kind: Callable[[int], bool],
    ) -> None:
        """Also if the folder is private and only the files in it are not."""
        first, second = tmp_path / "first", tmp_path / "second"
        second.mkdir()
        folder_in(first).mkdir(parents=True, mode=0o755)
        monkeypatch.setenv("TMPDIR", str(second))
        ignore_permissions(monkeypatch, first, is_kind)
        stores = [HostStore(str(first)) for _ in range(2)]
        with hold(stores[0]):
            write(stores[0], b"content")
            assert stores[1].read(NAME) == b"content"
            assert stores[1].take_lock(KEY) is None

        assert names_in(folder_in(first)) == []
        assert names_in(folder_in(second)) == [NAME, LOCK]
        (warning,) = caplog.messages
        assert "the file system ignores permissions. This process uses" in warning
