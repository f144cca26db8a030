from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from ecr_secrets_backend.host_store import FOLDER_NAME, LARGEST_FILE_BYTES, HostStore, UnsafeFileError

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


def test_a_folder_that_was_opened_to_others_is_closed(store: HostStore, folder: Path) -> None:
    """By the next operation."""
    folder.chmod(0o777)
    store.read(NAME)

    assert mode_of(folder) == 0o700


def test_parents_of_the_configured_folder_are_made(tmp_path: Path) -> None:
    """A container's fresh volume is empty."""
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

    assert len(list(tmp_path.rglob(NAME))) == 1


@pytest.mark.parametrize("runtime_folder", ["", "relative", "/nonexistent", "/dev/null"])
def test_without_a_runtime_folder_it_lives_in_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime_folder: str
) -> None:
    """Services seldom have a runtime folder, or have inherited that of somebody else."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_folder)
    monkeypatch.setattr("ecr_secrets_backend.host_store._SHARED_PARENTS", (str(tmp_path),))
    HostStore(None).write(NAME, b"content")

    assert len(list(tmp_path.rglob(NAME))) == 1


def test_without_shared_memory_it_lives_in_the_temp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last resort, for a kernel or a container without ``/dev/shm``."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("ecr_secrets_backend.host_store._SHARED_PARENTS", ("/nonexistent",))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    HostStore(None).write(NAME, b"content")

    assert len(list(tmp_path.rglob(NAME))) == 1


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


def spoil_by_mode(file: Path) -> None:
    file.chmod(0o640)


def spoil_by_hard_link(file: Path) -> None:
    file.with_name("second").hardlink_to(file)


def spoil_by_size(file: Path) -> None:
    file.write_bytes(b"x" * (LARGEST_FILE_BYTES + 1))


def spoil_by_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


@pytest.mark.parametrize("spoil", [spoil_by_mode, spoil_by_hard_link, spoil_by_size, spoil_by_pipe])
def test_an_unsafe_file_is_refused_and_can_be_replaced(store: HostStore, folder: Path, spoil: object) -> None:
    """Whatever another user may have written, or may read."""
    store.write(NAME, b"content")
    assert callable(spoil)
    spoil(folder / NAME)

    with pytest.raises(UnsafeFileError):
        store.read(NAME)
    store.write(NAME, b"ours")
    assert store.read(NAME) == b"ours"


@needs_root
def test_what_belongs_to_another_user_is_refused(store: HostStore, folder: Path) -> None:
    """A file, a lock or the folder."""
    store.write(NAME, b"forged")
    os.chown(folder / NAME, 12345, 12345)
    with pytest.raises(UnsafeFileError, match="another user"):
        store.read(NAME)

    lock = folder / f"{NAME}.lock"
    lock.touch(0o600)
    os.chown(lock, 12345, 12345)
    with store.turn(NAME) as is_ours:
        assert is_ours
    assert lock.stat().st_uid == 0

    os.chown(folder, 12345, 12345)
    for operation in (store.read, lambda name: store.write(name, b"content")):
        with pytest.raises(UnsafeFileError, match="another user"):
            operation(NAME)


def test_a_reader_never_sees_half_a_file(store: HostStore, folder: Path) -> None:
    """A file is replaced, not rewritten: who has the old one open goes on to read it."""
    store.write(NAME, b"old")
    with (folder / NAME).open("rb") as reader:
        store.write(NAME, b"new")
        assert reader.read() == b"old"


def test_what_killed_writers_left_is_removed(store: HostStore, folder: Path) -> None:
    """By the next writer, and only what belongs to the same name."""
    (folder / f"{NAME}.0123.tmp").touch()
    (folder / "other.json.0123.tmp").touch()
    store.write(NAME, b"content")

    assert {file.name for file in folder.iterdir()} == {NAME, "other.json.0123.tmp"}


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


def test_no_descriptor_is_left_open(store: HostStore, folder: Path) -> None:
    """Success or refusal, each operation closes what it has opened."""

    def open_descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_descriptors()
    store.write(NAME, b"content")
    store.read(NAME)
    with store.turn(NAME), store.turn(NAME):
        pass
    spoil_by_mode(folder / NAME)
    with pytest.raises(UnsafeFileError):
        store.read(NAME)

    assert open_descriptors() == before
