from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.host_store import FOLDER_NAME, LARGEST_FILE_BYTES, HostStore, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "entry.json"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as another user")


@pytest.fixture
def store(tmp_path: Path) -> HostStore:
    return HostStore(str(tmp_path))


@pytest.fixture
def folder(store: HostStore, tmp_path: Path) -> Path:
    store.read("nothing")
    return tmp_path / FOLDER_NAME.format(uid=os.geteuid())


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_was_written_is_read(store: HostStore) -> None:
    """And what was not is None."""
    store.write(NAME, b"content")

    assert store.read(NAME) == b"content"
    assert store.read("other") is None


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o177])
def test_nobody_else_may_read_or_write(store: HostStore, folder: Path, umask: int) -> None:
    """0600 in 0700, whatever the umask."""
    previous = os.umask(umask)
    try:
        store.write(NAME, b"content")
        with store.turn(NAME):
            pass
    finally:
        os.umask(previous)

    assert mode_of(folder) == 0o700
    assert {mode_of(file) for file in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("mode", [0o777, 0o701, 0o500, 0o1700])
def test_a_folder_of_another_mode_is_set_right(store: HostStore, folder: Path, mode: int) -> None:
    """By the next operation: it is closed to others, and open to us."""
    folder.chmod(mode)
    store.read(NAME)

    assert mode_of(folder) == 0o700


def test_parents_of_the_configured_folder_are_made(tmp_path: Path) -> None:
    """A container's fresh volume is empty."""
    store = HostStore(str(tmp_path / "a" / "b"))
    store.write(NAME, b"content")

    assert store.read(NAME) == b"content"


def test_what_is_made_is_closed_to_others_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no moment in which they could open it."""
    monkeypatch.setattr("os.fchmod", lambda *_: pytest.fail("it was made open"))
    previous = os.umask(0)
    try:
        HostStore(str(tmp_path / "a" / "b")).write(NAME, b"content")
    finally:
        os.umask(previous)

    assert mode_of(tmp_path / "a") == mode_of(tmp_path / "a" / "b") == 0o700


def test_processes_that_make_the_folder_at_once_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is late finds it made, and its parents as well."""
    make = os.mkdir

    def late(path: str, mode: int) -> None:
        make(path, mode)
        raise FileExistsError(errno.EEXIST, "File exists", path)

    monkeypatch.setattr("os.mkdir", late)
    store = HostStore(str(tmp_path / "a" / "b"))
    store.write(NAME, b"content")

    assert store.read(NAME) == b"content"


def test_the_folder_may_be_deleted_at_any_time(store: HostStore, folder: Path) -> None:
    """It is made anew."""
    store.write(NAME, b"old")
    (folder / NAME).unlink()
    folder.rmdir()
    assert store.read(NAME) is None
    store.write(NAME, b"new")

    assert store.read(NAME) == b"new"


def test_by_default_it_lives_in_the_users_runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory, and gone when the user is."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    HostStore(None).write(NAME, b"content")

    assert (tmp_path / FOLDER_NAME.format(uid=os.geteuid()) / NAME).exists()


@pytest.mark.parametrize("runtime_folder", ["", "relative", "/proc/nonexistent", "/dev/null"])
def test_without_a_runtime_folder_it_lives_in_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime_folder: str
) -> None:
    """Services seldom have a runtime folder, or have inherited that of somebody else."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_folder)
    monkeypatch.setattr("ecr_secrets_backend.host_store._SHARED_MEMORY", str(tmp_path))
    HostStore(None).write(NAME, b"content")

    assert (tmp_path / FOLDER_NAME.format(uid=os.geteuid()) / NAME).exists()


def test_without_shared_memory_it_lives_in_the_temp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last resort, for a kernel or a container without ``/dev/shm``."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("ecr_secrets_backend.host_store._SHARED_MEMORY", "/proc/nonexistent")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    HostStore(None).write(NAME, b"content")

    assert (tmp_path / FOLDER_NAME.format(uid=os.geteuid()) / NAME).exists()


def test_it_tells_where_it_is_looked_for() -> None:
    """For whoever reads a complaint about it."""
    assert str(HostStore("/var/cache/tokens")) == "/var/cache/tokens"
    assert str(HostStore(None)) == "$XDG_RUNTIME_DIR, /dev/shm or the temp folder"


def test_a_link_is_not_followed(store: HostStore, folder: Path, tmp_path: Path) -> None:
    """Neither read nor written through; a write replaces it."""
    target = tmp_path / "target"
    target.write_bytes(b"theirs")
    (folder / NAME).symlink_to(target)

    with pytest.raises(OSError, match="symbolic links"):
        store.read(NAME)
    store.write(NAME, b"ours")
    assert store.read(NAME) == b"ours"
    assert target.read_bytes() == b"theirs"


def test_a_link_in_the_folders_place_is_refused(store: HostStore, folder: Path, tmp_path: Path) -> None:
    """Nothing is made behind it."""
    folder.rmdir()
    target = tmp_path / "target"
    target.mkdir()
    folder.symlink_to(target)

    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        store.write(NAME, b"content")
    assert not list(target.iterdir())


def test_a_file_in_the_folders_place_is_refused(store: HostStore, folder: Path) -> None:
    """And left as it was."""
    folder.rmdir()
    folder.touch(0o644)

    with pytest.raises(NotADirectoryError):
        store.read(NAME)
    assert mode_of(folder) == 0o644


def test_a_link_in_a_locks_place_is_replaced(store: HostStore, folder: Path, tmp_path: Path) -> None:
    """The turn is taken at a file of our own."""
    target = tmp_path / "target"
    (folder / f"{NAME}.lock").symlink_to(target)

    with store.turn(NAME) as is_ours:
        assert is_ours
    assert not target.exists()


def test_an_empty_folder_in_a_files_place_is_replaced(store: HostStore, folder: Path) -> None:
    """In an entry's, and in a lock's."""
    for name in (NAME, f"{NAME}.lock"):
        (folder / name).mkdir()
    with pytest.raises(UnsafeFileError, match="is not a file"):
        store.read(NAME)

    with store.turn(NAME) as is_ours:
        assert is_ours
    store.write(NAME, b"content")
    assert store.read(NAME) == b"content"


def test_a_write_that_fails_leaves_nothing_behind(store: HostStore, folder: Path) -> None:
    """Here because of what stands in the file's place; on a full disk as well."""
    (folder / NAME).mkdir()
    (folder / NAME / "content").touch()

    with pytest.raises(OSError, match="not empty"):
        store.write(NAME, b"content")
    assert [file.name for file in folder.iterdir()] == [NAME]


