from __future__ import annotations

import json
import stat
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from tests.command_settings import EU_HOST, US_HOST
from tests.docker_logins import OTHERS, passwords, write
from tests.stand_ins.aws import Error

if TYPE_CHECKING:
    from pathlib import Path

    from tests.docker_logins import Arguments
    from tests.stand_ins.aws import AwsStandIn
    from tests.unit.cli.conftest import Run


def test_all_mapped_registries_are_logged_in_to(run: Run, aws: AwsStandIn, arguments: Arguments, config: Path) -> None:
    """Under their hosts, with valid tokens, in a file of mode 0600 in a folder of mode 0700."""
    done = run(*arguments)

    logins = passwords(config)
    assert list(logins) == [US_HOST, EU_HOST]
    assert aws.authorise("AWS", logins[US_HOST], region="us-east-1").valid
    assert aws.authorise("AWS", logins[EU_HOST], region="eu-central-1").valid
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert f"Logged in to {US_HOST} until 20" in done.stderr


def test_the_default_folder_is_docker_s(
    run: Run, arguments: Arguments, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """DOCKER_CONFIG, or .docker in the home folder."""
    command, _, _, *rest = arguments
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run(command, *rest)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "elsewhere"))
    run(command, *rest)

    assert passwords(tmp_path / "home/.docker/config.json")
    assert passwords(tmp_path / "elsewhere/config.json")


def test_the_rest_of_the_file_is_kept(run: Run, arguments: Arguments, config: Path) -> None:
    """Other registries, unknown keys, their order, and every character."""
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


def test_a_file_with_current_logins_is_not_written(run: Run, arguments: Arguments, config: Path) -> None:
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
        "\ufffd{",
        '{"auths": {}} trailing',
        '{"auths": []}',
        '{"auths": {"ghcr.io": {}}, "auths": {}}',
        '{"credsStore": {}}',
    ],
)
def test_a_file_that_docker_did_not_write_is_refused(run: Run, arguments: Arguments, config: Path, text: str) -> None:
    """In one line that names the file, which stays unchanged."""
    config.parent.mkdir()
    config.write_text(text)
    done = run(*arguments, exit_code=2)

    assert config.read_text() == text
    (line,) = done.stderr.splitlines()
    assert str(config) in line
    assert "The file is unchanged" in line


def test_a_link_of_this_user_is_kept(run: Run, arguments: Arguments, config: Path, tmp_path: Path) -> None:
    """A user that has the file in another folder finds the logins there."""
    config.parent.mkdir()
    (tmp_path / "dotfiles.json").touch()
    config.symlink_to(tmp_path / "dotfiles.json")
    run(*arguments)

    assert config.is_symlink()
    assert len(passwords(tmp_path / "dotfiles.json")) == 2


@pytest.mark.parametrize(
    ("content", "key", "clients"),
    [
        ({"credsStore": "desktop"}, "credsStore", "Docker's clients use"),
        ({"credHelpers": {US_HOST: "ecr-login"}}, "credHelpers", "Docker's clients use"),
        ({"credHelpers": {US_HOST: "", EU_HOST: ""}, "credsStore": "desktop"}, "credsStore", "docker-py uses"),
    ],
)
def test_a_helper_that_wins_is_reported(
    run: Run, arguments: Arguments, config: Path, content: dict[str, Any], key: str, clients: str
) -> None:
    """With the clients that use it; the login is written nevertheless."""
    write(config, content)
    done = run(*arguments)

    lines = [line for line in done.stderr.splitlines() if f"WARNING {key}" in line]
    assert len(lines) == (1 if "credHelpers" in key else 2)
    assert all(f"which {clients} instead of this login" in line for line in lines)
    assert US_HOST in passwords(config)


def test_one_failure_does_not_stop_the_others(run: Run, aws: AwsStandIn, arguments: Arguments, config: Path) -> None:
    """The command writes the logins that it has, and ends with exit code 1."""
    aws.script(Error("AccessDeniedException", region="us-east-1"))
    done = run(*arguments, exit_code=1)

    assert list(passwords(config)) == [EU_HOST]
    assert "Cannot get an ECR token for connection 'docker_default'" in done.stderr


