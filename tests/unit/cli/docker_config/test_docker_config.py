from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.command_settings import EU_HOST, US_HOST, build_kwargs, write_kwargs
from tests.docker_logins import OTHERS, passwords, write
from tests.stand_ins.aws import Error

if TYPE_CHECKING:
    from tests.stand_ins.aws import AwsStandIn
    from tests.unit.cli.conftest import Run

Arguments = tuple[str | Path, ...]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "docker"


@pytest.fixture
def config(folder: Path) -> Path:
    return folder / "config.json"


@pytest.fixture
def arguments(aws: AwsStandIn, folder: Path, tmp_path: Path) -> Arguments:
    """For both connections, with a cache and a Docker folder of the test's own."""
    del aws
    return "docker-config", "--config", folder, *write_kwargs(tmp_path, build_kwargs(tmp_path))


def test_all_mapped_registries_are_logged_in_to(run: Run, aws: AwsStandIn, arguments: Arguments, config: Path) -> None:
    """Under their bare names, with valid tokens, in a file of 0600 in a folder of 0700."""
    done = run(*arguments)

    logins = passwords(config)
    assert list(logins) == [US_HOST, EU_HOST]
    assert aws.authorise("AWS", logins[US_HOST], region="us-east-1").valid
    assert aws.authorise("AWS", logins[EU_HOST], region="eu-central-1").valid
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert f"Logged in to {US_HOST} until 20" in done.stderr


def test_only_those_that_are_named(run: Run, arguments: Arguments, config: Path) -> None:
    """By their connection."""
    run(*arguments, "docker_eu")

    assert list(passwords(config)) == [EU_HOST]


def test_the_folder_is_docker_s_own(
    run: Run, arguments: Arguments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """DOCKER_CONFIG's, else the home's."""
    command, _, _, *rest = arguments
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run(command, *rest)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "elsewhere"))
    run(command, *rest)

    assert passwords(tmp_path / "home/.docker/config.json")
    assert passwords(tmp_path / "elsewhere/config.json")


def test_all_else_is_left_as_it_was(run: Run, arguments: Arguments, config: Path) -> None:
    """Other registries, unknown keys, their order, and every character of them."""
    write(config, {**OTHERS, "auths": {**OTHERS["auths"], US_HOST: {"auth": "b2xkOm9sZA==", "identitytoken": "x"}}})
    run(*arguments)
    text = config.read_text()
    found = json.loads(text)

    assert list(found) == list(OTHERS)
    assert list(found["auths"]) == ["ghcr.io", "https://index.docker.io/v1/", US_HOST, EU_HOST]
    assert list(found["auths"][US_HOST]) == ["auth"]
    for host in (US_HOST, EU_HOST):
        del found["auths"][host]
    assert found == OTHERS
    assert "Dörte" in text


def test_what_is_up_to_date_is_not_written(run: Run, arguments: Arguments, config: Path) -> None:
    """The file stays the same one."""
    run(*arguments)
    before = config.stat()
    done = run(*arguments)

    assert (config.stat().st_ino, config.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "Already logged in" in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"auths": []}',
        "\ufffd{",
        '{"auths": {}} trailing',
        '{"auths": {"ghcr.io": {}}, "auths": {}}',
        '{"Auths": {}}',
        '{"credsstore": "desktop"}',
        '{"credsStore": 5}',
        '{"credsStore": {}}',
        '{"credHelpers": {"ghcr.io": 5}}',
    ],
)
def test_what_is_not_docker_s_is_left(run: Run, arguments: Arguments, config: Path, text: str) -> None:
    """Refused in one line, and untouched."""
    config.parent.mkdir()
    config.write_text(text)
    done = run(*arguments, exit_code=2)

    assert config.read_text() == text
    (line,) = done.stderr.splitlines()
    assert str(config) in line
    assert "left as it was" in line


def test_an_empty_file_is_one_without_logins(run: Run, arguments: Arguments, config: Path) -> None:
    """As Docker takes it."""
    config.parent.mkdir()
    config.touch()
    run(*arguments)

    assert len(passwords(config)) == 2


def test_a_link_of_one_s_own_is_kept(run: Run, arguments: Arguments, config: Path, tmp_path: Path) -> None:
    """A user that keeps the file elsewhere finds it there."""
    config.parent.mkdir()
    (tmp_path / "dotfiles.json").write_text("{}")
    config.symlink_to(tmp_path / "dotfiles.json")
    run(*arguments)

    assert config.is_symlink()
    assert passwords(tmp_path / "dotfiles.json")


def test_leftovers_of_killed_writers_are_removed(run: Run, arguments: Arguments, config: Path) -> None:
    """They hold tokens. What is not a file stops no write."""
    write(config, {})
    (config.parent / ".config.json.x.tmp").touch()
    (config.parent / ".config.json.folder.tmp").mkdir()
    run(*arguments)

    assert {file.name for file in config.parent.iterdir()} == {"config.json", ".config.json.folder.tmp"}


