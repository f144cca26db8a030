from __future__ import annotations

import fcntl
import json
import os
import resource
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker.auth
import pytest

from ecr_secrets_backend.cli.command import CommandError
from ecr_secrets_backend.cli.docker_config import file
from ecr_secrets_backend.cli.docker_config.file import (
    DockerConfig,
    change_logins,
    default_folder,
    encode_login,
    is_shared,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.synchronize import Barrier

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
LOGIN = {HOST: encode_login("AWS", "new")}


def build(folder: Path, **content: Any) -> DockerConfig:
    (folder / "config.json").write_text(json.dumps(content))
    return DockerConfig.load(folder)


def is_logged_in(folder: Path) -> bool:
    return DockerConfig.load(folder).login(HOST) == ("AWS", "new")


def test_a_missing_home_folder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user of a container may have neither HOME nor an entry in /etc/passwd."""
    for name in ("DOCKER_CONFIG", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    with pytest.raises(CommandError, match="no home folder"):
        default_folder()


@pytest.mark.parametrize("helper", ["", None])
def test_the_helper_that_docker_py_uses_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helper: str | None
) -> None:
    """For a host with an empty helper, that of all hosts; the command then uses the file, as tests/e2e shows."""
    config = build(tmp_path, credsStore="desktop", credHelpers={HOST: helper}, auths={HOST: {"auth": LOGIN[HOST]}})
    program = tmp_path / "docker-credential-desktop"
    program.write_text('#!/bin/sh\ncat > /dev/null\necho \'{"Username": "of", "Secret": "desktop"}\'\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert docker.auth.load_config(str(config.path)).resolve_authconfig(HOST)["Username"] == "of"
    assert config.helper(HOST) == ("credsStore", "desktop")
    assert config.has_empty_helper(HOST)
    assert not config.has_empty_helper("other.example")
    config = build(tmp_path, credsStore="desktop", credHelpers={HOST: "ecr-login"})
    assert config.helper(HOST) == (f'credHelpers["{HOST}"]', "ecr-login")
    assert not config.has_empty_helper(HOST)


@pytest.mark.parametrize(
    ("entry", "login"),
    [
        ({"auth": encode_login("AWS", "a:b")}, ("AWS", "a:b")),
        ({"auth": encode_login("u", "p\0\0")}, ("u", "p")),  # as an old Docker wrote it
        *[
            (entry, None)
            for entry in ({}, None, {"auth": 5}, {"auth": "%"}, {"auth": "bm9jb2xvbg=="}, {"auth": "/w=="})
        ],
    ],
)
def test_an_entry_is_read_as_a_login_or_none(tmp_path: Path, entry: object, login: tuple[str, str] | None) -> None:
    assert build(tmp_path, auths={HOST: entry}).login(HOST) == login


@pytest.mark.parametrize(
    ("names", "winner"),
    [
        (["ghcr.io", f"x{HOST}", f"{HOST}.example"], None),
        ([f"https://{HOST}/v2/", HOST], HOST),
        ([f"{HOST}/v2/"], f"{HOST}/v2/"),
        ([f"https://{HOST}/v2/", f"http://{HOST}"], f"https://{HOST}/v2/"),
    ],
)
def test_the_entry_that_docker_uses_is_found(tmp_path: Path, names: list[str], winner: str | None) -> None:
    """This test tries docker-py, and tests/e2e the command."""
    config = build(tmp_path, auths={name: {"auth": encode_login("AWS", name)} for name in names})
    found = docker.auth.load_config(str(config.path)).resolve_authconfig(HOST)

    assert config.winning_name(HOST) == winner
    assert (found and found["password"]) == winner


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        '{"auths": null}',
        '{"auths": {}, "credHelpers": null, "credsStore": null, "HttpHeaders": null}',
        f'{{"auths": {{"{HOST}": null}}}}',
    ],
)
def test_null_and_an_empty_file_have_no_logins(tmp_path: Path, content: str) -> None:
    """As for Docker."""
    (tmp_path / "config.json").write_text(content)
    config = DockerConfig.load(tmp_path)

    assert (config.helper(HOST), config.login(HOST), config.has_empty_helper(HOST)) == (None, None, False)
    assert change_logins(tmp_path, LOGIN, {}) == {HOST}
    assert is_logged_in(tmp_path)


def test_other_names_of_a_host_are_replaced(tmp_path: Path) -> None:
    """Older clients and tools have written them. Other hosts keep theirs."""
    others: dict[str, Any] = {"https://index.docker.io/v1/": {}, f"x{HOST}": {}, f"https://{HOST}.example": {}}
    names = [f"https://{HOST}", f"http://{HOST}/v2/", f"{HOST}/", f"{HOST}/v2/", f"HTTPS://{HOST}"]
    build(tmp_path, auths={**others, **{name: {"auth": "b2xkOm9sZA=="} for name in names}})
    change_logins(tmp_path, LOGIN, {})

    assert DockerConfig.load(tmp_path).auths == {**others, HOST: {"auth": LOGIN[HOST]}}


@pytest.mark.parametrize(("auth", "is_forgotten"), [(LOGIN[HOST], True), ("b3RoZXI6b3RoZXI=", False)])
def test_a_login_is_forgotten_unless_another_program_has_changed_it(
    tmp_path: Path, auth: str, *, is_forgotten: bool
) -> None:
    build(tmp_path, auths={HOST: {"auth": auth}, "other": {}})

    assert change_logins(tmp_path, {}, LOGIN) == ({HOST} if is_forgotten else set())
    assert DockerConfig.load(tmp_path).auths.keys() == ({"other"} if is_forgotten else {HOST, "other"})


@pytest.mark.parametrize(
    "value",
    ["1e400", "-0", "1E5", "0.10", "9" * 5000, r'"\ud800"', '"\\u0000"', '"é"', '{"": [true, null, {}]}', "NaN"],
    ids=lambda value: value[:9],
)
def test_odd_values_are_kept_to_the_letter(tmp_path: Path, value: str) -> None:
    """Python would change them, or fail."""
    path = tmp_path / "config.json"
    text = f'{{"z": {value}, "auths": {{}}, "a": 1}}'
    path.write_text(text)
    change_logins(tmp_path, LOGIN, {})
    change_logins(tmp_path, {}, LOGIN)

    assert "".join(path.read_text().split()) == "".join(text.split())


@pytest.mark.parametrize("depth", [300, 900, 990, 5000])
def test_no_depth_ends_in_a_traceback(tmp_path: Path, depth: int) -> None:
    """The file is written, or refused and unchanged: from Python 3.12 on, more can be read than written."""
    text = f'{{"auths": {{}}, "a": {"[" * depth}{"]" * depth}}}'
    (tmp_path / "config.json").write_text(text)
    try:
        change_logins(tmp_path, LOGIN, {})
    except CommandError:
        assert (tmp_path / "config.json").read_text() == text
    else:
        assert is_logged_in(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def at_each_read(monkeypatch: pytest.MonkeyPatch, work: Callable[[int], object]) -> None:
    """Let another program work just after each read of the file: of each try, the second is the last check."""
    read, times = file._read, iter(range(1000))

    def read_and_work(*arguments: Any) -> Any:
        found = read(*arguments)
        work(next(times))
        return found

    monkeypatch.setattr(file, "_read", read_and_work)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_login_of_another_program_at_the_same_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_place: bool
) -> None:
    """As docker login writes it."""
    build(tmp_path, auths={})
    other = {"auths": {"ghcr.io": {"auth": "dTpw"}}, "new": 1}
    with monkeypatch.context() as context:
        at_each_read(context, lambda time: time or (tmp_path / "config.json").write_text(json.dumps(other)))
        change_logins(tmp_path, LOGIN, {}, in_place=in_place)

    assert is_logged_in(tmp_path)
    assert DockerConfig.load(tmp_path).login("ghcr.io") == ("u", "p")
    assert list(DockerConfig.load(tmp_path).content) == ["auths", "new"]


def test_a_file_that_always_changes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user may change it for ever."""
    path = tmp_path / "config.json"
    at_each_read(monkeypatch, lambda time: path.write_text(f'{{"auths": {{"{time}": {{}}}}}}'))
    with pytest.raises(CommandError, match="Another program keeps changing"):
        change_logins(tmp_path, LOGIN, {})

    assert list(tmp_path.iterdir()) == [path]


def write_often(folder: Path, host: str, barrier: Barrier) -> None:
    for number in range(100):
        barrier.wait(20)
        change_logins(folder, {host: encode_login("AWS", str(number))}, {})
        barrier.wait(20)
        login = DockerConfig.load(folder).login(host)
        assert login == ("AWS", str(number)), login
        barrier.wait(20)


def test_copies_that_write_at_the_same_moment_lose_nothing(tmp_path: Path) -> None:
    """Two, for different hosts, a hundred times. Without the lock, up to a third of the rounds lose a login."""
    context = get_context("spawn")
    barrier = context.Barrier(2)
    copies = [context.Process(target=write_often, args=(tmp_path, host, barrier)) for host in (HOST, "b.example")]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.join()

    assert [copy.exitcode for copy in copies] == [0, 0]


def test_a_lock_is_not_awaited_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that was stopped does not stop all others."""
    before = build(tmp_path, auths={})
    monkeypatch.setattr(file, "LOCK_TIMEOUT_SECONDS", 0.1)
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(CommandError, match="is locked by another process"):
            change_logins(tmp_path, LOGIN, {})
    finally:
        os.close(held)

    assert DockerConfig.load(tmp_path) == before


def fail_to_lock(*_: object) -> None:
    raise OSError(9, "Bad file descriptor")  # as NFS does


#: A copy of the command that is killed before it replaces the file.
KILLED = """
import os, pathlib, sys
from ecr_secrets_backend.cli.docker_config.file import change_logins
os.fsync = lambda _: os.kill(os.getpid(), 9)
change_logins(pathlib.Path(sys.argv[1]), {"ghcr.io": "dTpw"}, {})
"""


@pytest.mark.parametrize("locks", [True, False])
def test_the_file_of_a_copy_that_was_killed_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, locks: bool
) -> None:
    """It has all logins. Without a lock, it may be the file of a copy that is still running."""
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    (killed_file,) = tmp_path.iterdir()
    if not locks:
        monkeypatch.setattr("fcntl.flock", fail_to_lock)
    change_logins(tmp_path, LOGIN, {})

    assert killed_file.exists() is not locks
    assert is_logged_in(tmp_path)


def test_in_place_the_file_stays_the_same_one(tmp_path: Path) -> None:
    """With all its links and mounts, and without the rest of a longer content."""
    build(tmp_path, auths={HOST: {"auth": "YTpi", "email": "x" * 500}})
    assert not is_shared(tmp_path)
    (tmp_path / "link").hardlink_to(tmp_path / "config.json")
    assert is_shared(tmp_path)
    assert change_logins(tmp_path, LOGIN, {}, in_place=True) == {HOST}

    assert json.loads((tmp_path / "link").read_text()) == {"auths": {HOST: {"auth": LOGIN[HOST]}}}


def test_folders_that_exist_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system, such as NFS or autofs, may refuse that with another error than that they exist."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.mkdir", refuse)

    assert change_logins(tmp_path, LOGIN, {}) == {HOST}


def test_in_place_a_missing_file_is_made(tmp_path: Path) -> None:
    """For its user alone."""
    change_logins(tmp_path / "new", LOGIN, {}, in_place=True)

    assert is_logged_in(tmp_path / "new")
    assert (tmp_path / "new/config.json").stat().st_mode & 0o777 == 0o600


def test_in_place_the_file_can_be_read_after_each_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command may be killed there. No write needs a function that macOS and some file systems do not have."""
    build(tmp_path, auths={"ghcr.io": {}})
    monkeypatch.delattr("os.posix_fallocate", raising=False)
    seen: list[list[str]] = []
    monkeypatch.setattr("os.fsync", lambda _: seen.append(list(DockerConfig.load(tmp_path).auths)))
    change_logins(tmp_path, LOGIN, {}, in_place=True)

    assert seen == [["ghcr.io"], ["ghcr.io", HOST]]


@pytest.mark.parametrize("in_place", [False, True])
def test_a_full_disk_changes_nothing(tmp_path: Path, *, in_place: bool) -> None:
    """The other logins stay, and no other file."""
    before = build(tmp_path, auths={"ghcr.io": {"auth": "dTpw"}})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))
    try:
        with pytest.raises(CommandError, match=r"File too large\. Correct this"):
            change_logins(tmp_path, LOGIN, {}, in_place=in_place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert DockerConfig.load(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "fix"),
    [(28, "Free space on its disk"), (13, "Grant this user access"), (16, "Mount the folder instead of the file")],
)
def test_a_failed_rename_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fix: str
) -> None:
    """Neither a changed file nor a new one; the message has the fix."""
    before = build(tmp_path, auths={})

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(CommandError, match=rf"{os.strerror(number)}\. {fix}"):
        change_logins(tmp_path, LOGIN, {})

    assert DockerConfig.load(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "size"])
def test_a_file_of_another_kind_is_neither_awaited_nor_read(tmp_path: Path, kind: str) -> None:
    """A pipe would stop the command, and /dev/zero fill the memory."""
    path = tmp_path / "config.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text(json.dumps({"a": "x" * file.LARGEST_FILE_BYTES}))
    for use in (DockerConfig.load, lambda folder: change_logins(folder, LOGIN, {})):
        with pytest.raises(CommandError, match=r"is not a regular file|is larger"):
            use(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "docker"])
def test_links_in_a_circle_are_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(name)
    folder = tmp_path / "docker" if name == "docker" else tmp_path

    assert not is_shared(folder)
    for use in (DockerConfig.load, lambda folder: change_logins(folder, LOGIN, {})):
        with pytest.raises(CommandError, match="Too many levels of symbolic links"):
            use(folder)


def test_a_working_directory_that_was_removed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "removed").mkdir()
    monkeypatch.chdir(tmp_path / "removed")
    (tmp_path / "removed").rmdir()

    assert not is_shared(Path("docker"))
    with pytest.raises(CommandError, match=r"docker/config.json cannot be written: No such file"):
        change_logins(Path("docker"), LOGIN, {})
