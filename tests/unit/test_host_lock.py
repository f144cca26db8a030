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
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend import host_lock, host_store, private_files
from ecr_secrets_backend.private_files import PrivateFolder, UnsafeFileError
from tests.unit.descriptors import cache_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.synchronize import Barrier, Event
    from types import FrameType

    from ecr_secrets_backend.host_store import HostStore

NAME = "entry"
LOCK = f"{NAME}.lock"
TRACED_FILES = {host_lock.__file__, host_store.__file__, private_files.__file__}


def is_any(_: str) -> bool:
    """Take each holder for a stuck one."""
    return True


def hold(store: HostStore, name: str = NAME) -> host_lock.HostLock:
    lock = store.take_lock(name)
    assert lock is not None
    return lock


def is_free(store: HostStore, name: str = NAME) -> bool:
    """Return whether the lock can be taken, and release it again."""
    lock = store.take_lock(name)
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
    pid: int = ctypes.PyDLL(None).fork()
    return pid


def test_one_process_at_a_time_holds_a_lock(store: HostStore) -> None:
    with hold(store), hold(store, "other"):
        assert not is_free(store)

    assert is_free(store)


def test_a_lock_may_be_released_twice_and_by_any_thread(store: HostStore) -> None:
    """The second release does nothing, even if another lock has the descriptor of the first one by then."""
    lock = hold(store)
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    with hold(store):
        lock.release()
        assert not is_free(store)


def test_threads_that_release_at_once_release_only_their_lock(store: HostStore) -> None:
    """Locks that are taken at the same time stay locked."""
    barrier = threading.Barrier(4)
    for number in range(50):
        lock = hold(store)

        def release(lock: host_lock.HostLock = lock) -> None:
            barrier.wait()
            lock.release()

        threads = [threading.Thread(target=release) for _ in range(barrier.parties)]
        for thread in threads:
            thread.start()
        with hold(store, f"other {number}"):
            for thread in threads:
                thread.join()
            assert not is_free(store, f"other {number}")


@pytest.mark.parametrize("release", [lambda locks: locks[0].release(), list.clear], ids=["released", "deleted"])
def test_a_lock_that_is_released_or_deleted_is_free_although_a_child_shares_it(
    store: HostStore, release: Callable[[list[host_lock.HostLock]], None]
) -> None:
    """An exception may delete it before its caller stores it."""
    locks = [hold(store)]
    with child(lambda: None, c_fork):
        release(locks)
        gc.collect()

        assert is_free(store)


def test_the_lock_of_a_killed_process_is_free(store: HostStore) -> None:
    with child(lambda: store.take_lock(NAME)):
        assert not is_free(store)

    assert is_free(store)


def test_a_child_does_not_inherit_a_lock(store: HostStore) -> None:
    """Otherwise the lock of a killed parent is held while its children run."""
    started, report_start = os.pipe()
    end, report_end = os.pipe()

    def fork_with_lock() -> object:
        lock = store.take_lock(NAME)
        if os.fork() == 0:
            os.write(report_start, b"!")
            os.read(end, 1)
            os._exit(0)
        os.read(started, 1)
        return lock

    try:
        with child(fork_with_lock):
            assert not is_free(store)

        assert is_free(store)
    finally:
        os.write(report_end, b"!")
        for descriptor in (started, report_start, end, report_end):
            os.close(descriptor)


@pytest.mark.parametrize("fork", [os.fork, c_fork])
def test_a_child_cannot_release_the_lock_of_its_parent(store: HostStore, fork: Callable[[], int]) -> None:
    with hold(store) as lock, child(lock.release, fork):
        assert not is_free(store)


def test_each_holder_writes_its_own_id(store: HostStore, folder: Path) -> None:
    """A waiting process recognizes the same holder by it."""
    holders: list[str] = []
    for _ in range(2):
        with hold(store):
            for _ in range(2):
                assert store.take_lock(NAME, holders.append) is None  # type: ignore[arg-type]
            assert (folder / LOCK).read_text() == holders[-1]

    assert [len(holder) for holder in holders] == [32] * 4
    assert len({*holders}) == 2
    assert holders[0] == holders[1]


def test_the_lock_of_a_holder_that_has_not_written_its_id_is_not_replaced(store: HostStore, folder: Path) -> None:
    (folder / LOCK).touch(0o600)
    with (folder / LOCK).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert store.take_lock(NAME, is_any) is None

    assert is_free(store)


def find_locked(change: Callable[[Path], object], path: Path) -> Callable[..., None]:
    """Return a flock that finds the file locked, after another process or user changes it."""

    def flock(_: object, operation: int) -> None:
        if operation & fcntl.LOCK_EX:
            change(path)
            raise BlockingIOError

    return flock


