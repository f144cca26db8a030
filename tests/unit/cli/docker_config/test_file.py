from __future__ import annotations

import json
import os
import resource
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker.auth
import pytest

from ecr_secrets_backend.cli.command import CommandError
from ecr_secrets_backend.cli.docker_config.file import (
    LARGEST_FILE_BYTES,
    DockerConfig,
    change_logins,
    default_folder,
    encoded,
    is_shared,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.synchronize import Barrier

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


def build(folder: Path, **content: Any) -> DockerConfig:
    (folder / "config.json").write_text(json.dumps(content))
    return DockerConfig.load(folder)


def test_the_folder_is_where_docker_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DOCKER_CONFIG's, else the home's."""
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".docker"
    monkeypatch.setenv("DOCKER_CONFIG", "/elsewhere")
    assert str(default_folder()) == "/elsewhere"


def test_the_helper_of_a_host_comes_before_that_of_all(tmp_path: Path) -> None:
    """As Docker has it."""
    config = build(tmp_path, credsStore="desktop", credHelpers={HOST: "ecr-login"})

    assert config.helper(HOST) == (f'credHelpers["{HOST}"]', "ecr-login")
    assert config.helper("other.example") == ("credsStore", "desktop")
    assert build(tmp_path).helper(HOST) is None


def test_a_home_that_cannot_be_found_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have neither HOME nor an entry in /etc/passwd."""
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    with pytest.raises(CommandError, match="no home folder"):
        default_folder()


@pytest.mark.parametrize("helper", ["", None])
def test_an_empty_helper_means_the_file_to_the_docker_command_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helper: str | None
) -> None:
    """docker-py asks the helper of all hosts; tests/e2e tries the command."""
    config = build(tmp_path, credsStore="desktop", credHelpers={HOST: helper}, auths={HOST: {"auth": "YTpi"}})
    program = tmp_path / "docker-credential-desktop"
    program.write_text('#!/bin/sh\ncat > /dev/null\necho \'{"Username": "of", "Secret": "desktop"}\'\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert docker.auth.load_config(str(config.path)).resolve_authconfig(HOST)["Username"] == "of"
    assert config.helper(HOST) == ("credsStore", "desktop")
    assert config.is_exempt(HOST)
    assert not config.is_exempt("other.example")
    assert not build(tmp_path, credHelpers={HOST: "ecr-login"}).is_exempt(HOST)


@pytest.mark.parametrize("entry", [{}, None, {"auth": 5}, {"auth": "%"}, {"auth": "bm8tY29sb24="}, {"auth": "/w=="}])
def test_what_is_no_login_is_none(tmp_path: Path, entry: object) -> None:
    """Whatever stands in a login's place."""
    assert build(tmp_path, auths={HOST: entry}).login(HOST) is None


def test_a_login_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A colon in the password, and the null bytes of an old Docker, included."""
    config = build(tmp_path, auths={HOST: {"auth": encoded("AWS", "a:b")}, "old": {"auth": encoded("u", "p\0\0")}})

    assert config.login(HOST) == ("AWS", "a:b")
    assert config.login("old") == ("u", "p")


def test_a_host_is_found_under_each_of_its_names(tmp_path: Path) -> None:
    """Bare, or in a URL; not as a part of another."""
    names = [HOST, f"https://{HOST}", f"http://{HOST}/v2/", f"{HOST}/", f"{HOST}/v2/", f"HTTPS://{HOST}"]
    config = build(tmp_path, auths={name: {} for name in [*names, f"x{HOST}", f"{HOST}.example"]})

    assert config.names(HOST) == names


@pytest.mark.parametrize(
    ("names", "winner"),
    [
        ([], None),
        (["ghcr.io", f"x{HOST}"], None),
        ([f"https://{HOST}/v2/", HOST], HOST),
        ([f"{HOST}/v2/"], f"{HOST}/v2/"),
        ([f"https://{HOST}/v2/", f"http://{HOST}"], f"https://{HOST}/v2/"),
    ],
)
def test_the_entry_that_docker_uses_is_found(tmp_path: Path, names: list[str], winner: str | None) -> None:
    """docker-py is tried here, and the docker command in tests/e2e."""
    config = build(tmp_path, auths={name: {"auth": encoded("AWS", name)} for name in names})
    found = docker.auth.load_config(str(config.path)).resolve_authconfig(HOST)

    assert config.winning_name(HOST) == winner
    assert (found and found["password"]) == winner


@pytest.mark.parametrize(
    "content",
    [
        "null",
        '{"auths": null}',
        '{"auths": {}, "credHelpers": null, "credsStore": null, "HttpHeaders": null}',
        f'{{"auths": {{"{HOST}": null}}}}',
    ],
)
def test_null_is_as_good_as_nothing(tmp_path: Path, content: str) -> None:
    """As it is to Docker."""
    (tmp_path / "config.json").write_text(content)
    config = DockerConfig.load(tmp_path)

    assert (config.helper(HOST), config.login(HOST), config.is_exempt(HOST)) == (None, None, False)
    assert change_logins(tmp_path, {HOST: "YTpi"}, {}) == {HOST}
    assert DockerConfig.load(tmp_path).login(HOST) == ("a", "b")


def test_other_names_of_a_host_are_replaced(tmp_path: Path) -> None:
    """Those that older clients and tools have written; other hosts keep theirs."""
    other = "https://index.docker.io/v1/"
    build(tmp_path, auths={f"https://{HOST}/v2/": {"auth": "b2xkOm9sZA=="}, other: {}, f"http://{HOST}": {}})
    change_logins(tmp_path, {HOST: "YTpi"}, {})

    assert DockerConfig.load(tmp_path).auths == {other: {}, HOST: {"auth": "YTpi"}}


@pytest.mark.parametrize("content", ["", '{"auths": {}}'])
def test_the_file_s_name_is_no_folder(tmp_path: Path, content: str) -> None:
    """A folder of that name would be read by no client."""
    file = tmp_path / "config.json"
    if content:
        file.write_text(content)
    for use in (DockerConfig.load, lambda folder: change_logins(folder, {HOST: "YTpi"}, {})):
        with pytest.raises(CommandError, match="Name the folder") as raised:
            use(file)
        assert raised.value.exit_code == 2

    assert file.is_file() == bool(content)


@pytest.mark.parametrize(
    "value",
    ["1e400", "-0", "1E5", "0.10", "9" * 5000, r'"\ud800"', '"\\u0000"', '"é"', '{"": [true, null, {}]}', "NaN"],
    ids=lambda value: value[:9],
)
def test_odd_values_are_kept_to_the_letter(tmp_path: Path, value: str) -> None:
    """Python would change them, or end."""
    path = tmp_path / "config.json"
    text = f'{{"z": {value}, "auths": {{}}, "a": 1}}'
    path.write_text(text)
    change_logins(tmp_path, {HOST: "YTpi"}, {})
    change_logins(tmp_path, {}, {HOST: "YTpi"})

    assert "".join(path.read_text().split()) == "".join(text.split())


@pytest.mark.parametrize("depth", [300, 600, 900, 960, 990, 5000])
def test_no_depth_ends_in_a_traceback(tmp_path: Path, depth: int) -> None:
    """It is written, or refused and left: from Python 3.12 on, more can be read than be written."""
    text = f'{{"auths": {{}}, "a": {"[" * depth}{"]" * depth}}}'
    (tmp_path / "config.json").write_text(text)
    try:
        change_logins(tmp_path, {HOST: "YTpi"}, {})
    except CommandError:
        assert (tmp_path / "config.json").read_text() == text
    else:
        assert DockerConfig.load(tmp_path).login(HOST) == ("a", "b")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_is_not_made_too_large_to_be_read(tmp_path: Path) -> None:
    """It is left, with a message; from Python 3.14 on, deeply nested lists would grow by their indentation."""
    text = json.dumps({"auths": {}, "a": "x" * (LARGEST_FILE_BYTES - 100)})
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(CommandError, match="would be larger"):
        change_logins(tmp_path, {HOST: "YTpi" * 30}, {})
    assert (tmp_path / "config.json").read_text() == text


def after_each_write(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Let another program work between the writing of the new file and its rename."""
    sync = os.fsync

    def sync_and_work(descriptor: int) -> None:
        sync(descriptor)
        work()

    monkeypatch.setattr("os.fsync", sync_and_work)


def test_a_login_of_another_program_at_the_same_moment_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docker login writes it."""
    build(tmp_path, auths={})
    after_each_write(monkeypatch, lambda: build(tmp_path, auths={"ghcr.io": {"auth": "dTpw"}}, new=1))
    change_logins(tmp_path, {HOST: "YTpi"}, {})
    content = json.loads((tmp_path / "config.json").read_text())

    assert content == {"auths": {"ghcr.io": {"auth": "dTpw"}, HOST: {"auth": "YTpi"}}, "new": 1}


def test_a_file_that_never_rests_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user may change it for ever."""
    build(tmp_path, auths={})
    after_each_write(monkeypatch, lambda: build(tmp_path, auths={os.urandom(8).hex(): {}}))
    with pytest.raises(CommandError, match="changed by another program all the time"):
        change_logins(tmp_path, {HOST: "YTpi"}, {})

    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def write_often(folder: Path, host: str, barrier: Barrier) -> None:
    for number in range(200):
        barrier.wait(20)
        change_logins(folder, {host: encoded("AWS", str(number))}, {})
        barrier.wait(20)
        login = DockerConfig.load(folder).login(host)
        assert login == ("AWS", str(number)), login
        barrier.wait(20)


def test_copies_that_write_at_the_same_moment_lose_nothing(tmp_path: Path) -> None:
    """Two, for different hosts, two hundred times. Without the lock, up to a third of the rounds lose a login."""
    context = get_context("spawn")
    barrier = context.Barrier(2)
    copies = [context.Process(target=write_often, args=(tmp_path, host, barrier)) for host in (HOST, "b.example")]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.join()

    assert [copy.exitcode for copy in copies] == [0, 0]


def test_in_place_the_file_stays_the_same_one(tmp_path: Path) -> None:
    """With all its links and mounts, and nothing of a longer content behind."""
    build(tmp_path, auths={HOST: {"auth": "YTpi", "email": "x" * 500}})
    (tmp_path / "link").hardlink_to(tmp_path / "config.json")
    assert change_logins(tmp_path, {HOST: "Yzpk"}, {}, in_place=True) == {HOST}

    assert json.loads((tmp_path / "link").read_text()) == {"auths": {HOST: {"auth": "Yzpk"}}}


def test_in_place_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    """The other logins stay, and the message is not about permissions."""
    before = build(tmp_path, auths={"ghcr.io": {"auth": "dTpw"}})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))
    try:
        with pytest.raises(CommandError, match=r"File too large\. Correct this"):
            change_logins(tmp_path, {HOST: "YTpi"}, {}, in_place=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert DockerConfig.load(tmp_path) == before


@pytest.mark.parametrize("is_replaced", [False, True])
def test_in_place_a_login_of_another_program_at_the_same_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_replaced: bool
) -> None:
    """Until just before the write; also if the other program puts a file with the same content in its place."""
    build(tmp_path, auths={})
    render, others = DockerConfig.render, [{} if is_replaced else {"ghcr.io": {"auth": "dTpw"}}]

    def render_while_another_writes(config: DockerConfig, content: object) -> bytes:
        if others:
            if is_replaced:
                (tmp_path / "config.json").rename(tmp_path / "earlier")
            build(tmp_path, auths=others.pop())
        return render(config, content)

    monkeypatch.setattr(DockerConfig, "render", render_while_another_writes)
    change_logins(tmp_path, {HOST: "YTpi"}, {}, in_place=True)

    assert DockerConfig.load(tmp_path).login(HOST) == ("a", "b")
    assert is_replaced or DockerConfig.load(tmp_path).login("ghcr.io") == ("u", "p")


