from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from ecr_secrets_backend import host_lock, host_store, private_files
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.private_files import LARGEST_FILE_BYTES, UnsafeFileError
from tests.requirements import need_root
from tests.unit.folders import (
    KEY,
    LOCK,
    NAME,
    folder_in,
    hold,
    ignore_permissions,
    mode_of,
    names_in,
    replace_by,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("no_default_place")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o177])
def test_no_other_user_may_read_or_write(store: HostStore, folder: Path, umask: int) -> None:
    """The modes are 0600 and 0700 with any umask."""
    previous = os.umask(umask)
    try:
        write(store, b"content")
        hold(store).release()
    finally:
        os.umask(previous)

    assert mode_of(folder) == 0o700
    assert {mode_of(file) for file in folder.iterdir()} == {0o600}


def test_a_file_of_64_kib_can_be_read_and_a_larger_one_is_not_written(store: HostStore, folder: Path) -> None:
    """AWS does not limit the size of a token: several times its current size fits."""
    write(store, b"x" * LARGEST_FILE_BYTES)
    with pytest.raises(OSError, match="65,537 bytes are too large") as caught:
        write(store, b"y" * (LARGEST_FILE_BYTES + 1))

    assert caught.value.errno == errno.EFBIG
    assert store.read(NAME) == b"x" * LARGEST_FILE_BYTES
    assert names_in(folder) == [NAME]