def test_a_write_that_fails_says_why(store: HostStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if there is nothing to tidy up any more, because another writer has done so."""

    def fail(temporary: str, _: str, *, src_dir_fd: int, **_options: Any) -> None:
        os.unlink(temporary, dir_fd=src_dir_fd)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        store.write(NAME, b"content")


def test_a_write_makes_a_file_of_its_own(
    store: HostStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never writes through what stands there, even if an attacker guesses the name, and just in time."""
    monkeypatch.setattr("secrets.token_hex", lambda: "guessed")
    monkeypatch.setattr("os.listdir", lambda _: [])
    target = tmp_path / "target"
    target.write_bytes(b"theirs")
    (folder / f"{NAME}.guessed.tmp").hardlink_to(target)

    with pytest.raises(FileExistsError):
        store.write(NAME, b"ours")
    assert target.read_bytes() == b"theirs"


def test_no_two_writes_share_a_temporary_file(store: HostStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one could move the other's into place half written."""
    temporaries: list[str] = []
    replace = os.replace

    def record(temporary: str, *arguments: Any, **options: Any) -> None:
        temporaries.append(temporary)
        replace(temporary, *arguments, **options)

    monkeypatch.setattr("os.replace", record)
    for _ in range(2):
        store.write(NAME, b"content")

    assert len(set(temporaries)) == 2


def test_a_socket_in_a_locks_place_is_replaced(store: HostStore, folder: Path) -> None:
    """It cannot be opened as a file at all."""
    lock = folder / f"{NAME}.lock"
    os.mknod(lock, stat.S_IFSOCK | 0o600)

    with store.turn(NAME) as is_ours:
        assert is_ours
    assert lock.is_file()


def test_what_stands_in_a_locks_place_may_be_removed_by_another(
    store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone, which is all that was wanted."""
    (folder / f"{NAME}.lock").touch(0o644)
    remove = os.unlink

    def late(*arguments: Any, **options: Any) -> None:
        remove(*arguments, **options)
        remove(*arguments, **options)

    monkeypatch.setattr("os.unlink", late)
    with store.turn(NAME) as is_ours:
        assert is_ours


def test_a_lock_that_cannot_be_opened_is_not_removed(
    store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may hold it; as when this process has no descriptors left."""
    lock = folder / f"{NAME}.lock"
    lock.touch(0o600)
    open_file = os.open

    def fail(path: str, *arguments: Any, **options: Any) -> int:
        if path == lock.name:
            raise OSError(errno.EMFILE, "Too many open files")
        return open_file(path, *arguments, **options)

    monkeypatch.setattr("os.open", fail)
    with pytest.raises(OSError, match="Too many"), store.turn(NAME):
        pass
    assert lock.exists()


@pytest.mark.parametrize("size", [20_000, LARGEST_FILE_BYTES])
def test_a_token_may_grow(store: HostStore, size: int) -> None:
    """AWS does not fix its size: several times today's fits, and the largest is read whole."""
    store.write(NAME, b"x" * size)

    assert store.read(NAME) == b"x" * size


def spoil_by_mode(mode: int) -> Callable[[Path], None]:
    return lambda file: file.chmod(mode)


def spoil_by_hard_link(file: Path) -> None:
    file.with_name("second").hardlink_to(file)


def spoil_by_size(file: Path) -> None:
    file.write_bytes(b"x" * (LARGEST_FILE_BYTES + 1))


def spoil_by_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        *((spoil_by_mode(0o600 | bit), "is open to other users") for bit in (0o40, 0o20, 0o10, 0o4, 0o2, 0o1)),
        (spoil_by_hard_link, "has a second name"),
        (spoil_by_size, "is too large"),
        (spoil_by_pipe, "is not a file"),
    ],
)
def test_an_unsafe_file_is_refused_and_can_be_replaced(
    store: HostStore, folder: Path, spoil: Callable[[Path], None], problem: str
) -> None:
    """Whatever another user may have written, or may read."""
    store.write(NAME, b"content")
    spoil(folder / NAME)

    with pytest.raises(UnsafeFileError) as caught:
        store.read(NAME)
    assert str(caught.value) == f"[Errno {errno.EPERM}] a file of the cache {problem}: '{NAME}'"
    store.write(NAME, b"ours")
    assert store.read(NAME) == b"ours"


@needs_root
def test_what_belongs_to_another_user_is_refused(store: HostStore, folder: Path) -> None:
    """A file, a lock or the folder."""
    store.write(NAME, b"forged")
    os.chown(folder / NAME, 12345, 12345)
    with pytest.raises(UnsafeFileError, match=rf"^\[Errno 1\] a file of the cache belongs to another user: '{NAME}'$"):
        store.read(NAME)

    lock = folder / f"{NAME}.lock"
    lock.touch(0o600)
    os.chown(lock, 12345, 12345)
    with store.turn(NAME) as is_ours:
        assert is_ours
    assert lock.stat().st_uid == 0

    os.chown(folder, 12345, 12345)
    for operation in (store.read, lambda name: store.write(name, b"content")):
        with pytest.raises(UnsafeFileError) as caught:
            operation(NAME)
        assert str(caught.value) == f"[Errno {errno.EPERM}] the cache's folder belongs to another user: '{folder}'"


@needs_root
@pytest.mark.parametrize("them", [1, 54321])
def test_every_user_but_ourselves_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, them: int) -> None:
    """Root is not special, and numbers are not compared by size."""
    us = 12345
    monkeypatch.setattr("os.geteuid", lambda: us)
    store, folder = HostStore(str(tmp_path)), tmp_path / FOLDER_NAME.format(uid=us)
    folder.mkdir()
    os.chown(folder, us, us)
    store.write(NAME, b"ours")
    os.chown(folder / NAME, us, us)
    assert store.read(NAME) == b"ours"

    for place in (folder / NAME, folder):
        os.chown(place, them, them)
        with pytest.raises(UnsafeFileError, match="another user"):
            store.read(NAME)