@pytest.mark.parametrize(
    ("content", "key", "client"),
    [
        ({"credsStore": "desktop"}, "credsStore", "Docker's clients"),
        ({"credHelpers": {US_HOST: "ecr-login"}}, "credHelpers", "Docker's clients"),
        ({"credHelpers": {US_HOST: "", EU_HOST: ""}, "credsStore": "desktop"}, "credsStore", "docker-py"),
    ],
)
def test_a_helper_that_would_win_is_reported(
    run: Run, arguments: Arguments, config: Path, content: dict[str, Any], key: str, client: str
) -> None:
    """With the clients that ask it; the login is written nevertheless."""
    write(config, content)
    done = run(*arguments)

    assert f"WARNING {key}" in done.stderr
    assert {line.split("which ")[1].split(" ask")[0] for line in done.stderr.splitlines() if key in line} == {client}
    assert US_HOST in passwords(config)


def test_one_failure_does_not_keep_the_others_out(
    run: Run, aws: AwsStandIn, arguments: Arguments, config: Path
) -> None:
    """What can be written is; the exit code is 1."""
    aws.script(Error("AccessDeniedException", region="us-east-1"))
    done = run(*arguments, exit_code=1)

    assert list(passwords(config)) == [EU_HOST]
    assert "Connection 'docker_default' has no ECR token" in done.stderr


def test_two_identities_for_one_registry_are_refused(
    run: Run, arguments: Arguments, config: Path, tmp_path: Path
) -> None:
    """Docker knows one login for a registry."""
    role = {"registry": US_HOST, "role_arn": "arn:aws:iam::123456789012:role/other"}
    kwargs = {"connections": {"one": US_HOST, "other": role}, "cache_dir": str(tmp_path / "cache")}
    (tmp_path / "kwargs.json").write_text(json.dumps(kwargs))
    done = run(*arguments, exit_code=2)

    assert "Name the connections to use" in done.stderr
    assert not config.exists()
    run(*arguments, "other")
    assert list(passwords(config)) == [US_HOST]


def test_a_folder_that_cannot_be_written_is_reported(run: Run, arguments: Arguments, folder: Path) -> None:
    """By its name, and what to do."""
    folder.write_text("a file")
    done = run(*arguments, exit_code=1)

    assert "cannot be written" in done.stderr
    assert str(folder) in done.stderr


def test_the_file_s_name_is_not_taken_for_the_folder_s(
    run: Run, arguments: Arguments, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By --config or by DOCKER_CONFIG: nothing is made."""
    command, _, _, *rest = arguments
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    for names in (arguments[:2], (command,)):
        done = run(*names, *([config] if len(names) > 1 else []), *rest, exit_code=2)
        assert "Name the folder" in done.stderr

    assert not config.exists()


def test_no_folder_is_not_the_working_directory(
    run: Run, arguments: Arguments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A script may have forgotten to set a variable."""
    command, *rest = arguments
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    assert "Name the folder" in run(command, *rest, "--config", "", exit_code=2).stderr
    assert list((tmp_path / "here").iterdir()) == []


def test_the_logins_are_printed_as_a_file_of_their_own(
    run: Run, aws: AwsStandIn, arguments: Arguments, config: Path
) -> None:
    """For a secret or auth.json: without the logins of Docker's own file, which is not written."""
    command, _, folder, *rest = arguments
    write(config, OTHERS)
    os.environ["DOCKER_CONFIG"] = str(folder)
    try:
        done = run(command, *rest, "--stdout")
    finally:
        del os.environ["DOCKER_CONFIG"]
    printed = config.parent / "printed"
    printed.write_text(done.stdout)

    assert list(passwords(printed)) == [US_HOST, EU_HOST]
    assert list(json.loads(done.stdout)) == ["auths"]
    assert all(aws.authorise("AWS", password).valid for password in passwords(printed).values())
    assert json.loads(config.read_text()) == OTHERS


def test_nothing_is_printed_if_a_login_is_missing(run: Run, aws: AwsStandIn, arguments: Arguments) -> None:
    """Where it is applied, the login that is there would be lost."""
    command, _, _, *rest = arguments
    aws.script(Error("AccessDeniedException", region="us-east-1"))
    done = run(command, *rest, "--stdout", exit_code=1)

    assert done.stdout == ""
    assert "Connection 'docker_default' has no ECR token" in done.stderr


@pytest.mark.parametrize("option", ["--watch", "--in-place", "--config=x"])
def test_what_writes_a_file_is_refused_beside_stdout(run: Run, arguments: Arguments, option: str) -> None:
    """It would be ignored."""
    command, _, _, *rest = arguments
    assert "--stdout writes no file" in run(command, *rest, "--stdout", option, exit_code=2).stderr
