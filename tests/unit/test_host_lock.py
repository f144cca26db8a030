from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import os
import shutil
import signal
import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.private_files import PrivateFolder
from tests.requirements import need_root
from tests.unit.folders import KEY, LOCK, NAME, cache_descriptors, hold, mode_of, names_in, replace_by, write
from tests.unit.interruptions import interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ecr_secrets_backend.host_lock import HostLock
    from ecr_secrets_backend.host_store import HostStore

FORK = get_context("fork")


def is_any(_: str) -> bool:
    """Take each holder for a stuck one."""
    return True


def is_free(store: HostStore, key: str = KEY) -> bool:
    """Return whether the lock can be taken, and release it again."""
    lock = store.take_lock(key)
    if lock is not None:
        lock.release()
    return lock is not None


@contextmanager
def child(work: Callable[[], object], fork: Callable[[], int] = os.fork) -> Iterator[int]:
    """Fork a process that works and then waits until it is killed. The block starts when the work is done."""
    done, report = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            kept = work()
            os.write(report, b"!")
            signal.pause()
            del kept
        finally:
            os._exit(1)
    try:
        os.close(report)
        assert os.read(done, 1) == b"!"
        yield pid
    finally:
        os.close(done)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def c_fork() -> int:
    """Fork as the C code of some servers does: Python runs none of its handlers in the child."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(3600)  # a child would wait for a thread that requested the GIL before the fork
    time.sleep(2 * interval)  # until the earlier requests are served
    try:
        pid: int = ctypes.PyDLL(None).fork()
    finally:
        sys.setswitchinterval(interval)
    return pid


def test_one_process_at_a_time_holds_a_lock(store: HostStore) -> None:
    with child(lambda: store.take_lock(KEY)), hold(store, "other"):
        assert not is_free(store)

    assert is_free(store)


def test_threads_that_release_a_lock_at_once_release_no_other(store: HostStore) -> None:
    """Locks that are taken at the same time stay locked, also if one has the descriptor of the first by then."""
    barrier = threading.Barrier(4)

    def release(lock: HostLock) -> None:
        barrier.wait()
        lock.release()

    with ThreadPoolExecutor(barrier.parties) as threads:
        for number in range(50):
            lock = hold(store)
            released = threads.map(release, [lock] * barrier.parties)
            with hold(store, f"other {number}"):
                list(released)
                lock.release()
                assert not is_free(store, f"other {number}")


@pytest.mark.parametrize("release", [lambda locks: locks[0].release(), list.clear], ids=["released", "deleted"])
def test_a_lock_that_is_released_or_deleted_is_free_although_a_child_shares_it(
    store: HostStore, release: Callable[[list[HostLock]], None]
) -> None:
    """An exception may delete it before its caller stores it."""
    locks = [hold(store)]
    with child(lambda: None, c_fork):
        release(locks)
        gc.collect()

        assert is_free(store)


@pytest.mark.parametrize("fork", [os.fork, c_fork])
def test_a_child_cannot_release_the_lock_of_its_parent(store: HostStore, fork: Callable[[], int]) -> None:
    with hold(store) as lock, child(lock.release, fork):
        assert not is_free(store)


def test_a_child_does_not_inherit_a_lock(store: HostStore) -> None:
    """Otherwise the lock of a killed parent is held while its children run."""

    def check() -> None:
        assert cache_descriptors() == []

    with hold(store), child(check):
        assert len(cache_descriptors()) == 1


def test_each_holder_writes_its_own_id(store: HostStore, folder: Path) -> None:
    """A waiting process recognizes the same holder by it."""
    holders = []
    for _ in range(2):
        with hold(store):
            holders.append((folder / LOCK).read_text())

    assert [len(holder) for holder in holders] == [32, 32]
    assert holders[0] != holders[1]


def test_the_lock_of_a_holder_that_has_not_written_its_id_is_not_replaced(store: HostStore, folder: Path) -> None:
    (folder / LOCK).touch(0o600)
    with (folder / LOCK).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert store.take_lock(KEY, is_any) is None

    assert is_free(store)


def remove_and_find_locked(path: Path) -> None:
    path.unlink()
    raise BlockingIOError


@pytest.mark.parametrize("change", [Path.unlink, replace_by(partial(Path.touch, mode=0o600)), remove_and_find_locked])
def test_a_lock_file_that_is_removed_or_replaced_meanwhile_is_not_taken(
    store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    """Otherwise two processes hold a lock each. A process removes expired entries with their locks."""
    lock_file = fcntl.flock

    def lock_late(*arguments: Any) -> None:
        monkeypatch.setattr("fcntl.flock", lock_file)
        change(folder / LOCK)
        lock_file(*arguments)

    monkeypatch.setattr("fcntl.flock", lock_late)

    assert store.take_lock(KEY, is_any) is None
    assert is_free(store)


def test_the_lock_of_a_stopped_process_can_be_replaced(store: HostStore, folder: Path) -> None:
    """When the process continues, it neither holds nor releases the new lock."""
    with child(lambda: store.take_lock(KEY)) as stopped:
        os.kill(stopped, signal.SIGSTOP)
        holder = (folder / LOCK).read_text()
        assert store.take_lock(KEY, lambda found: found != holder) is None
        lock = store.take_lock(KEY, lambda found: found == holder)
        assert lock is not None
        os.kill(stopped, signal.SIGCONT)

    assert (folder / LOCK).read_text() != holder
    assert not is_free(store)
    lock.release()
    assert is_free(store)


@pytest.mark.parametrize("is_taken_again", [True, False])
def test_a_lock_that_its_holder_releases_meanwhile_is_taken_and_not_replaced(
    store: HostStore, is_taken_again: bool
) -> None:
    """If another process takes it first, it keeps it."""
    locks: list[HostLock | None] = [hold(store)]

    def release(_: str) -> bool:
        del locks[0]
        if is_taken_again:
            locks.append(hold(store))
        return True

    locks.append(store.take_lock(KEY, release))

    assert (locks[-1] is None) is is_taken_again
    assert not is_free(store)


def test_a_lock_that_another_process_replaces_is_not_replaced(store: HostStore) -> None:
    with hold(store), hold(store, f"{KEY}.replacing"):
        assert store.take_lock(KEY, is_any) is None
        assert not is_free(store)


def test_of_many_processes_exactly_one_replaces_a_lock(store: HostStore, folder: Path) -> None:
    def compete(holder: str, start: Any, results: Any) -> None:
        start.wait()
        lock = store.take_lock(KEY, lambda found: found == holder)
        results.put(lock is not None)
        signal.pause()
        del lock

    for _ in range(5):
        with child(lambda: store.take_lock(KEY)):
            holder = (folder / LOCK).read_text()
            start, results = FORK.Barrier(12), FORK.SimpleQueue()
            processes = [FORK.Process(target=compete, args=(holder, start, results)) for _ in range(12)]
            for process in processes:
                process.start()
            assert sum(results.get() for _ in processes) == 1
            assert (folder / LOCK).read_text() != holder
            for process in processes:
                process.kill()
                process.join()


def make_theirs(path: Path) -> None:
    need_root()
    path.touch(0o600)
    os.chown(path, 12345, 12345)


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("x"), Path.mkdir, os.mkfifo, Path.touch, make_theirs])
def test_anything_else_with_the_name_of_a_lock_file_is_replaced(
    store: HostStore, folder: Path, make: Callable[[Path], None]
) -> None:
    """A link is not followed, and a file that belongs to or is open to other users is not used."""
    make(folder / LOCK)

    with hold(store):
        assert stat.S_ISREG((folder / LOCK).lstat().st_mode)
        assert (mode_of(folder / LOCK), (folder / LOCK).stat().st_uid) == (0o600, os.geteuid())
    assert names_in(folder) == [LOCK]


@pytest.mark.parametrize("is_made", [False, True])
def test_an_unsafe_lock_file_may_be_replaced_by_another_process(
    store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch, is_made: bool
) -> None:
    """If that process has made a new file, it keeps it."""
    (folder / LOCK).touch(0o644)
    remove = PrivateFolder.remove

    def remove_late(private_folder: PrivateFolder, name: str) -> bool:
        remove(private_folder, name)
        if is_made:
            (folder / LOCK).touch(0o600)
            return True
        return remove(private_folder, name)

    monkeypatch.setattr(PrivateFolder, "remove", remove_late)

    assert is_free(store) is not is_made
    assert names_in(folder) == [LOCK]


@pytest.mark.parametrize(
    ("function", "code"),
    [
        ("fcntl.flock", errno.ENOLCK),
        ("os.pwrite", errno.ENOSPC),
        ("ecr_secrets_backend.private_files.PrivateFolder.open_file", errno.EMFILE),
    ],
)
def test_a_lock_that_fails_is_not_held_and_not_removed(
    store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    """The cause is raised, for example on a file system that has no locks. Another process may hold the lock."""
    hold(store).release()

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(function, fail)
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            store.take_lock(KEY)
    assert caught.value.errno == code
    assert cache_descriptors() == []
    assert names_in(folder) == [LOCK]
    assert is_free(store)


def test_an_interruption_at_any_line_leaks_no_descriptor_and_no_lock(store: HostStore, folder: Path) -> None:
    gc.freeze()  # so that the collections below are quick

    def use_everything() -> None:
        write(store, b"content")
        store.read(NAME)
        store.write("expired.json", b"content", 0)
        store.remove_expired()
        with hold(store):
            store.take_lock(KEY, is_any)

    for line in range(1000):
        is_interrupted = interrupt(use_everything, line)
        gc.collect()
        assert cache_descriptors() == []
        assert is_free(store)
        shutil.rmtree(folder)  # with the temporary files, which add lines to the next round
        if not is_interrupted:
            break

    gc.unfreeze()
    assert 200 < line < 999