def test_the_holder_of_an_unsafe_lock_file_is_not_read(
    store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user may have written it."""
    monkeypatch.setattr("fcntl.flock", find_locked(lambda path: path.chmod(0o644), folder / LOCK))
    with pytest.raises(UnsafeFileError, match="is open to other users"):
        store.take_lock(NAME, is_any)


def test_a_lock_that_is_removed_while_it_is_found_locked_is_not_taken(
    store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder has just removed an expired entry with its lock."""
    monkeypatch.setattr("fcntl.flock", find_locked(Path.unlink, folder / LOCK))

    assert store.take_lock(NAME, is_any) is None


def test_the_lock_of_a_stopped_process_can_be_replaced(store: HostStore, folder: Path) -> None:
    """When the process continues, it neither holds nor releases the new lock."""
    with child(lambda: store.take_lock(NAME)) as stopped:
        os.kill(stopped, signal.SIGSTOP)
        holder = (folder / LOCK).read_text()
        assert store.take_lock(NAME, lambda found: found != holder) is None
        lock = store.take_lock(NAME, lambda found: found == holder)
        assert lock is not None
        os.kill(stopped, signal.SIGCONT)

    assert (folder / LOCK).read_text() != holder
    assert not is_free(store)
    lock.release()
    assert is_free(store)


@pytest.mark.parametrize("is_taken_again", [True, False])
def test_a_lock_that_its_holder_releases_meanwhile_is_taken_and_not_replaced(
    store: HostStore, folder: Path, is_taken_again: bool
) -> None:
    """If another process takes it first, it keeps it."""
    locks = [hold(store)]

    def release(_: str) -> bool:
        locks.pop().release()
        if is_taken_again:
            locks.append(hold(store))
        return True

    lock = store.take_lock(NAME, release)
    assert (lock is None) is is_taken_again
    assert not is_free(store)
    assert not list(folder.glob("*.tmp"))
    for held in (*locks, lock):
        if held is not None:
            held.release()


def test_a_lock_that_another_process_replaces_is_not_replaced(store: HostStore, folder: Path) -> None:
    with hold(store), hold(store, f"{NAME}.replacing"):
        assert store.take_lock(NAME, is_any) is None
        assert not is_free(store)

    assert not list(folder.glob("*.tmp"))


def compete(store: HostStore, holder: str, start: Barrier, end: Event, results: Any) -> None:
    start.wait()
    lock = store.take_lock(NAME, lambda found: found == holder)
    results.put(lock is not None)
    end.wait(30)


def test_of_many_processes_exactly_one_replaces_a_lock(store: HostStore, folder: Path) -> None:
    fork = get_context("fork")
    for _ in range(5):
        with child(lambda: store.take_lock(NAME)):
            holder = (folder / LOCK).read_text()
            start, end, results = fork.Barrier(12), fork.Event(), fork.Queue()
            processes = [fork.Process(target=compete, args=(store, holder, start, end, results)) for _ in range(12)]
            for process in processes:
                process.start()
            assert sum(results.get(timeout=30) for _ in processes) == 1
            assert (folder / LOCK).read_text() != holder
            end.set()
            for process in processes:
                process.join()
            results.close()
            results.join_thread()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_lock_file_that_is_removed_or_replaced_before_it_is_locked_is_not_taken(
    store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch, is_replaced: bool
) -> None:
    """Otherwise two processes hold a lock each."""
    lock_file = fcntl.flock

    def lock_late(file: Any, operation: int) -> None:
        if operation & fcntl.LOCK_EX:
            (folder / LOCK).unlink()
            if is_replaced:
                (folder / LOCK).touch(0o600)
        lock_file(file, operation)

    monkeypatch.setattr("fcntl.flock", lock_late)
    assert store.take_lock(NAME) is None

    monkeypatch.undo()
    assert is_free(store)


def test_processes_that_create_a_lock_file_at_once_use_the_same(
    store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that creates it after another one does not replace the file of the other one."""
    (folder / LOCK).touch(0o644)
    make = PrivateFolder.make_file
    held = []

    def make_late(*arguments: Any) -> object:
        monkeypatch.setattr(PrivateFolder, "make_file", make)
        held.append(store.take_lock(NAME))
        return make(*arguments)

    monkeypatch.setattr(PrivateFolder, "make_file", make_late)
    assert store.take_lock(NAME) is None
    assert held[0] is not None
    assert [file.name for file in folder.iterdir()] == [LOCK]


def make_link(path: Path) -> None:
    path.symlink_to(path.with_name("target"))


def make_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


@pytest.mark.parametrize("make", [make_link, make_socket, Path.mkdir, os.mkfifo, Path.touch])
def test_anything_else_with_the_name_of_a_lock_file_is_replaced(
    store: HostStore, folder: Path, make: Callable[[Path], None]
) -> None:
    """A link is not followed, and a file that is open to other users is not used."""
    make(folder / LOCK)

    with hold(store):
        assert stat.S_IMODE((folder / LOCK).lstat().st_mode) == 0o600
    assert [file.name for file in folder.iterdir()] == [LOCK]


def test_an_unsafe_lock_file_may_be_removed_by_another_process(
    store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / LOCK).touch(0o644)
    remove = os.unlink

    def remove_late(*arguments: Any, **options: Any) -> None:
        remove(*arguments, **options)
        remove(*arguments, **options)

    monkeypatch.setattr("os.unlink", remove_late)
    assert is_free(store)


def test_a_lock_file_that_cannot_be_opened_is_not_removed(
    store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example because this process has no descriptors left. Another process may hold the lock."""
    (folder / LOCK).touch(0o600)
    open_file = os.open

    def fail(path: str, flags: int, *arguments: Any, **options: Any) -> int:
        if path == LOCK:
            raise OSError(errno.EMFILE, "Too many open files")
        return open_file(path, flags, *arguments, **options)

    monkeypatch.setattr("os.open", fail)
    with pytest.raises(OSError, match="Too many"):
        store.take_lock(NAME)
    assert (folder / LOCK).exists()


@pytest.mark.parametrize(
    ("function", "code"),
    [("fcntl.flock", errno.ENOLCK), ("os.pwrite", errno.ENOSPC), ("os.pwrite", errno.EROFS)],
)
def test_a_lock_that_fails_is_not_held(
    store: HostStore, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    """The cause is raised, for example on a file system that has no locks, is full or is read-only."""

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(function, fail)
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            store.take_lock(NAME)
    assert caught.value.errno == code
    assert cache_descriptors() == []
    assert is_free(store)


class Interruption(BaseException):
    """What Airflow's task timeout raises, from a signal handler."""


class Interrupter:
    """Interrupts a call at a line of the store's modules.

    The call runs in a new thread, because Python may attach the exception of an interrupted ``except`` block to all
    later exceptions of its thread.
    """

    def __init__(self, line: int) -> None:
        self.lines_left = line
        self.is_due = True

    def __call__(self, call: Callable[[], object]) -> None:
        thread = threading.Thread(target=self._run, args=(call,))
        thread.start()
        thread.join()

    def _run(self, call: Callable[[], object]) -> None:
        sys.settrace(self._trace)
        try:
            with suppress(Interruption):
                call()
        finally:
            sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in TRACED_FILES or not self.is_due:
            return None
        if event == "line":
            self.lines_left -= 1
            if self.lines_left == 0:
                self.is_due = False
                raise Interruption
        return self._trace


@pytest.fixture
def quick_collections() -> Iterator[None]:
    """Exclude existing objects, such as all of Airflow's, from garbage collections."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def use_everything(store: HostStore) -> None:
    store.write(f"{NAME}.json", b"content", time.time() + 60)
    store.read(f"{NAME}.json")
    store.write("expired.json", b"content", 0)
    store.remove_expired()
    with hold(store):
        new = store.take_lock(NAME, is_any)
        assert new is not None
        new.release()


@pytest.mark.usefixtures("quick_collections")
def test_an_exception_between_any_two_lines_leaks_no_descriptor_and_no_lock(
    store: HostStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's task timeout may raise one."""
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)  # Python ignores one in __del__
    use_everything(store)
    line = 0
    while True:
        line += 1
        interrupter = Interrupter(line)
        interrupter(lambda: use_everything(store))
        gc.collect()
        assert cache_descriptors() == [], f"line {line}"
        assert is_free(store), f"line {line}"
        shutil.rmtree(folder)  # with the temporary files, which add lines to the next round
        if interrupter.is_due:
            break

    assert line > 200


def interrupt_often(store: HostStore) -> tuple[int, int, bool]:
    """Use the store while a signal handler interrupts it.

    :return: how often it was interrupted, how many descriptors are still open, and whether the lock is free
    """

    def interrupt(*_: object) -> None:
        raise Interruption

    signal.signal(signal.SIGALRM, interrupt)
    sys.unraisablehook = lambda _: None
    interruptions = 0
    for number in range(3_000):
        with suppress(Interruption):
            signal.setitimer(signal.ITIMER_REAL, 1e-6 + number % 300 * 1e-6)
            interruptions += 1
            write_read_and_lock(store)
            signal.setitimer(signal.ITIMER_REAL, 0)
            interruptions -= 1
        signal.setitimer(signal.ITIMER_REAL, 0)
    gc.collect()
    return interruptions, len(cache_descriptors()), is_free(store)


def write_read_and_lock(store: HostStore) -> None:
    store.write(f"{NAME}.json", b"content", time.time() + 60)
    store.read(f"{NAME}.json")
    hold(store).release()


def test_a_signal_handler_that_raises_leaks_no_descriptor_and_no_lock(store: HostStore) -> None:
    """Most signals arrive within a line that opens a file."""
    fork = get_context("fork")
    results = fork.SimpleQueue()
    process = fork.Process(target=lambda: results.put(interrupt_often(store)))
    process.start()
    interruptions, leaks, is_lock_free = results.get()
    process.join()

    assert interruptions > 1_000
    assert (leaks, is_lock_free) == (0, True)