def test_a_file_that_is_replaced_while_it_is_read_is_read(store: HostStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write does not change the old file, so a reader that has opened it reads all of it."""
    write(store, b"old")
    status_of = os.fstat

    def replace_before(descriptor: int) -> os.stat_result:
        if stat.S_ISREG(status_of(descriptor).st_mode):
            monkeypatch.setattr("os.fstat", status_of)
            write(store, b"new")
        return status_of(descriptor)

    monkeypatch.setattr("os.fstat", replace_before)

    assert store.read(NAME) == b"old"
    assert store.read(NAME) == b"new"


def test_a_partial_write_is_completed(store: HostStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all = os.write
    monkeypatch.setattr("os.write", lambda file, content: write_all(file, content[:3]))
    write(store, b"content")

    assert store.read(NAME) == b"content"


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_write_that_fails_reports_the_cause_and_leaves_nothing_behind(
    store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch, is_removed: bool
) -> None:
    """Also if another process has removed the temporary file."""

    def fail(temporary: str, *_: object, **_options: object) -> None:
        if is_removed:
            (folder / temporary).unlink()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write(store, b"content")

    assert names_in(folder) == []


def test_a_write_creates_its_temporary_file(
    store: HostStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        *((partial(os.chmod, mode=0o600 | 1 << bit), "is open to other users") for bit in range(6)),
        (lambda file: file.write_bytes(b"x" * (LARGEST_FILE_BYTES + 1)), "is too large"),
        (replace_by(lambda file: os.mkfifo(file, 0o600)), "is not a file"),
        (replace_by(Path.mkdir), "is not a file"),
    ],
)
def test_an_unsafe_file_is_refused_and_can_be_replaced(
    store: HostStore, folder: Path, spoil: Callable[[Path], object], problem: str
) -> None:
    """Another user may have written it or may read it."""
    write(store, b"content")
    spoil(folder / NAME)

    with pytest.raises(UnsafeFileError) as caught:
        store.read(NAME)
    assert str(caught.value) == f"[Errno {errno.EPERM}] a file of the cache {problem}: '{NAME}'"
    write(store, b"ours")
    assert store.read(NAME) == b"ours"


@pytest.mark.parametrize(
    ("link", "problem"), [(Path.symlink_to, "symbolic links"), (Path.hardlink_to, "more than one hard link")]
)
def test_a_link_is_not_followed(
    store: HostStore, folder: Path, tmp_path: Path, link: Callable[[Path, Path], None], problem: str
) -> None:
    """Neither a read nor a write uses its target. A write replaces the link."""
    target = tmp_path / "target"
    target.touch(0o600)
    link(folder / NAME, target)

    with pytest.raises(OSError, match=problem):
        store.read(NAME)
    write(store, b"ours")
    assert store.read(NAME) == b"ours"
    assert target.read_bytes() == b""


@pytest.mark.parametrize(("us", "them"), [(0, 12345), (12345, 1), (12345, 54321)])
def test_the_files_and_the_folder_of_any_other_user_are_refused(
    store: HostStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, us: int, them: int
) -> None:
    need_root()
    monkeypatch.setattr("os.geteuid", lambda: us)
    folder = folder_in(tmp_path)
    folder.mkdir()
    (folder / NAME).touch(0o600)
    for path in (folder, folder / NAME):
        os.chown(path, us, us)
    assert store.read(NAME) == b""

    os.chown(folder / NAME, them, them)
    with pytest.raises(UnsafeFileError, match=rf"^\[Errno 1\] a file of the cache belongs to another.*'{NAME}'$"):
        store.read(NAME)
    os.chown(folder, them, them)
    for operation in (store.read, lambda name: write(store, b"content", name)):
        with pytest.raises(UnsafeFileError) as caught:
            operation(NAME)
        assert str(caught.value) == f"[Errno {errno.EPERM}] the folder belongs to user {them}: '{folder}'"


@pytest.mark.parametrize("mode", [0o777, 0o701, 0o500, 0o1700])
def test_the_next_operation_corrects_the_mode_of_the_folder(store: HostStore, folder: Path, mode: int) -> None:
    folder.chmod(mode)
    store.read(NAME)

    assert mode_of(folder) == 0o700


def test_the_parents_of_cache_dir_are_created_and_private_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new volume of a container is empty. Several processes may create them at once."""
    make = os.mkdir

    def make_late(path: str, mode: int) -> None:
        make(path, mode)
        raise FileExistsError

    monkeypatch.setattr("os.mkdir", make_late)
    monkeypatch.setattr("os.fchmod", lambda *_: pytest.fail("it was created open to other users"))
    store = HostStore(str(tmp_path / "a" / "b"))
    write(store, b"content")

    assert store.read(NAME) == b"content"
    assert mode_of(tmp_path / "a") == mode_of(tmp_path / "a" / "b") == 0o700


def test_the_folder_may_be_deleted_at_any_time(store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next operation creates it again. During a write, the effect is the same as just after it."""
    with monkeypatch.context() as patch:
        patch.setattr("os.utime", lambda *_: shutil.rmtree(folder))
        write(store, b"old")

    assert store.read(NAME) is None
    write(store, b"new")
    assert store.read(NAME) == b"new"


def make_expired(path: Path) -> None:
    path.touch(0o600)
    os.utime(path, (0, 0))


def test_expired_files_are_removed_with_their_locks(store: HostStore, folder: Path) -> None:
    """Identities that keep changing do not fill the host's cache."""
    with freeze_time() as clock:
        for number in range(300):
            store.write(f"{number}.json", b"content", time.time() + number + 0.5)
            if number % 2:
                hold(store, str(number)).release()
        clock.tick(299)
        store.remove_expired()

    assert names_in(folder) == ["299.json", "299.lock"]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        (LOCK, Path.touch),  # its holder requests a first token
        (NAME, make_expired),  # its holder renews it
        *((f"{NAME}.0.tmp", make) for make in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to("x"), Path.touch)),
    ],
)
def test_what_is_expired_or_was_never_written_is_removed_if_no_process_holds_its_lock(
    store: HostStore, folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    """For example the temporary file of a writer that was killed, or anything else with such a name."""
    make(folder / name)
    with hold(store):
        store.remove_expired()
        assert names_in(folder) == sorted({LOCK, name})
        assert store.take_lock(KEY) is None
    store.remove_expired()

    assert names_in(folder) == []


def test_a_file_that_is_renewed_just_before_its_lock_is_taken_is_kept(
    store: HostStore, monkeypatch: pytest.MonkeyPatch
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


def test_the_next_writer_of_a_file_removes_the_leftover_of_a_killed_one(store: HostStore, folder: Path) -> None:
    """The writer of another file does not, because it may still be in use."""
    leftover = folder / f"{NAME}.0.tmp"
    leftover.touch()
    write(store, b"content", "other.json")
    assert leftover.exists()
    write(store, b"content")

    assert names_in(folder) == [NAME, "other.json"]


def test_other_files_are_removed_although_one_cannot_be(store: HostStore, folder: Path) -> None:
    for name in ("a.json.0.tmp", "a.json"):
        (folder / name).mkdir()
        (folder / name / "content").touch()
        os.utime(folder / name, (0, 0))
    make_expired(folder / NAME)
    store.remove_expired()

    assert store.read(NAME) is None
    assert {"a.json.0.tmp", "a.json"} <= {*names_in(folder)}


@pytest.mark.parametrize(
    ("variables", "shared_memory", "temp_folders"),
    [
        ({"XDG_RUNTIME_DIR": "{}", "TMPDIR": "{}/b"}, "{}/a", ()),
        ({"TMPDIR": "{}/b"}, "{}", ("{}/a",)),
        *(({"XDG_RUNTIME_DIR": unusable}, "{}", ()) for unusable in ("", "relative", "{}/missing", "/dev/null")),
        *(({name: "{}"}, "/proc/nonexistent", ("{}/a",)) for name in ("TMPDIR", "TEMP", "TMP")),
        ({}, "/proc/nonexistent", ("/proc/nonexistent", "{}", "{}/a")),
    ],
)
def test_without_cache_dir_the_first_default_place_that_can_be_used_is_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variables: dict[str, str],
    shared_memory: str,
    temp_folders: tuple[str, ...],
) -> None:
    """The user's runtime folder, shared memory, the temp folder of a variable, the system's temp folders."""
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    monkeypatch.setattr(host_store, "_SHARED_MEMORY", shared_memory.format(tmp_path))
    monkeypatch.setattr(host_store, "_TEMP_FOLDERS", [path.format(tmp_path) for path in temp_folders])
    write(HostStore(None), b"content")

    assert (folder_in(tmp_path) / NAME).exists()
    assert caplog.messages == []


def test_the_working_directory_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a folder of DAGs or a volume that other hosts read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", ".")
    with pytest.raises(FileNotFoundError):
        write(HostStore(None), b"content")

    assert list(tmp_path.iterdir()) == []


def test_a_default_place_replaces_a_cache_dir_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning in each process names the cause and the fix. A filter of logs that raises changes nothing."""
    file, other = tmp_path / "file", tmp_path / "other"
    for path in (file, other):
        path.touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for _ in range(3):
        store = HostStore(str(file))
        write(store, b"content")
        assert store.read(NAME) == b"content"
    HostStore(str(other)).read(NAME)
    monkeypatch.setattr(host_store.logger, "filters", [lambda _: 1 / 0])
    assert HostStore("/dev/null").read(NAME) == b"content"

    assert (folder_in(tmp_path) / NAME).exists()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert caplog.messages[0] == (
        f"Cannot use cache_dir {file} for ECR tokens: Not a directory. This process uses {folder_in(tmp_path)} "
        "instead. Make cache_dir with mode 1777 on a file system that keeps permissions."
    )
    assert str(other) in caplog.messages[1]


def test_without_any_place_the_error_of_the_first_one_is_raised_and_not_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("TMPDIR", "/proc/nonexistent")
    with pytest.raises(NotADirectoryError) as caught:
        write(HostStore(str(file)), b"content")

    assert str(file) in str(caught.value)
    assert caplog.messages == []


def test_its_text_names_the_places() -> None:
    assert str(HostStore("/var/cache/tokens")) == "/var/cache/tokens"
    assert str(HostStore(None)) == "$XDG_RUNTIME_DIR, /proc/nonexistent or the temp folder"


@pytest.mark.parametrize("is_kind", [stat.S_ISDIR, stat.S_ISREG])
def test_a_folder_in_which_permissions_are_ignored_is_refused_and_the_next_place_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_kind: Callable[[int], bool]
) -> None:
    """Also if only files in it are open to other users. Then the first file is removed before anything is written."""
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first, second):
        place.mkdir()
    ignore_permissions(monkeypatch, first, is_kind)
    write_all = os.write
    monkeypatch.setattr("os.write", lambda *_: pytest.fail("a token was written"))
    store, other = HostStore(str(first)), HostStore(str(first))
    for operation in (store.take_lock, lambda name: write(store, b"content", name)):
        monkeypatch.setattr(private_files, "_folders_ignoring_permissions", set())
        for _ in range(2):
            with pytest.raises(UnsafeFileError) as caught:
                operation(NAME)
            assert str(caught.value) == f"[Errno 1] the file system ignores permissions: '{folder_in(first)}'"
        assert names_in(folder_in(first)) == []

    monkeypatch.setattr(private_files, "_folders_ignoring_permissions", set())
    monkeypatch.setattr("os.write", write_all)
    monkeypatch.setenv("TMPDIR", str(second))
    with hold(store):
        write(store, b"content")
        assert other.read(NAME) == b"content"
        assert other.take_lock(KEY) is None
    assert names_in(folder_in(first)) == []
    assert names_in(folder_in(second)) == [NAME, LOCK]
    (warning,) = caplog.messages
    assert "the file system ignores permissions. This process uses" in warning
