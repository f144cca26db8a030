from __future__ import annotations

import errno
import logging
import os
import signal
import stat
import time
from contextlib import suppress
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

LOCK = f"{KEY}.lock"
DESCRIPTORS = Path("/proc/self/fd")


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


class TestFiles:
    def test_what_was_written_is_read(self, store: HostStore) -> None:
        write(store, b"content")

        assert store.read(NAME) == b"content"
        assert store.read("other") is None

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o177])
    def test_no_other_user_may_read_or_write(self, store: HostStore, folder: Path, umask: int) -> None:
        """0600 in 0700, whatever the umask."""
        previous = os.umask(umask)
        try:
            write(store, b"content")
            lock = store.take_lock(KEY)
        finally:
            os.umask(previous)

        assert lock is not None
        lock.release()
        assert mode_of(folder) == 0o700
        assert {mode_of(file) for file in folder.iterdir()} == {0o600}

    @pytest.mark.parametrize("size", [20_000, LARGEST_FILE_BYTES])
    def test_a_token_may_grow(self, store: HostStore, size: int) -> None:
        """AWS does not fix its size: several times today's fits, and the largest is read whole."""
        write(store, b"x" * size)

        assert store.read(NAME) == b"x" * size

    def test_what_is_too_large_to_be_read_is_not_written(self, store: HostStore, folder: Path) -> None:
        """What was there before is kept."""
        write(store, b"old")
        with pytest.raises(OSError, match="65,537 bytes are too large") as caught:
            write(store, b"x" * (LARGEST_FILE_BYTES + 1))

        assert caught.value.errno == errno.EFBIG
        assert store.read(NAME) == b"old"
        assert names_in(folder) == [NAME]

    def test_a_reader_never_sees_half_a_file(self, store: HostStore, folder: Path) -> None:
        """A file is replaced, not rewritten: a reader that has opened the old one reads it to its end."""
        write(store, b"old")
        with (folder / NAME).open("rb") as reader:
            write(store, b"new")
            assert reader.read() == b"old"

    def test_a_file_that_is_replaced_while_it_is_read_is_read(
        self, store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A reader that has opened the old file returns it, though it has no name any more."""
        write(store, b"old")
        status_of = os.fstat

        def meanwhile_replaced(descriptor: int) -> os.stat_result:
            if stat.S_ISREG(status_of(descriptor).st_mode):
                (folder / NAME).unlink(missing_ok=True)
            return status_of(descriptor)

        monkeypatch.setattr("os.fstat", meanwhile_replaced)
        assert store.read(NAME) == b"old"

    def test_what_the_system_writes_in_parts_is_written_whole(
        self, store: HostStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A nearly full disk takes the first part only."""
        write_all = os.write
        monkeypatch.setattr("os.write", lambda file, content: write_all(file, content[:3]))
        write(store, b"content")

        assert store.read(NAME) == b"content"

    def test_a_link_is_not_followed(self, store: HostStore, folder: Path, tmp_path: Path) -> None:
        """It is neither read nor written through; a write replaces it."""
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
        """Here because of what stands in the place of the file; on a full disk as well."""
        (folder / NAME).mkdir()
        (folder / NAME / "content").touch()

        with pytest.raises(OSError, match="not empty"):
            write(store, b"content")
        assert names_in(folder) == [NAME]

    def test_a_write_that_fails_reports_the_cause(self, store: HostStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also if another process has removed the temporary file already."""

        def fail(temporary: str, _: str, *, src_dir_fd: int, **_options: Any) -> None:
            os.unlink(temporary, dir_fd=src_dir_fd)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="No space left"):
            write(store, b"content")

    def test_a_write_makes_a_file_of_its_own(
        self, store: HostStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It never writes through what stands there, even if an attacker guesses the name."""
        monkeypatch.setattr("secrets.token_hex", lambda: "guessed")
        monkeypatch.setattr("os.listdir", lambda _: [])  # it comes just in time
        target = tmp_path / "target"
        target.write_bytes(b"theirs")
        (folder / f"{NAME}.guessed.tmp").hardlink_to(target)

        with pytest.raises(FileExistsError):
            write(store, b"ours")
        assert target.read_bytes() == b"theirs"

    def test_no_two_writes_share_a_temporary_file(self, store: HostStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Otherwise one could move the other's into place half written."""
        temporaries: list[str] = []
        replace = os.replace

        def record(temporary: str, *arguments: Any, **options: Any) -> None:
            temporaries.append(temporary)
            replace(temporary, *arguments, **options)

        monkeypatch.setattr("os.replace", record)
        for _ in range(2):
            write(store, b"content")

        assert len(set(temporaries)) == 2

    def test_two_writers_at_once_do_no_harm(
        self, store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One of the two contents is there in the end, and neither writer fails."""
        replace = os.replace

        def after_another(*arguments: Any, **options: Any) -> None:
            monkeypatch.setattr("os.replace", replace)
            write(store, b"another")
            replace(*arguments, **options)

        monkeypatch.setattr("os.replace", after_another)
        write(store, b"one")
        assert names_in(folder) == [NAME]
        assert store.read(NAME) in {b"one", b"another"}


def spoil_by_mode(mode: int) -> Callable[[Path], None]:
    return lambda file: file.chmod(mode)


def spoil_by_hard_link(file: Path) -> None:
    file.with_name("second").hardlink_to(file)


def spoil_by_size(file: Path) -> None:
    file.write_bytes(b"x" * (LARGEST_FILE_BYTES + 1))


def spoil_by_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


class TestUnsafeFiles:
    @pytest.mark.parametrize(
        ("spoil", "problem"),
        [
            *((spoil_by_mode(0o600 | bit), "is open to other users") for bit in (0o40, 0o20, 0o10, 0o4, 0o2, 0o1)),
            (spoil_by_hard_link, "has more than one hard link"),
            (spoil_by_size, "is too large"),
            (spoil_by_pipe, "is not a file"),
        ],
    )
    def test_an_unsafe_file_is_refused_and_can_be_replaced(
        self, store: HostStore, folder: Path, spoil: Callable[[Path], None], problem: str
    ) -> None:
        """Another user may have written it, or may read it."""
        write(store, b"content")
        spoil(folder / NAME)

        with pytest.raises(UnsafeFileError) as caught:
            store.read(NAME)
        assert str(caught.value) == f"[Errno {errno.EPERM}] a file of the cache {problem}: '{NAME}'"
        write(store, b"ours")
        assert store.read(NAME) == b"ours"

    def test_what_belongs_to_another_user_is_refused(self, store: HostStore, folder: Path) -> None:
        """A file, a lock or the folder."""
        need_root()
        write(store, b"forged")
        os.chown(folder / NAME, 12345, 12345)
        with pytest.raises(UnsafeFileError, match=rf"^\[Errno 1\] a file of the cache belongs to another.*'{NAME}'$"):
            store.read(NAME)

        (folder / LOCK).touch(0o600)
        os.chown(folder / LOCK, 12345, 12345)
        lock = store.take_lock(KEY)
        assert lock is not None
        lock.release()
        assert (folder / LOCK).stat().st_uid == 0

        os.chown(folder, 12345, 12345)
        for operation in (store.read, lambda name: write(store, b"content", name)):
            with pytest.raises(UnsafeFileError) as caught:
                operation(NAME)
            assert str(caught.value) == f"[Errno {errno.EPERM}] the folder belongs to user 12345: '{folder}'"

    @pytest.mark.parametrize("them", [1, 54321])
    def test_every_user_but_the_own_one_is_another(
        self, store: HostStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, them: int
    ) -> None:
        """Root is not special, and numbers are not compared by size."""
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
    def test_a_folder_of_another_mode_is_corrected(self, store: HostStore, folder: Path, mode: int) -> None:
        """By the next operation: it is closed to others, and open to its user."""
        folder.chmod(mode)
        store.read(NAME)

        assert mode_of(folder) == 0o700

    @pytest.mark.usefixtures("no_default_place")
    def test_parents_of_the_configured_folder_are_made(self, tmp_path: Path) -> None:
        """A container's fresh volume is empty."""
        store = HostStore(str(tmp_path / "a" / "b"))
        write(store, b"content")

        assert store.read(NAME) == b"content"

    @pytest.mark.usefixtures("no_default_place")
    def test_what_is_made_is_closed_to_others_from_the_start(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There is no moment in which they could open it."""
        monkeypatch.setattr("os.fchmod", lambda *_: pytest.fail("it was made open"))
        previous = os.umask(0)
        try:
            write(HostStore(str(tmp_path / "a" / "b")), b"content")
        finally:
            os.umask(previous)

        assert mode_of(tmp_path / "a") == mode_of(tmp_path / "a" / "b") == 0o700

    @pytest.mark.usefixtures("no_default_place")
    def test_processes_that_make_the_folder_at_once_do_no_harm(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The later one finds it made, and its parents as well."""
        make = os.mkdir

        def late(path: str, mode: int) -> None:
            make(path, mode)
            raise FileExistsError(errno.EEXIST, "File exists", path)

        monkeypatch.setattr("os.mkdir", late)
        store = HostStore(str(tmp_path / "a" / "b"))
        write(store, b"content")

        assert store.read(NAME) == b"content"

    def test_the_folder_may_be_deleted_at_any_time(self, store: HostStore, folder: Path) -> None:
        """It is made anew."""
        write(store, b"old")
        (folder / NAME).unlink()
        folder.rmdir()
        assert store.read(NAME) is None
        write(store, b"new")

        assert store.read(NAME) == b"new"

    def test_the_folder_may_be_deleted_during_a_write(
        self, store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is as if it had been deleted just after."""

        def delete(descriptor: int, *_: object) -> None:
            (folder / next(iter(names_in(folder)))).unlink()
            folder.rmdir()
            assert os.fstat(descriptor).st_nlink == 0

        monkeypatch.setattr("os.utime", delete)
        write(store, b"content")

        assert store.read(NAME) is None

    def test_a_link_in_the_place_of_the_folder_is_refused(self, store: HostStore, folder: Path, tmp_path: Path) -> None:
        """Nothing is made behind it."""
        folder.rmdir()
        target = tmp_path / "target"
        target.mkdir()
        folder.symlink_to(target)

        with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
            write(store, b"content")
        assert not list(target.iterdir())

    def test_a_file_in_the_place_of_the_folder_is_refused(self, store: HostStore, folder: Path) -> None:
        """It is left as it was."""
        folder.rmdir()
        folder.touch(0o644)

        with pytest.raises(NotADirectoryError):
            store.read(NAME)
        assert mode_of(folder) == 0o644

    def test_no_descriptor_is_left_open(self, store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Success or failure, each operation closes what it has opened."""
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
        """The cache of a host whose identities change does not grow for ever."""
        write(store, b"useful")
        for number in range(300):
            store.write(f"{number}.json", b"content", time.time() - 1)
            lock = store.take_lock(str(number))
            assert lock is not None
            lock.release()
        store.remove_expired()

        assert names_in(folder) == [NAME]

    def test_a_file_is_kept_for_as_long_as_its_writer_has_said(self, store: HostStore) -> None:
        with freeze_time() as clock:
            store.write(NAME, b"content", time.time() + 100)
            for seconds, content in ((99, b"content"), (2, None)):
                clock.tick(seconds)
                store.remove_expired()
                assert store.read(NAME) == content

    def test_an_expired_file_that_a_process_renews_is_kept(self, store: HostStore) -> None:
        """Its lock is held by that process, which still needs it."""
        store.write(NAME, b"content", time.time() - 1)
        lock = store.take_lock(KEY)
        assert lock is not None
        with lock:
            store.remove_expired()
            assert store.read(NAME) == b"content"
            assert store.take_lock(KEY) is None

    def test_a_file_that_was_renewed_a_moment_ago_is_kept(
        self, store: HostStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After it was found to have expired, and before its lock was taken."""
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
        lock = store.take_lock(KEY)
        assert lock is not None
        with lock:
            store.remove_expired()
            assert names_in(folder) == [LOCK]
            assert store.take_lock(KEY) is None
        store.remove_expired()

        assert names_in(folder) == []

    @pytest.fixture
    def leftover(self, store: HostStore, folder: Path) -> Path:
        """What a writer leaves that is killed."""
        writer = os.fork()
        if writer == 0:
            os.replace = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
            with suppress(BaseException):
                write(store, b"content")
            os._exit(1)
        os.waitpid(writer, 0)
        (leftover,) = folder.iterdir()
        return leftover

    def test_what_a_killed_writer_left_is_removed_by_the_next_one(
        self, store: HostStore, folder: Path, leftover: Path
    ) -> None:
        """Of the same file: the writer of another one may need its temporary file."""
        write(store, b"content", "other.json")
        assert leftover.exists()
        write(store, b"content")

        assert names_in(folder) == [NAME, "other.json"]

    def test_what_a_killed_writer_left_of_an_entry_that_was_never_written_is_removed(
        self, store: HostStore, leftover: Path
    ) -> None:
        """Not while a process has the lock, whose temporary file it may be."""
        lock = store.take_lock(KEY)
        assert lock is not None
        with lock:
            store.remove_expired()
            assert leftover.exists()
        store.remove_expired()

        assert not leftover.exists()

    @pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("x"), Path.touch])
    def test_an_unsafe_temporary_file_is_removed_at_once(
        self, store: HostStore, folder: Path, make: Callable[[Path], None]
    ) -> None:
        """No writer of this user makes one."""
        make(folder / f"{NAME}.0.tmp")
        store.remove_expired()

        assert names_in(folder) == []

    def test_what_cannot_be_removed_keeps_no_other_file(self, store: HostStore, folder: Path) -> None:
        for name in ("a.json.0.tmp", "a.json"):
            (folder / name).mkdir()
            (folder / name / "content").touch()
            os.utime(folder / name, (0, 0))
        store.write(NAME, b"content", 0)
        store.remove_expired()

        assert store.read(NAME) is None
        assert {"a.json.0.tmp", "a.json"} <= {*names_in(folder)}

    def test_what_another_process_removes_meanwhile_is_no_failure(
        self, store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.listdir", lambda _: [f"{NAME}.0.tmp", "gone.json", "gone.lock"])
        store.remove_expired()
        monkeypatch.undo()

        assert names_in(folder) == []


class TestPlaces:
    pytestmark = pytest.mark.usefixtures("no_default_place")

    def test_by_default_the_folder_is_in_the_users_runtime_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In memory, and gone when the user is."""
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        write(HostStore(None), b"content")

        assert (folder_in(tmp_path) / NAME).exists()

    @pytest.mark.parametrize("runtime_folder", ["", "relative", "/proc/nonexistent", "/dev/null"])
    def test_without_a_runtime_folder_it_is_in_shared_memory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime_folder: str
    ) -> None:
        """Services seldom have a runtime folder, or have inherited that of another user."""
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_folder)
        monkeypatch.setattr(host_store, "_SHARED_MEMORY", str(tmp_path))
        write(HostStore(None), b"content")

        assert (folder_in(tmp_path) / NAME).exists()

    @pytest.mark.parametrize("variable", ["TMPDIR", "TEMP", "TMP"])
    def test_without_shared_memory_it_is_in_the_temp_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        """For a kernel or a container without ``/dev/shm``."""
        monkeypatch.setenv(variable, str(tmp_path))
        write(HostStore(None), b"content")

        assert (folder_in(tmp_path) / NAME).exists()

    def test_without_a_variable_it_is_in_the_systems_temp_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(host_store, "_TEMP_FOLDERS", ("/proc/nonexistent", str(tmp_path)))
        write(HostStore(None), b"content")

        assert (folder_in(tmp_path) / NAME).exists()

    def test_the_working_directory_is_never_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It may be a DAG folder, or a volume that other hosts read."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TMPDIR", ".")
        with pytest.raises(FileNotFoundError):
            write(HostStore(None), b"content")

        assert list(tmp_path.iterdir()) == []

    def test_a_configured_folder_that_cannot_be_used_is_replaced_by_a_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One warning for each process names the cause and the fix; nothing warns of defaults that are passed over."""
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
            "instead. Create cache_dir with mode 1777 on a file system that keeps permissions."
        )
        assert str(other) in caplog.messages[1]

    def test_a_logging_filter_that_raises_fails_no_lookup(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr(host_store.logger, "filters", [lambda _: 1 / 0])

        assert HostStore("/dev/null").read(NAME) is None

    def test_without_any_place_the_cause_in_the_first_one_is_raised(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The caller reports it, so the store does not."""
        file = tmp_path / "file"
        file.touch()
        monkeypatch.setenv("TMPDIR", "/proc/nonexistent")
        with pytest.raises(NotADirectoryError) as caught:
            write(HostStore(str(file)), b"content")

        assert str(file) in str(caught.value)
        assert caplog.messages == []

    def test_it_names_the_places_where_it_looks(self) -> None:
        """For a warning that it cannot be used."""
        assert str(HostStore("/var/cache/tokens")) == "/var/cache/tokens"
        assert str(HostStore(None)) == "$XDG_RUNTIME_DIR, /proc/nonexistent or the temp folder"


class TestIgnoredPermissions:
    """A file system that ignores modes; ``test_cache_faults.py`` has a real one."""

    def test_a_folder_that_stays_open_is_refused(
        self, store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder.chmod(0o755)
        ignore_permissions(monkeypatch, folder.parent)
        for operation in (store.read, store.take_lock, lambda name: write(store, b"content", name)):
            with pytest.raises(UnsafeFileError) as caught:
                operation(NAME)
            assert str(caught.value) == f"[Errno 1] the file system ignores permissions: '{folder}'"

        assert names_in(folder) == []

    def test_a_file_that_stays_open_is_removed_before_anything_is_written(
        self, store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As is a lock; the folder is refused from then on."""
        ignore_permissions(monkeypatch, folder.parent, stat.S_ISREG)
        monkeypatch.setattr("os.write", lambda *_: pytest.fail("a token was written"))
        for operation in (store.take_lock, lambda name: write(store, b"content", name)):
            monkeypatch.setattr(private_files, "_ignoring_permissions", set())
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
        """Also if the folder itself is private, and only the files in it are not."""
        first, second = tmp_path / "first", tmp_path / "second"
        second.mkdir()
        folder_in(first).mkdir(parents=True, mode=0o755)
        monkeypatch.setenv("TMPDIR", str(second))
        ignore_permissions(monkeypatch, first, is_kind)
        stores = [HostStore(str(first)) for _ in range(2)]
        lock = stores[0].take_lock(KEY)
        assert lock is not None
        with lock:
            write(stores[0], b"content")
            assert stores[1].read(NAME) == b"content"
            assert stores[1].take_lock(KEY) is None

        assert names_in(folder_in(first)) == []
        assert names_in(folder_in(second)) == [NAME, LOCK]
        (warning,) = caplog.messages
        assert "the file system ignores permissions. This process uses" in warning