def test_a_login_of_an_earlier_run_is_removed_when_it_has_expired(
    run: Run, aws: AwsStandIn, arguments: Arguments, config: Path
) -> None:
    """A service may restart during an outage. The login of another program stays."""
    run(*arguments)
    other = {"auth": "QVdTOm90aGVy"}
    content = json.loads(config.read_text())
    config.write_text(json.dumps({"auths": {**content["auths"], EU_HOST: other}}))
    aws.script(Error("ServiceUnavailable", status=503))
    with freeze_time(datetime.now(timezone.utc) + timedelta(hours=12)):
        done = run(*arguments, exit_code=1)

    assert f"Removed the login for {US_HOST}" in done.stderr
    assert json.loads(config.read_text())["auths"] == {EU_HOST: other}


def test_two_identities_for_one_registry_are_refused(
    run: Run, arguments: Arguments, config: Path, tmp_path: Path
) -> None:
    """Docker has one login for a registry."""
    role = {"registry": US_HOST, "role_arn": "arn:aws:iam::123456789012:role/other"}
    kwargs = {"connections": {"one": US_HOST, "other": role}, "cache_dir": str(tmp_path / "cache")}
    (tmp_path / "kwargs.json").write_text(json.dumps(kwargs))
    done = run(*arguments, exit_code=2)

    assert "Name the connections to use" in done.stderr
    assert not config.exists()
    run(*arguments, "other")
    assert list(passwords(config)) == [US_HOST]


def test_a_folder_that_cannot_be_written_is_reported(run: Run, arguments: Arguments, config: Path) -> None:
    config.parent.write_text("a file")

    assert f"{config} cannot be written: Not a directory" in run(*arguments, exit_code=1).stderr


@pytest.mark.parametrize("source", ["--config", "DOCKER_CONFIG", "an empty --config"])
def test_a_name_that_is_not_a_folder_s_is_refused(
    run: Run, arguments: Arguments, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    """No folder has the name of the file, and a variable that a script has not set is not the working directory."""
    command, option, _, *rest = arguments
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    monkeypatch.chdir(tmp_path)
    chosen = {"--config": (option, config), "an empty --config": (option, "")}.get(source, ())

    assert "Name the folder of" in run(command, *chosen, *rest, exit_code=2).stderr
    assert not config.exists()
    assert not (tmp_path / "config.json").exists()


def test_the_logins_are_printed_as_a_file_of_their_own(
    run: Run, aws: AwsStandIn, arguments: Arguments, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a secret or auth.json: without the logins of Docker's own file, which the command does not write."""
    command, _, folder, *rest = arguments
    write(config, OTHERS)
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    done = run(command, *rest, "--stdout")
    printed = config.parent / "printed"
    printed.write_text(done.stdout)

    assert list(passwords(printed)) == [US_HOST, EU_HOST]
    assert list(json.loads(done.stdout)) == ["auths"]
    assert all(aws.authorise("AWS", password).valid for password in passwords(printed).values())
    assert json.loads(config.read_text()) == OTHERS


def test_nothing_is_printed_if_a_login_is_missing(run: Run, aws: AwsStandIn, arguments: Arguments) -> None:
    """A secret that is replaced with the output would lose a login."""
    command, _, _, *rest = arguments
    aws.script(Error("AccessDeniedException", region="us-east-1"))
    done = run(command, *rest, "--stdout", exit_code=1)

    assert done.stdout == ""
    assert "Cannot get an ECR token for connection 'docker_default'" in done.stderr


@pytest.mark.parametrize("option", ["--watch", "--in-place", "--config=x"])
def test_options_for_a_file_are_refused_beside_stdout(run: Run, arguments: Arguments, option: str) -> None:
    command, _, _, *rest = arguments

    assert "--stdout writes no file" in run(command, *rest, "--stdout", option, exit_code=2).stderr
