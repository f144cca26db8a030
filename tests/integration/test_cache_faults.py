"""Faults of the host's cache: each lookup succeeds, logs the cause once, and repairs the cache if it can."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.process_helpers import Host, check, delete_for_ever, get_tokens, unshare_mounts
from tests.requirements import need_mounts, need_root
from tests.stand_ins.aws import Hang
from tests.unit.folders import replace_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn

#: Modes do not restrict root, so other users look up.
USER = 54321 if os.geteuid() == 0 else None
OTHER_USER = 54322

pytestmark = pytest.mark.usefixtures("default_place")


@pytest.fixture
def host(aws: AwsStandIn, processes: Processes, shared_folder: Path) -> Host:
    return Host(aws, processes, shared_folder, USER)


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "forbidden": lambda path: path.chmod(0),
    "folder": replace_by(Path.mkdir),
    "socket": replace_by(bind_socket),
    "pipe": replace_by(lambda path: os.mkfifo(path, 0o600)),
    "dangling link": replace_by(lambda path: path.symlink_to("nowhere")),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "another version": lambda path: path.write_bytes(path.read_bytes().replace(b'"format": ', b'"format": 1')),
    "too large": lambda path: path.write_bytes(path.read_bytes().ljust(50_000_000)),
    "full folder": replace_by(lambda path: (path / "something").mkdir(parents=True)),
}


def damage(path: Path, how: str) -> None:
    DAMAGES[how](path)


@pytest.mark.parametrize("how", [how for how in DAMAGES if how != "full folder"])
def test_a_damaged_entry_costs_one_request_and_one_warning(host: Host, how: str) -> None:
    """The first process that reads it replaces it, and the next one is served from the cache."""
    host.look_up()
    host.processes.run(damage, host.entry, how, user=host.user)

    first, second = host.look_up(times=3), host.look_up()

    assert host.token_requests == 2
    (warning,) = first.warnings
    assert str(host.cache_dir) in warning
    assert {*first.tokens} == {*second.tokens}
    assert second.warnings == []


@pytest.mark.parametrize("how", ["forbidden", "socket"])
def test_a_damaged_lock_is_replaced(host: Host, how: str) -> None:
    """Without a warning."""
    host.look_up()
    host.processes.run(damage, host.lock, how, user=host.user)
    host.entry.unlink()

    assert host.look_up().warnings == []
    assert host.lock.stat().st_mode & 0o777 == 0o600


def test_a_folder_in_the_entrys_place_is_left_if_it_is_not_empty(host: Host) -> None:
    """Each process requests one token, and logs each cause once."""
    host.look_up()
    host.processes.run(damage, host.entry, "full folder", user=host.user)

    for token_requests in (2, 3):
        warnings = host.look_up(times=3).warnings
        assert host.token_requests == token_requests
        assert 1 <= len(warnings) == len(set(warnings))
    assert (host.entry / "something").exists()
    assert not list(host.folder.glob("*.tmp"))


#: Make something at a path that cannot be used as `cache_dir`.
UNUSABLE: dict[str, Callable[[Path], object]] = {
    "a file": Path.touch,
    "a forbidden folder": lambda path: path.mkdir(0),
    "a read-only folder": lambda path: path.mkdir(0o500),
    "below a read-only folder": lambda path: path.parent.mkdir(0o500),
}


def make_unusable(folder: Path, how: str) -> Path:
    cache_dir = folder / "cache" / "below" if how.startswith("below") else folder / "cache"
    UNUSABLE[how](cache_dir)
    return cache_dir


@pytest.mark.parametrize("how", UNUSABLE)
def test_a_cache_dir_that_cannot_be_used_is_replaced_by_a_default_place(
    host: Host, default_place: Path, shared_folder: Path, how: str
) -> None:
    """All processes share a token there, and each logs one warning with the place, the cause and the fix."""
    host = replace(host, cache_dir=host.processes.run(make_unusable, shared_folder, how, user=USER))

    first, second = host.look_up(times=3), host.look_up(times=3)

    assert host.token_requests == 1
    assert {*first.tokens} == {*second.tokens}
    for (warning,) in (first.warnings, second.warnings):
        assert f"uses {default_place / host.folder.name} instead" in warning


def test_without_any_place_each_process_requests_a_token_once(
    host: Host, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It logs one warning with the configured place, the cause and the fix."""
    for variable in ("XDG_RUNTIME_DIR", "TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(variable, "/dev/null")
    store = "ecr_secrets_backend.host_store"
    replaced = {f"{store}._SHARED_MEMORY": "/dev/null", f"{store}._TEMP_FOLDERS": ()}
    host = replace(host, cache_dir=host.processes.run(make_unusable, shared_folder, "a file", user=USER))

    for token_requests in (1, 2):
        (warning,) = check(host.run(3, 0, replaced)).warnings
        assert host.token_requests == token_requests
        assert str(host.cache_dir) in warning
        assert "Not a directory. Run `ecr-secrets-backend status` as this user, or set cache_dir" in warning


def test_a_second_user_of_a_private_cache_dir_uses_a_default_place(host: Host, default_place: Path) -> None:
    """As with ``run_as_user``, if the first user has made ``cache_dir`` and closed it to other users."""
    need_root()
    first = replace(host, cache_dir=host.cache_dir / "cache")
    second = replace(first, user=OTHER_USER)

    lookups = [user.look_up(times=3) for user in (first, second, second)]

    assert host.token_requests == 2
    assert [len(process.warnings) for process in lookups] == [0, 1, 1]
    assert lookups[1].tokens == lookups[2].tokens
    assert "Permission denied" in lookups[1].warnings[0]
    assert (default_place / second.folder.name / second.entry.name).stat().st_uid == OTHER_USER


def test_a_folder_that_cannot_be_entered_is_replaced_by_a_default_place(host: Host, default_place: Path) -> None:
    """It is left as it is."""
    host.look_up()
    host.folder.chmod(0)

    first, second = host.look_up(times=3), host.look_up()

    assert host.token_requests == 2
    assert {*first.tokens} == {*second.tokens}
    assert len(first.warnings) == len(second.warnings) == 1
    assert host.folder.stat().st_mode & 0o777 == 0
    assert (default_place / host.folder.name / host.entry.name).exists()


@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_no_home_is_needed(host: Host, monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)

    first, second = host.look_up(), host.look_up()

    assert first.tokens == second.tokens
    assert first.warnings == second.warnings == []


@pytest.fixture
def mount(processes: Processes, shared_folder: Path) -> Iterator[Callable[..., Path]]:
    """Run a command that mounts a file system for one process, and return the path through that process's root."""
    need_mounts()
    folder = shared_folder / "mounted"
    folder.mkdir()
    with processes.start(unshare_mounts) as holder:
        holder.result()

        def mount(*command: str) -> Path:
            subprocess.run(["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", *command, folder], check=True)
            return Path(f"/proc/{holder.pid}/root{folder}")

        yield mount

        mount("umount", "--lazy")  # ends the process that serves it, if there is one


def test_a_full_disk_costs_one_request_per_process(
    aws: AwsStandIn, processes: Processes, mount: Callable[..., Path]
) -> None:
    """No temporary file is left; as soon as the disk has space again, the cache works."""
    host = Host(aws, processes, mount("mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs"))
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


def test_a_read_only_file_system_serves_its_token(
    aws: AwsStandIn, processes: Processes, mount: Callable[..., Path]
) -> None:
    """As soon as the token's renewal is due, each process requests a token, and logs one warning."""
    aws.set(token_lifetime=4)
    host = Host(aws, processes, mount("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs"))
    first = host.look_up()
    renewal_is_due_at = aws.calls()[0].time + 2
    mount("mount", "-o", "remount,ro")

    second = host.look_up()
    assert time.time() < renewal_is_due_at, "this machine is too slow for the test"
    assert (second.tokens, second.warnings) == (first.tokens, [])

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
    mount: Callable[..., Path],
    tmp_path: Path,
    default_place: Path,
    permissions: str,
) -> None:
    """As on SMB, gcsfuse, s3fs and drvfs; also if only files are open to all users. A default place is used instead."""
    if not (shutil.which("bindfs") and os.access("/dev/fuse", os.R_OK | os.W_OK)):
        pytest.skip("a file system that ignores permissions needs bindfs and /dev/fuse")
    cache_dir = mount("bindfs", "--chmod-ignore", f"--perms={permissions}", "-o", "allow_other", str(tmp_path))
    host = Host(aws, processes, cache_dir)

    first, second = host.look_up(times=3), host.look_up(times=3)

    assert host.token_requests == 1
    assert {*first.tokens} == {*second.tokens}
    for (warning,) in (first.warnings, second.warnings):
        assert "the file system ignores permissions. This process uses" in warning
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert (default_place / host.folder.name / host.entry.name).stat().st_mode & 0o777 == 0o600


def test_the_folder_may_be_deleted_at_any_moment(host: Host) -> None:
    """No lookup fails while another process deletes the folder without a pause."""
    with ExitStack() as stack:
        stack.enter_context(host.processes.start(delete_for_ever, host.folder, user=host.user))
        arguments = (host.identity, host.cache_dir, "ours", 1.5)
        working = [stack.enter_context(host.processes.start(get_tokens, *arguments, user=host.user)) for _ in range(3)]

        assert [process.result() for process in working] == [{"ours"}] * 3


def test_a_holder_of_the_lock_that_was_stopped_is_not_waited_for_without_end(host: Host) -> None:
    """After a bounded wait another process replaces its lock and requests a token, which serves the next ones."""
    host.aws.script(Hang(10, times=1))
    with host.start() as holder:
        while not host.token_requests:
            time.sleep(0.01)
        os.kill(holder.pid, signal.SIGSTOP)

        replacing = check(host.run(3, 0, {"ecr_secrets_backend.cache.LOCK_TIMEOUT_SECONDS": 0.5}))
        next_one = host.look_up()

    assert host.token_requests == 2
    assert replacing.seconds >= 0.5
    assert {*replacing.tokens} == {*next_one.tokens}
    assert replacing.warnings == next_one.warnings == []