def test_a_leftover_may_be_gone_before_it_is_removed(store: HostStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer was quicker."""
    monkeypatch.setattr("os.listdir", lambda _: [f"{NAME}.0123.tmp"])
    store.write(NAME, b"content")

    assert store.read(NAME) == b"content"


def test_a_reader_never_sees_half_a_file(store: HostStore, folder: Path) -> None:
    """A file is replaced, not rewritten: who has the old one open goes on to read it."""
    store.write(NAME, b"old")
    with (folder / NAME).open("rb") as reader:
        store.write(NAME, b"new")
        assert reader.read() == b"old"


def test_a_file_that_is_replaced_while_it_is_read_is_read(
    store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that has opened the old one is content with it, though it has no name any more."""
    store.write(NAME, b"old")
    status_of = os.fstat

    def meanwhile_replaced(descriptor: int) -> os.stat_result:
        if stat.S_ISREG(status_of(descriptor).st_mode):
            (folder / NAME).unlink(missing_ok=True)
        return status_of(descriptor)

    monkeypatch.setattr("os.fstat", meanwhile_replaced)
    assert store.read(NAME) == b"old"


def test_writers_that_meet_do_no_harm(store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the two contents is there in the end, and neither writer fails."""
    replace = os.replace

    def after_another(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr("os.replace", replace)
        store.write(NAME, b"another")
        replace(*arguments, **options)

    monkeypatch.setattr("os.replace", after_another)
    store.write(NAME, b"one")
    assert [file.name for file in folder.iterdir()] == [NAME]
    assert store.read(NAME) in {b"one", b"another"}


def test_what_killed_writers_left_is_removed(store: HostStore, folder: Path) -> None:
    """By the next writer, and only what belongs to the same name and is no lock."""
    for name in (NAME, "other.json"):
        writer = os.fork()
        if writer == 0:
            os.replace = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
            store.write(name, b"content")
        os.waitpid(writer, 0)
    with store.turn(NAME):
        store.write(NAME, b"content")

    assert len(list(folder.glob("*.tmp"))) == len(list(folder.glob("other.json.*"))) == 1
    assert {file.name for file in folder.glob(f"{NAME}*")} == {NAME, f"{NAME}.lock"}


def test_one_at_a_time_has_the_turn(store: HostStore) -> None:
    """And it is free again afterwards."""
    with store.turn(NAME) as first, store.turn(NAME) as second, store.turn("other") as other:
        assert (first, second, other) == (True, False, True)
    with store.turn(NAME) as again:
        assert again


def test_the_turn_of_a_killed_process_is_free(store: HostStore) -> None:
    """The kernel sees to it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with store.turn(NAME):
            os.write(writing, b"mine")
            signal.pause()
    os.read(reading, 4)
    with store.turn(NAME) as before:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with store.turn(NAME) as after:
            assert (before, after) == (False, True)
    os.close(reading)
    os.close(writing)


def test_a_child_does_not_inherit_the_turn(store: HostStore) -> None:
    """Else a lock of a killed parent would be held for as long as its children live."""
    reading, writing = os.pipe()
    ready, go = os.pipe()
    parent = os.fork()
    if parent == 0:
        with store.turn(NAME):
            child = os.fork()
            if child == 0:
                os.write(go, b"here")
                os.read(reading, 1)
                os._exit(0)
            signal.pause()
    os.read(ready, 4)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    with store.turn(NAME) as is_ours:
        assert is_ours
    os.write(writing, b"x")
    for descriptor in (reading, writing, ready, go):
        os.close(descriptor)


def test_the_turn_ends_though_a_child_has_inherited_it(store: HostStore) -> None:
    """Where C code forks, as in some servers, Python closes nothing in the child; however the turn ends."""
    child: int = 0
    with suppress(ZeroDivisionError), store.turn(NAME):
        child = ctypes.PyDLL(None).fork()
        if child == 0:
            signal.pause()
        raise ZeroDivisionError
    try:
        with store.turn(NAME) as is_ours:
            assert is_ours
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_no_descriptor_is_left_open(store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Success or failure, each operation closes what it has opened."""
    before = open_descriptors()
    store.write(NAME, b"content")
    store.read(NAME)
    with store.turn(NAME), store.turn(NAME):
        pass
    with suppress(ZeroDivisionError), store.turn(NAME):
        raise ZeroDivisionError
    (folder / NAME).chmod(0o640)
    with pytest.raises(UnsafeFileError):
        store.read(NAME)
    folder.chmod(0o755)
    monkeypatch.setattr("os.fchmod", lambda *_: Path("/proc/nonexistent").stat())  # any OSError
    with pytest.raises(OSError, match="nonexistent"):
        store.read(NAME)

    assert open_descriptors() == before


def test_what_is_deleted_is_gone(store: HostStore) -> None:
    """It is told whether there was anything."""
    store.write(NAME, b"content")

    assert store.delete(NAME)
    assert store.read(NAME) is None
    assert not store.delete(NAME)


def test_a_survey_lists_what_is_there(store: HostStore, folder: Path) -> None:
    """Names, sizes, and why a file would be refused."""
    store.write(NAME, b"content")
    (folder / "open").touch(mode=0o644)
    (folder / "link").symlink_to(NAME)
    survey = store.survey()

    assert (survey.path, survey.mode, survey.refused) == (str(folder), 0o700, ())
    assert [(file.name, file.problem) for file in survey.files] == [
        (NAME, None),
        ("link", "is not a file"),
        ("open", "is open to other users"),
    ]
    assert survey.files[0].size == len(b"content")


def test_a_survey_changes_nothing(store: HostStore, tmp_path: Path) -> None:
    """It neither makes the folder nor closes one that is open."""
    assert store.survey().path is None
    assert list(tmp_path.iterdir()) == []
    store.read(NAME)
    (folder,) = tmp_path.iterdir()
    folder.chmod(0o755)

    assert store.survey().mode == 0o755
    assert mode_of(folder) == 0o755


def test_a_survey_tells_what_stands_in_the_folder_s_place(store: HostStore, tmp_path: Path) -> None:
    """And is not used."""
    (tmp_path / FOLDER_NAME.format(uid=os.geteuid())).symlink_to(tmp_path)
    survey = store.survey()

    assert survey.path is None
    assert len(survey.refused) == 1


@needs_root
def test_a_survey_tells_of_another_user_s_folder(store: HostStore, folder: Path) -> None:
    """Without looking into it."""
    os.chown(folder, 4321, 4321)

    assert store.survey().refused == (f"{folder}: belongs to user 4321",)