def test_in_place_a_file_is_made(tmp_path: Path) -> None:
    """As otherwise: for its user alone."""
    change_logins(tmp_path / "new", {HOST: "Yzpk"}, {}, in_place=True)

    assert DockerConfig.load(tmp_path / "new").login(HOST) == ("c", "d")
    assert (tmp_path / "new/config.json").stat().st_mode & 0o777 == 0o600


def test_a_file_with_another_link_is_shared(tmp_path: Path) -> None:
    """A reader of that link does not see it replaced."""
    assert not is_shared(tmp_path)
    build(tmp_path, auths={})
    assert not is_shared(tmp_path)
    (tmp_path / "link").hardlink_to(tmp_path / "config.json")
    assert is_shared(tmp_path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "size"])
def test_what_is_no_file_of_docker_s_is_neither_waited_for_nor_read(tmp_path: Path, kind: str) -> None:
    """A pipe would stop the command, and /dev/zero fill the memory."""
    path = tmp_path / "config.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text(json.dumps({"a": "x" * LARGEST_FILE_BYTES}))
    for use in (DockerConfig.load, lambda folder: change_logins(folder, {HOST: "YTpi"}, {})):
        with pytest.raises(CommandError, match=r"is not a file|is larger"):
            use(tmp_path)


def test_links_in_a_circle_are_reported(tmp_path: Path) -> None:
    """As by the system."""
    (tmp_path / "config.json").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to("config.json")
    with pytest.raises(CommandError, match="Too many levels of symbolic links"):
        DockerConfig.load(tmp_path)


