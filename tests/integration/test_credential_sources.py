"""Credentials that are not there, where that takes a process of another user, of a terminal, or of a command."""

from __future__ import annotations

import json
import time
from hashlib import sha1
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.aws import request_token
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.identity import AwsIdentity
from tests.command_settings import US_HOST
from tests.integration.commands import run, run_on_terminal
from tests.requirements import need_root
from tests.stand_ins.aws import Reply
from tests.stand_ins.credentials import pod_token, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn

ROLE = "arn:aws:iam::210987654321:role/pull"
NOBODY = 65534
KEYS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "a-secret"}
SECRET = "an-undisclosed-session-token"
MFA_PROFILES = {
    "mfa": {"role_arn": ROLE, "source_profile": "base", "mfa_serial": "arn:aws:iam::123456789012:mfa/a"},
    "base": KEYS,
    "dev": {"role_arn": ROLE, "source_profile": "mfa"},
}

pytestmark = pytest.mark.usefixtures("bare")


def failure_in_process() -> str:
    with pytest.raises(TokenError) as caught:
        request_token(AwsIdentity("ecr", "us-east-1"))
    return str(caught.value.failure)


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., None]:
    """Write AWS's configuration file, a profile for each argument."""
    return lambda **profiles: write(
        str(tmp_path / "config"), **{f"profile {name}": options for name, options in profiles.items()}
    )


@pytest.fixture
def kwargs_file(tmp_path: Path) -> tuple[str, str]:
    """The arguments that have a command use the profile dev."""
    kwargs = {"connections": {"docker_default": US_HOST}, "profile_name": "dev", "cache_dir": str(tmp_path / "cache")}
    (tmp_path / "kwargs.json").write_text(json.dumps(kwargs))
    return "--backend-kwargs", str(tmp_path / "kwargs.json")


def test_a_file_that_this_user_may_not_read_is_the_cause(
    processes: Processes, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is passed over in silence by botocore."""
    need_root()
    file = shared_folder / "credentials"
    file.write_text("[default]\n")
    file.chmod(0o600)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    failure = processes.run(failure_in_process, user=NOBODY)

    assert f"{file} is not readable by this user (uid {NOBODY})" in failure
    assert f"Let this user read {file}" in failure


def test_a_token_that_this_user_may_not_read_is_named(
    processes: Processes, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its path, with the user and what lets it read the token."""
    need_root()
    token = shared_folder / "token"
    token.write_text(pod_token("airflow:worker"))
    token.chmod(0o600)
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))

    failure = processes.run(failure_in_process, user=NOBODY)

    assert f"this user (uid {NOBODY}) cannot read the token {token}: Permission denied" in failure
    assert "fsGroup" in failure


@pytest.mark.parametrize("command", ["token", "check", "docker-config"])
@pytest.mark.parametrize("has_terminal", [False, True])
def test_no_command_asks_for_a_code(
    configure: Any, kwargs_file: tuple[str, str], tmp_path: Path, command: str, has_terminal: bool
) -> None:
    """Neither at a terminal nor without one."""
    configure(**MFA_PROFILES)
    arguments = {"token": ["docker_default"], "docker-config": ["--config", str(tmp_path)]}.get(command, [])
    if has_terminal:
        shown = run_on_terminal(command, *arguments, *kwargs_file, exit_code=1)
    else:
        done = run(command, *arguments, *kwargs_file, exit_code=1)
        shown = done.stdout + done.stderr

    assert "Enter MFA code" not in shown
    assert "profile mfa requires an MFA code, which no task can enter" in " ".join(shown.split())


def test_nothing_keeps_its_output(configure: Any, kwargs_file: tuple[str, str], tmp_path: Path) -> None:
    """Neither the error, nor the log, nor the host's cache, nor ``status`` or ``check``."""
    keys = json.dumps({"Version": 1, "AccessKeyId": KEYS["aws_access_key_id"], "SessionToken": SECRET})
    program = tmp_path / "keys"
    program.write_text(f"#!/bin/sh\necho '{keys}' >&2; exit 3\n")
    program.chmod(0o755)
    configure(dev={"credential_process": str(program)})

    shown = [run("token", "docker_default", *kwargs_file, exit_code=1)]
    shown += [run("status", *kwargs_file), run("check", "--output", "json", *kwargs_file, exit_code=1)]
    kept = [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]

    assert "ended with exit code 3" in kept[0]
    assert all("ended with exit code 3" in done.stdout + done.stderr for done in shown)
    assert SECRET not in f"{shown} {kept}"


