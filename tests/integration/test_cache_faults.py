"""Faults of the host's cache: every lookup succeeds, logs the cause once, and repairs the cache if it can."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend import cache, host_store
from ecr_secrets_backend.host_store import HostStore
from tests.process_helpers import Host, Lookups, delete_for_ever, get_tokens_for, look_up
from tests.requirements import need_root, skip_or_fail
from tests.stand_ins.aws import Delay, Hang

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.process_helpers import Process, Processes
    from tests.stand_ins.aws import AwsStandIn

IS_ROOT = os.geteuid() == 0
#: Root may read and write whatever the modes say, so the lookups are those of somebody else.
USER = 54321 if IS_ROOT else None
OTHER_USER = 54322


pytestmark = pytest.mark.usefixtures("default_place")


@pytest.fixture
def host(aws: AwsStandIn, processes: Processes, shared_folder: Path) -> Host:
    return Host(aws, processes, shared_folder, USER)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(os.urandom(3000))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def write_another_shape(path: Path) -> None:
    path.write_text(json.dumps([json.loads(path.read_text())]))


def write_another_version(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))


def blow_up(path: Path) -> None:
    os.truncate(path, 50_000_000)


def blow_up_by_white_space(path: Path) -> None:
    path.write_bytes(path.read_bytes().ljust(50_000_000))  # as JSON it is as good as before


def forbid(path: Path) -> None:
    path.chmod(0)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_full_folder(path: Path) -> None:
    replace_by_folder(path)
    (path / "something").touch()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def replace_by_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def replace_by_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


NOT_A_FILE = [replace_by_folder, replace_by_pipe, replace_by_socket, replace_by_dangling_link]


@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        fill_with_garbage,
        empty,
        write_another_shape,
        write_another_version,
        blow_up,
        blow_up_by_white_space,
        forbid,
        *NOT_A_FILE,
    ],
)
def test_a_damaged_entry_costs_one_mint_and_one_warning(host: Host, damage: Callable[[Path], object]) -> None:
    """The process that meets it replaces it, and the next one is served from the cache."""
    host.look_up()
    host.processes.run(damage, host.entry, user=host.user)

    unlucky, next_one = host.look_up(times=3), host.look_up()

    assert host.token_requests == 2
    assert len(unlucky.warnings) == 1
    assert str(host.cache_dir) in unlucky.warnings[0]
    assert {*unlucky.tokens} == {*next_one.tokens}
    assert next_one.warnings == ()


@pytest.mark.parametrize("damage", [forbid, *NOT_A_FILE])
def test_a_damaged_lock_is_replaced(host: Host, damage: Callable[[Path], object]) -> None:
    """The process that meets it takes its turn at a new one; nobody need be told."""
    host.look_up()
    host.processes.run(damage, host.lock, user=host.user)
    host.entry.unlink()

    lookups = host.look_up()

    assert lookups.warnings == ()
    assert host.lock.is_file()
    assert not host.lock.is_symlink()


def test_a_folder_in_the_entrys_place_is_left_if_it_holds_something(host: Host) -> None:
    """It is not ours to delete: each process mints once, and gives each reason once."""
    host.look_up()
    host.processes.run(replace_by_full_folder, host.entry, user=host.user)

    for token_requests in (2, 3):
        warnings = host.look_up(times=3).warnings
        assert host.token_requests == token_requests
        assert 1 <= len(warnings) == len(set(warnings))
    assert (host.entry / "something").exists()
    assert not list(host.folder.glob("*.tmp"))


def test_a_folder_in_the_locks_place_is_left_if_it_holds_something(host: Host) -> None:
    """Turns are not taken then, but what one process has got serves the next."""
    host.look_up()
    host.processes.run(replace_by_full_folder, host.lock, user=host.user)
    host.entry.unlink()

    first, second = host.look_up(times=3), host.look_up()

    assert host.token_requests == 2
    assert len(first.warnings) == 1
    assert second.tokens[0] in first.tokens
    assert second.warnings == ()
    assert (host.lock / "something").exists()


def make_file(path: Path) -> Path:
    path.touch()
    return path


def make_path_below_file(path: Path) -> Path:
    return make_file(path) / "below"


def make_dangling_link(path: Path) -> Path:
    path.symlink_to("nowhere")
    return path


def make_forbidden_folder(path: Path) -> Path:
    path.mkdir(0)
    return path


def make_read_only_folder(path: Path) -> Path:
    path.mkdir(0o500)
    return path


def make_path_below_read_only_folder(path: Path) -> Path:
    return make_read_only_folder(path) / "below"


UNUSABLE = [
    make_file,
    make_path_below_file,
    make_dangling_link,
    make_forbidden_folder,
    make_read_only_folder,
    make_path_below_read_only_folder,
]


@pytest.mark.parametrize("make", UNUSABLE)
def test_a_cache_dir_that_cannot_be_used_is_replaced_by_a_default_place(
    aws: AwsStandIn, processes: Processes, shared_folder: Path, default_place: Path, make: Callable[[Path], Path]
) -> None:
    """All processes share a token there, and each logs one warning with the place, the cause and the fix."""
    cache_dir = processes.run(make, shared_folder / "cache", user=USER)
    host = Host(aws, processes, cache_dir, USER)

    first, second = host.look_up(times=3), host.look_up(times=3)

    assert host.token_requests == 1
    assert {*first.tokens} == {*second.tokens}
    for (warning,) in (first.warnings, second.warnings):
        assert warning.startswith(f"Cannot use cache_dir {cache_dir} for ECR tokens: ")
        assert f"uses {default_place / host.folder.name} instead. Make cache_dir with mode 1777" in warning


def look_up_without_default_place(kwargs: dict[str, Any], times: int) -> Lookups:
    host_store._SHARED_MEMORY = "/dev/null"  # type: ignore[misc]
    host_store._TEMP_FOLDERS = ()  # type: ignore[assignment, misc]
    return look_up(kwargs, times)


@pytest.mark.parametrize("make", UNUSABLE)
def test_without_any_place_each_process_requests_a_token_once(
    aws: AwsStandIn,
    processes: Processes,
    shared_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], Path],
) -> None:
    """It logs one warning, with the place that is configured."""
    for variable in ("XDG_RUNTIME_DIR", "TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(variable, "/dev/null")
    cache_dir = processes.run(make, shared_folder / "cache", user=USER)
    host = Host(aws, processes, cache_dir, USER)

    for token_requests in (1, 2):
        lookups = host.judge(processes.run(look_up_without_default_place, host.kwargs, 3, user=USER))
        (warning,) = lookups.warnings
        assert host.token_requests == token_requests
        assert str(cache_dir) in warning


def test_a_second_user_of_a_private_cache_dir_uses_a_default_place(
    host: Host, default_place: Path, shared_folder: Path
) -> None:
    """As with ``run_as_user``: the first user has made ``cache_dir``, and closed it to all others."""
    need_root()
    first = replace(host, cache_dir=shared_folder / "cache")
    second = replace(first, user=OTHER_USER)

    lookups = [user.look_up(times=3) for user in (first, second, second)]

    assert host.token_requests == 2
    assert [len(process.warnings) for process in lookups] == [0, 1, 1]
    assert lookups[1].tokens == lookups[2].tokens
    assert "Permission denied" in lookups[1].warnings[0]
    assert "Make cache_dir with mode 1777" in lookups[1].warnings[0]
    assert (default_place / second.folder.name / second.entry.name).stat().st_uid == OTHER_USER


def test_users_share_a_cache_dir_of_mode_1777(host: Host, default_place: Path, shared_folder: Path) -> None:
    """Each has a folder in it, as the warning above promises."""
    need_root()
    cache_dir = shared_folder / "cache"
    cache_dir.mkdir()
    cache_dir.chmod(0o1777)
    users = [replace(host, cache_dir=cache_dir, user=user) for user in (USER, OTHER_USER)]

    assert [user.look_up().warnings for user in users] == [(), ()]
    assert [user.entry.exists() for user in users] == [True, True]
    assert not list(default_place.iterdir())


@pytest.mark.parametrize("mode", [0o500, 0o400, 0o755, 0o777])
def test_the_folders_mode_is_put_right(host: Host, mode: int) -> None:
    """It is ours, so what it lacks it is given, and what it has too much is taken from it."""
    host.look_up()
    host.folder.chmod(mode)

    assert host.look_up().warnings == ()
    assert host.folder.stat().st_mode & 0o7777 == 0o700
    assert host.token_requests == 1


def test_a_folder_that_cannot_be_entered_is_replaced_by_a_default_place(host: Host, default_place: Path) -> None:
    """It cannot be opened, so it is left as it is."""
    host.look_up()
    host.folder.chmod(0)

    first, second = host.look_up(times=3), host.look_up()

    assert host.token_requests == 2
    assert {*first.tokens} == {*second.tokens}
    assert len(first.warnings) == len(second.warnings) == 1
    assert host.folder.stat().st_mode & 0o777 == 0
    assert (default_place / host.folder.name / host.entry.name).exists()


@pytest.mark.parametrize("variables", [{"HOME": None}, {"HOME": "/nonexistent"}, {"HOME": ""}])
def test_no_home_is_needed(host: Host, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str | None]) -> None:
    """Neither for the cache nor for the mint."""
    for name, value in variables.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)

    first, second = host.look_up(), host.look_up()

    assert first.tokens == second.tokens
    assert first.warnings == second.warnings == ()


@pytest.fixture
def mount(shared_folder: Path) -> Iterator[Callable[[str], Path]]:
    """Runs a command that mounts a file system where one process, a shell, sees it, and all who go through its root."""
    need_root()
    tried = subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.PIPE, text=True, check=False)
    if tried.returncode:
        skip_or_fail(f"no file system may be mounted here: {tried.stderr.strip()}")
    folder = shared_folder / "mounted"
    folder.mkdir()
    command = ["unshare", "--mount", "sh", "-e"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None

        def mount(command: str) -> Path:
            assert shell.stdin is not None
            assert shell.stdout is not None
            shell.stdin.write(f"{command} {folder}; echo done\n")
            shell.stdin.flush()
            assert shell.stdout.readline() == "done\n"
            return Path(f"/proc/{shell.pid}/root{folder}")

        yield mount

        shell.stdin.write(f"umount --lazy {folder}\n")  # which ends the process that serves it, if there is one


def mount_memory(mount: Callable[[str], Path], options: str) -> Path:
    return mount(f"mount -t tmpfs -o {options} tmpfs")


def test_a_full_disk_costs_one_mint_per_process(
    aws: AwsStandIn, processes: Processes, mount: Callable[[str], Path]
) -> None:
    """Nothing is left of what did not fit; when there is room again the cache works."""
    host = Host(aws, processes, mount_memory(mount, "size=8k"), None)
    filling = host.cache_dir / "filling"
    filling.write_bytes(b"x" * 8192)

    for token_requests in (1, 2):
        (warning,) = host.look_up(times=3).warnings
        assert "No space left" in warning
        assert host.token_requests == token_requests
        assert [path.suffix for path in host.folder.iterdir()] == [".lock"]

    filling.unlink()
    assert host.look_up().tokens == host.look_up().tokens
    assert host.token_requests == 3


def test_a_disk_without_room_for_another_file_costs_one_mint_per_process(
    aws: AwsStandIn, processes: Processes, mount: Callable[[str], Path]
) -> None:
    """Not even the lock can be made."""
    host = Host(aws, processes, mount_memory(mount, "nr_inodes=2"), None)

    for token_requests in (1, 2):
        assert len(host.look_up(times=3).warnings) == 1
        assert host.token_requests == token_requests


def test_a_read_only_file_system_serves_what_it_holds(
    aws: AwsStandIn, processes: Processes, mount: Callable[[str], Path]
) -> None:
    """While the token is fresh all is well; after that each process mints once, and says so once."""
    aws.set(token_lifetime=6)
    host = Host(aws, processes, mount_memory(mount, "size=64k"), None)
    first = host.look_up()
    renewal_is_due_at = aws.calls()[0].time + 3
    mount_memory(mount, "remount,ro")

    second = host.look_up()
    assert time.time() < renewal_is_due_at, "this machine is too slow for the test"
    assert (second.tokens, second.warnings) == (first.tokens, ())

    time.sleep(renewal_is_due_at - time.time())
    aws.set(token_lifetime=3600)
    for token_requests in (2, 3):
        (warning,) = host.look_up(times=3).warnings
        assert "Read-only file system" in warning
        assert host.token_requests == token_requests


@pytest.mark.parametrize("permissions", ["0777", "0700:gof+r"])
def test_no_token_is_written_where_permissions_are_ignored(
    aws: AwsStandIn,
    processes: Processes,
    mount: Callable[[str], Path],
    tmp_path: Path,
    default_place: Path,
    permissions: str,
) -> None:
    """As on SMB, gcsfuse, s3fs and drvfs; also if only files are open to all users. A default place is used instead."""
    if not (shutil.which("bindfs") and os.access("/dev/fuse", os.R_OK | os.W_OK)):
        skip_or_fail("a file system that ignores permissions takes bindfs and /dev/fuse")
    cache_dir = mount(f"bindfs --chmod-ignore --perms={permissions} -o allow_other {tmp_path}")
    host = Host(aws, processes, cache_dir, None)

    first, second = host.look_up(times=3), host.look_up(times=3)

    assert host.token_requests == 1
    assert {*first.tokens} == {*second.tokens}
    for (warning,) in (first.warnings, second.warnings):
        assert "the file system ignores permissions. This process uses" in warning
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert (default_place / host.folder.name / host.entry.name).stat().st_mode & 0o777 == 0o600


def test_the_folder_may_be_deleted_between_lookups(host: Host) -> None:
    """By whoever cleans up: the next process makes it anew, and nobody need be told."""
    host.look_up()
    shutil.rmtree(host.folder)

    first, second = host.look_up(times=3), host.look_up()

    assert host.token_requests == 2
    assert {*first.tokens} == {*second.tokens}
    assert first.warnings == second.warnings == ()


def test_the_folder_may_be_deleted_during_a_mint(host: Host) -> None:
    """What was minted is there for the next process."""
    host.aws.script(Delay(0.5))
    with host.processes.start(look_up, host.kwargs, user=host.user) as requesting:
        wait_for_call(host.aws)
        shutil.rmtree(host.folder)
        first = host.judge(requesting.result())

    assert host.look_up().tokens == first.tokens
    assert host.token_requests == 1
    assert first.warnings == ()


def test_the_folder_may_be_deleted_at_any_moment(host: Host) -> None:
    """No lookup fails, though it meets the deletion in the midst of whatever it does."""
    with ExitStack() as stack:
        stack.enter_context(host.processes.start(delete_for_ever, host.folder, user=host.user))
        arguments = (1.5, host.identity, host.cache_dir, "ours")
        working = [
            stack.enter_context(host.processes.start(get_tokens_for, *arguments, user=host.user)) for _ in range(3)
        ]

        assert [process.result() for process in working] == [{"ours"}] * 3


def read(store: HostStore) -> None:
    store.read("entry.json")


def write(store: HostStore) -> None:
    store.write("entry.json", b"content", time.time() + 60)


def work_for(seconds: float, cache_dir: Path, operation: Callable[[HostStore], None]) -> int:
    """Do something with the store again and again, and tell how often it was done."""
    store = HostStore(str(cache_dir))
    rounds = 0
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        operation(store)
        rounds += 1
    return rounds


def test_an_entry_may_be_replaced_at_any_moment(host: Host) -> None:
    """Two who write at once, as they do where no lock works, disturb neither each other nor who reads."""
    with ExitStack() as stack:
        working = [
            stack.enter_context(host.processes.start(work_for, 1.0, host.cache_dir, operation, user=host.user))
            for operation in (read, write, write)
        ]

        assert all(process.result() for process in working)


def wait_for_call(aws: AwsStandIn) -> None:
    while not aws.calls():
        time.sleep(0.01)


def look_up_impatiently(kwargs: dict[str, Any], times: int) -> Lookups:
    """Look up without waiting for a holder of the lock as long as one does."""
    cache.LOCK_TIMEOUT_SECONDS = 0.5  # type: ignore[misc]
    return look_up(kwargs, times)


@pytest.fixture
def requesting(host: Host) -> Iterator[Process]:
    """A process that has the turn, and waits for AWS's answer."""
    host.aws.script(Hang(10, times=1))
    with host.processes.start(look_up, host.kwargs, user=host.user) as process:
        wait_for_call(host.aws)
        yield process