@pytest.mark.parametrize("name", [".", "docker"])
def test_a_circle_of_links_has_no_other_reader(tmp_path: Path, name: str) -> None:
    """The file's or the folder's: reading it is refused in one line."""
    circle = tmp_path / name / "config.json" if name == "." else tmp_path / name
    circle.symlink_to(circle)
    assert not is_shared(tmp_path / name)
    with pytest.raises(CommandError, match="Too many levels of symbolic links"):
        change_logins(tmp_path / name, {HOST: "YTpi"}, {})


def test_a_working_directory_that_was_removed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folders cannot be found or made."""
    (tmp_path / "removed").mkdir()
    monkeypatch.chdir(tmp_path / "removed")
    (tmp_path / "removed").rmdir()
    assert not is_shared(Path("docker"))
    with pytest.raises(CommandError, match=r"docker/config.json cannot be written: No such file"):
        change_logins(Path("docker"), {HOST: "YTpi"}, {})


def test_a_login_is_forgotten(tmp_path: Path) -> None:
    """The hosts that had one are returned."""
    build(tmp_path, auths={HOST: {"auth": "YTpi"}, "other": {}})

    assert change_logins(tmp_path, {}, {HOST: "YTpi"}) == {HOST}
    assert change_logins(tmp_path, {}, {HOST: "YTpi"}) == set()
    assert DockerConfig.load(tmp_path).auths == {"other": {}}


def test_another_s_login_is_not_forgotten(tmp_path: Path) -> None:
    """Another program has logged in since."""
    build(tmp_path, auths={HOST: {"auth": "bmV3Om5ldw=="}})

    assert change_logins(tmp_path, {}, {HOST: "YTpi"}) == set()
    assert DockerConfig.load(tmp_path).login(HOST) == ("new", "new")


@pytest.mark.parametrize("indentation", ["\t", "  ", "    "])
def test_the_indentation_is_kept(tmp_path: Path, indentation: str) -> None:
    """And whether the file ends with a line's end."""
    path = tmp_path / "config.json"
    text = json.dumps({"a": 1, "auths": {}}, indent=indentation) + "\n"
    path.write_text(text)
    change_logins(tmp_path, {HOST: "YTpi"}, {})
    change_logins(tmp_path, {}, {HOST: "YTpi"})

    assert path.read_text() == text


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a changed file nor half of a new one."""
    build(tmp_path, auths={})

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(CommandError, match=r"No space left on device\. Make space"):
        change_logins(tmp_path, {HOST: "YTpi"}, {})

    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert DockerConfig.load(tmp_path).auths == {}


def test_a_mounted_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be replaced, which is EBUSY's meaning here; another mount is the fix."""
    build(tmp_path, auths={})

    def fail(*_: object, **__: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(CommandError, match="Mount the folder"):
        change_logins(tmp_path, {HOST: "YTpi"}, {})