class TestSso:
    START_URL = "https://corp.example/start"
    REJECTION = Reply('{"__type": "UnauthorizedException", "message": "Session token not found or invalid"}', 401)

    @pytest.fixture(params=["sso_session", "older form"])
    def sso(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> Callable[[float], None]:
        """Configure the profile dev in one of the two forms, and give what logs in for some seconds."""
        form = {"sso_start_url": self.START_URL, "sso_region": "us-east-1"}
        profile = {"sso_account_id": "210987654321", "sso_role_name": "pull"}
        sections = {"profile dev": {**profile, **form}, "profile hub": {"role_arn": ROLE, "source_profile": "dev"}}
        key = self.START_URL
        if request.param == "sso_session":
            sections |= {"profile dev": {**profile, "sso_session": "corp"}, "sso-session corp": form}
            key = "corp"
        write(str(tmp_path / "config"), **sections)
        monkeypatch.setenv("HOME", str(tmp_path))

        def log_in(seconds: float) -> None:
            end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
            token = {"accessToken": SECRET, "expiresAt": end, "startUrl": self.START_URL, "region": "us-east-1"}
            cache = tmp_path / ".aws/sso/cache"
            cache.mkdir(parents=True)
            (cache / f"{sha1(key.encode(), usedforsecurity=False).hexdigest()}.json").write_text(json.dumps(token))

        return log_in

    def check(self, kwargs_file: tuple[str, str]) -> dict[str, Any]:
        """Run ``check`` in a process of its own, because botocore reads HOME when it is imported."""
        told = json.loads(run("check", "--output", "json", *kwargs_file, exit_code=1).stdout)
        finding: dict[str, Any] = told["findings"][-1]
        assert (finding["step"], finding["code"]) == ("AWS identity", "no-credentials")
        assert SECRET not in str(finding)
        assert "aws sso login --profile dev" in finding["remedy"]
        assert "A service needs another source than SSO" in finding["remedy"]
        return finding

    def test_who_never_logged_in_is_told_how(self, sso: Any, kwargs_file: tuple[str, str]) -> None:
        """And that a service needs another source; `check` lists what was asked before."""
        del sso
        finding = self.check(kwargs_file)

        assert "the SSO login of profile dev was not found" in finding["message"]
        assert [each["source"] for each in finding["sources"]][-1] == "SSO"

    def test_a_login_that_has_expired_is_to_be_renewed(
        self, aws: AwsStandIn, sso: Any, kwargs_file: tuple[str, str]
    ) -> None:
        """By the same command. An older botocore leaves it to the portal to say so."""
        sso(-10)
        aws.script(self.REJECTION)

        assert "the SSO login of profile dev has expired" in self.check(kwargs_file)["message"]

    def test_a_login_that_the_portal_rejects_is_to_be_renewed(
        self, aws: AwsStandIn, sso: Any, kwargs_file: tuple[str, str]
    ) -> None:
        """It was ended there, before its time."""
        sso(3600)
        aws.script(self.REJECTION)

        assert "the SSO login of profile dev has expired" in self.check(kwargs_file)["message"]

    def test_the_profile_behind_a_role_is_the_one_to_log_in(
        self, sso: Any, kwargs_file: tuple[str, str], tmp_path: Path
    ) -> None:
        """Not the one that the settings name."""
        del sso
        kwargs = json.loads((tmp_path / "kwargs.json").read_text())
        (tmp_path / "kwargs.json").write_text(json.dumps({**kwargs, "profile_name": "hub"}))

        assert "the SSO login of profile dev was not found" in self.check(kwargs_file)["message"]