def test_a_holder_of_the_lock_that_was_stopped_is_not_waited_for_without_end(host: Host, requesting: Process) -> None:
    """After a bounded wait another process replaces its lock, and the next ones are served what that received."""
    requesting.signal(signal.SIGSTOP)

    impatient = host.judge(host.processes.run(look_up_impatiently, host.kwargs, 3, user=host.user))
    next_one = host.look_up()

    assert host.token_requests == 2
    assert 0.5 <= impatient.seconds < 5
    assert {*impatient.tokens} == {*next_one.tokens}
    assert impatient.warnings == next_one.warnings == ()


def test_a_holder_of_the_lock_that_was_killed_is_not_waited_for(host: Host, requesting: Process) -> None:
    """Its turn passes to one that waits, at once; nobody need be told."""
    with host.processes.start(look_up, host.kwargs, user=host.user) as waiting:
        time.sleep(0.5)  # time enough for it to wait; if it does not yet, nothing is lost
        assert host.token_requests == 1
        requesting.signal(signal.SIGKILL)
        killed_at = time.monotonic()
        lookups = host.judge(waiting.result())

    assert time.monotonic() - killed_at < 3
    assert host.token_requests == 2
    assert lookups.warnings == ()
    assert host.look_up().tokens == lookups.tokens
