from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.cli.command import CommandError
from ecr_secrets_backend.cli.docker_config.file import DockerConfig, change_logins, default_folder, encoded

if TYPE_CHECKING:
    from pathlib import Path

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
    names = [HOST, f"https://{HOST}", f"http://{HOST}/v2/"]
    config = build(tmp_path, auths={name: {} for name in [*names, f"x{HOST}", f"{HOST}.example"]})

    assert config.names(HOST) == names


def test_a_login_is_forgotten(tmp_path: Path) -> None:
    """And it is told whether there was one."""
    build(tmp_path, auths={HOST: {"auth": "YTpi"}, "other": {}})

    assert change_logins(tmp_path, {}, {HOST: "YTpi"}) == {HOST}
    assert change_logins(tmp_path, {}, {HOST: "YTpi"}) == set()
    assert DockerConfig.load(tmp_path).auths == {"other": {}}


def test_another_s_login_is_not_forgotten(tmp_path: Path) -> None:
    """Somebody has logged in since."""
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
    with pytest.raises(CommandError, match="No space left on device"):
        change_logins(tmp_path, {HOST: "YTpi"}, {})

    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert DockerConfig.load(tmp_path).auths == {}


def test_a_mounted_file_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be replaced, which is EBUSY's meaning here; the remedy is another mount."""
    build(tmp_path, auths={})

    def fail(*_: object, **__: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(CommandError, match="Mount the folder"):
        change_logins(tmp_path, {HOST: "YTpi"}, {})
