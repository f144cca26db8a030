from __future__ import annotations

import fcntl
import json
import os
import resource
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import docker.auth
import pytest

from ecr_secrets_backend.cli.command import CommandError
from ecr_secrets_backend.cli.docker_config import file
from ecr_secrets_backend.cli.docker_config.file import DockerConfig, change_logins, encode_login, is_shared
from tests.command_settings import US_HOST as HOST

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

LOGIN = {HOST: encode_login("AWS", "new")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def build(path: Path, **content: Any) -> DockerConfig:
    path.write_text(json.dumps(content))
    return DockerConfig.load(path.parent)


def is_logged_in(folder: Path) -> bool:
    return DockerConfig.load(folder).login(HOST) == ("AWS", "new")


def test_a_missing_home_folder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user of a container may have neither HOME nor an entry in /etc/passwd."""
    for name in ("DOCKER_CONFIG", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    with pytest.raises(CommandError, match="no home folder"):
        file.default_folder()


def test_a_folder_is_not_made_to_read_it(tmp_path: Path) -> None:
    assert DockerConfig.load(tmp_path / "a/b").auths == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("entry", "login"),
    [
        ({"auth": encode_login("AWS", "a:b")}, ("AWS", "a:b")),
        ({"auth": encode_login("u", "p\0\0")}, ("u", "p")),  # as an old Docker wrote it
        *((entry, None) for entry in ({}, None, *({"auth": auth} for auth in (5, "%", "bm9jb2xvbg==", "/w==")))),
    ],
)
def test_an_entry_is_read_as_a_login_or_none(path: Path, entry: object, login: tuple[str, str] | None) -> None:
    assert build(path, auths={HOST: entry}).login(HOST) == login


@pytest.mark.parametrize(
    ("names", "winner"),
    [
        (["ghcr.io", f"x{HOST}", f"{HOST}.example"], None),
        ([f"https://{HOST}/v2/", HOST], HOST),
        ([f"{HOST}/v2/"], f"{HOST}/v2/"),
        ([f"https://{HOST}/v2/", f"http://{HOST}"], f"https://{HOST}/v2/"),
    ],
)
def test_the_entry_that_docker_uses_is_found(path: Path, names: list[str], winner: str | None) -> None:
    """This test tries docker-py, and tests/e2e the command."""
    config = build(path, auths={name: {"auth": encode_login("AWS", name)} for name in names})
    found = docker.auth.load_config(str(path)).resolve_authconfig(HOST)

    assert config.winning_name(HOST) == winner
    assert (found and found["password"]) == winner


NULLS = '{"auths": null, "credHelpers": null, "credsStore": null}'


@pytest.mark.parametrize("content", ["", "null", NULLS, f'{{"auths": {{"{HOST}": null}}}}'])
def test_null_and_an_empty_file_have_no_logins(path: Path, content: str) -> None:
    path.write_text(content)
    config = DockerConfig.load(path.parent)

    assert (config.helper(HOST), config.login(HOST), config.has_empty_helper(HOST)) == (None, None, False)
    assert change_logins(path.parent, LOGIN, {}) == {HOST}
    assert is_logged_in(path.parent)


def test_other_names_of_a_host_are_replaced(path: Path) -> None:
    others: dict[str, Any] = {"https://index.docker.io/v1/": {}, f"x{HOST}": {}, f"https://{HOST}.example": {}}
    names = [f"https://{HOST}", f"http://{HOST}/v2/", f"{HOST}/", f"{HOST}/v2/", f"HTTPS://{HOST}"]
    build(path, auths={**others, **{name: {"auth": "b2xkOm9sZA=="} for name in names}})
    change_logins(path.parent, LOGIN, {})

    assert DockerConfig.load(path.parent).auths == {**others, HOST: {"auth": LOGIN[HOST]}}


@pytest.mark.parametrize(
    "value",
    ["1e400", "-0", "1E5", "0.10", "9" * 5000, r'"\ud800"', '"\\u0000"', '"é"', '{"": [true, null, {}]}', "NaN"],
    ids=lambda value: value[:9],
)
def test_odd_values_are_kept_to_the_letter(path: Path, value: str) -> None:
    """Python would change them, or fail."""
    text = f'{{"z": {value}, "auths": {{}}, "a": 1}}'
    path.write_text(text)
    change_logins(path.parent, LOGIN, {})
    change_logins(path.parent, {}, LOGIN)

    assert "".join(path.read_text().split()) == "".join(text.split())


@pytest.mark.parametrize("depth", [300, 900, 990, 5000])
def test_no_depth_ends_in_a_traceback(path: Path, depth: int) -> None:
    """The file is written, or refused and unchanged: from Python 3.12 on, more can be read than written."""
    text = f'{{"auths": {{}}, "a": {"[" * depth}{"]" * depth}}}'
    path.write_text(text)
    try:
        change_logins(path.parent, LOGIN, {})
    except CommandError:
        assert path.read_text() == text
    else:
        assert is_logged_in(path.parent)
    assert list(path.parent.iterdir()) == [path]


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
    path: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    build(path, auths={})
    other = json.dumps({"auths": {"ghcr.io": {"auth": "dTpw"}}, "new": 1})
    at_each_read(monkeypatch, lambda time: time or path.write_text(other))
    change_logins(path.parent, LOGIN, {}, in_place=in_place)

    assert is_logged_in(path.parent)
    assert DockerConfig.load(path.parent).login("ghcr.io") == ("u", "p")
    assert list(DockerConfig.load(path.parent).content) == ["auths", "new"]


def test_a_file_that_always_changes_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_each_read(monkeypatch, lambda time: path.write_text(f'{{"auths": {{"{time}": {{}}}}}}'))
    with pytest.raises(CommandError, match="Another program keeps changing"):
        change_logins(path.parent, LOGIN, {})

    assert list(path.parent.iterdir()) == [path]


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


def test_a_lock_is_not_awaited_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build(path, auths={})
    monkeypatch.setattr(file, "LOCK_TIMEOUT_SECONDS", 0.1)
    held = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(CommandError, match="is locked by another process"):
            change_logins(path.parent, LOGIN, {})
    finally:
        os.close(held)

    assert DockerConfig.load(path.parent) == before


def fail_with(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("locks", [True, False])
def test_the_file_of_a_copy_that_was_killed_is_removed(
    path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    """It has all logins. Without a lock, as on NFS, it may be the file of a copy that is still running."""
    killed_files: list[Path] = []
    with monkeypatch.context() as context:
        context.setattr("os.fsync", lambda _: killed_files.extend(path.parent.iterdir()))
        change_logins(path.parent, LOGIN, {})
    (killed_file,) = killed_files
    killed_file.touch()
    if not locks:
        monkeypatch.setattr("fcntl.flock", fail_with(9))
    change_logins(path.parent, LOGIN, {})

    assert killed_file.exists() is not locks
    assert is_logged_in(path.parent)


def test_in_place_the_file_stays_the_same_one(path: Path) -> None:
    """With all its links and mounts, and without the rest of a longer content. A missing one is made."""
    assert change_logins(path.parent, {HOST: "YTpi" * 100}, {}, in_place=True) == {HOST}
    assert not is_shared(path.parent)
    link = path.with_name("link")
    link.hardlink_to(path)
    assert is_shared(path.parent)
    assert change_logins(path.parent, LOGIN, {}, in_place=True) == {HOST}

    assert json.loads(link.read_text()) == {"auths": {HOST: {"auth": LOGIN[HOST]}}}
    assert path.stat().st_mode & 0o777 == 0o600


def test_in_place_the_file_can_be_read_after_each_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command may be killed there. No write needs a function that macOS and some file systems do not have."""
    build(path, auths={"ghcr.io": {}})
    monkeypatch.delattr("os.posix_fallocate", raising=False)
    seen: list[list[str]] = []
    monkeypatch.setattr("os.fsync", lambda _: seen.append(list(DockerConfig.load(path.parent).auths)))
    change_logins(path.parent, LOGIN, {}, in_place=True)

    assert seen == [["ghcr.io"], ["ghcr.io", HOST]]


def test_folders_that_exist_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system, such as NFS or autofs, may refuse that with another error than that they exist."""
    monkeypatch.setattr("os.mkdir", fail_with(13))

    assert change_logins(tmp_path, LOGIN, {}) == {HOST}


@pytest.mark.parametrize("in_place", [False, True])
def test_a_full_disk_changes_nothing(path: Path, in_place: bool) -> None:
    before = build(path, auths={"ghcr.io": {"auth": "dTpw"}})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))
    try:
        with pytest.raises(CommandError, match=r"File too large\. Correct this"):
            change_logins(path.parent, LOGIN, {}, in_place=in_place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert DockerConfig.load(path.parent) == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "fix"),
    [(28, "Free space on its disk"), (13, "Grant this user access"), (16, "Mount the folder instead of the file")],
)
def test_a_failed_rename_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fix: str) -> None:
    before = build(path, auths={})
    monkeypatch.setattr("os.replace", fail_with(number))
    with pytest.raises(CommandError, match=rf"{os.strerror(number)}\. {fix}"):
        change_logins(path.parent, LOGIN, {})

    assert DockerConfig.load(path.parent) == before
    assert list(path.parent.iterdir()) == [path]


def assert_refused(folder: Path, message: str) -> None:
    for use in (DockerConfig.load, lambda folder: change_logins(folder, LOGIN, {})):
        with pytest.raises(CommandError, match=message):
            use(folder)


@pytest.mark.timeout(20)
def test_a_file_of_another_kind_is_neither_awaited_nor_read(tmp_path: Path) -> None:
    """A pipe would stop the command, and /dev/zero fill the memory."""
    for kind in ("pipe", "device", "size", "folder/config.json"):
        (tmp_path / kind).mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe/config.json")
    (tmp_path / "device/config.json").symlink_to("/dev/zero")
    (tmp_path / "size/config.json").write_text(json.dumps({"a": "x" * file.LARGEST_FILE_BYTES}))
    for kind in ("pipe", "device", "folder"):
        assert_refused(tmp_path / kind, "is not a regular file")
    assert_refused(tmp_path / "size", "is larger")


@pytest.mark.parametrize("name", ["config.json", "docker"])
def test_links_in_a_circle_are_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(name)
    folder = tmp_path / "docker" if name == "docker" else tmp_path

    assert not is_shared(folder)
    assert_refused(folder, "Too many levels of symbolic links")
