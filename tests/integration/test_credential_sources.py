"""Sources without credentials, if the test needs another user, a terminal, or a command."""

from __future__ import annotations

import json
import time
from hashlib import sha1
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.aws import request_token
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.identity import AwsIdentity
from tests.integration.commands import run, run_on_terminal
from tests.process_helpers import REGISTRY
from tests.requirements import need_root
from tests.stand_ins.aws import Reply
from tests.stand_ins.credentials import pod_token, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn

ROLE = "arn:aws:iam::210987654321:role/pull"
USER = 65534
KEYS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "a-secret"}
SECRET = "an-undisclosed-session-token"
MFA_PROFILES = {
    "mfa": {"role_arn": ROLE, "source_profile": "base", "mfa_serial": "arn:aws:iam::123456789012:mfa/a"},
    "base": KEYS,
    "dev": {"role_arn": ROLE, "source_profile": "mfa"},
}

pytestmark = pytest.mark.usefixtures("bare")


def request_without_credentials() -> str:
    with pytest.raises(TokenError) as caught:
        request_token(AwsIdentity("ecr", "us-east-1"))
    return str(caught.value.failure)


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., None]:
    """Write AWS's configuration file, with a profile for each argument."""
    return lambda **profiles: write(
        str(tmp_path / "config"), **{f"profile {name}": options for name, options in profiles.items()}
    )


@pytest.fixture
def kwargs_file(tmp_path: Path) -> Callable[[str], tuple[str, str]]:
    """Return the arguments of a command that uses a profile."""

    def write_kwargs(profile: str) -> tuple[str, str]:
        kwargs = {"connections": {"docker_default": REGISTRY}, "profile_name": profile}
        (tmp_path / "kwargs.json").write_text(json.dumps({**kwargs, "cache_dir": str(tmp_path / "cache")}))
        return "--backend-kwargs", str(tmp_path / "kwargs.json")

    return write_kwargs


@pytest.mark.parametrize(
    ("variables", "reason", "fix"),
    [
        (
            ["AWS_SHARED_CREDENTIALS_FILE"],
            "{file} is not readable by this user (uid {user})",
            "Let this user read {file}",
        ),
        (
            ["AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"],
            "this user (uid {user}) cannot read the token {file}: Permission denied",
            "fsGroup",
        ),
    ],
    ids=["credentials file", "web identity"],
)
def test_a_file_that_this_user_may_not_read_is_the_cause(
    processes: Processes,
    shared_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: list[str],
    reason: str,
    fix: str,
) -> None:
    """It is named, though botocore reports nothing of a credentials file that it cannot read."""
    need_root()
    file = shared_folder / "file"
    file.write_text("[default]\n" if "AWS_ROLE_ARN" not in variables else pod_token("airflow:worker"))
    file.chmod(0o600)
    for variable in variables:
        monkeypatch.setenv(variable, ROLE if variable == "AWS_ROLE_ARN" else str(file))

    failure = processes.run(request_without_credentials, user=USER)

    for text in (reason, fix):
        assert text.format(file=file, user=USER) in failure


@pytest.mark.parametrize("command", ["token", "check", "docker-config"])
@pytest.mark.parametrize("has_terminal", [False, True])
def test_no_command_asks_for_an_mfa_code(
    configure: Any, kwargs_file: Any, tmp_path: Path, command: str, has_terminal: bool
) -> None:
    """Neither at a terminal nor without one."""
    configure(**MFA_PROFILES)
    options = {"token": ["docker_default"], "docker-config": ["--config", str(tmp_path)]}.get(command, [])
    arguments = [command, *options, *kwargs_file("dev")]
    if has_terminal:
        shown = run_on_terminal(*arguments, exit_code=1)
    else:
        done = run(*arguments, exit_code=1)
        shown = done.stdout + done.stderr

    assert "Enter MFA code" not in shown
    assert "profile mfa requires an MFA code, which no task can enter" in " ".join(shown.split())


def test_no_command_shows_the_output_of_a_credential_program(configure: Any, kwargs_file: Any, tmp_path: Path) -> None:
    """And the host's cache does not keep it."""
    keys = json.dumps({"Version": 1, "AccessKeyId": KEYS["aws_access_key_id"], "SessionToken": SECRET})
    program = tmp_path / "keys"
    program.write_text(f"#!/bin/sh\necho '{keys}' >&2; exit 3\n")
    program.chmod(0o755)
    configure(dev={"credential_process": str(program)})
    file = kwargs_file("dev")

    shown = [run("token", "docker_default", *file, exit_code=1)]
    shown += [run("status", *file), run("check", "--output", "json", *file, exit_code=1)]
    kept = [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]

    assert "ended with exit code 3" in kept[0]
    assert all("ended with exit code 3" in done.stdout + done.stderr for done in shown)
    assert SECRET not in f"{shown} {kept}"


class TestSso:
    START_URL = "https://corp.example/start"
    REJECTION = Reply('{"__type": "UnauthorizedException", "message": "Session token not found or invalid"}', 401)

    @pytest.fixture(params=["sso_session", "older form"])
    def log_in(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> Callable[[float], None]:
        """Configure the profile dev in one of the two forms; return a function that logs in for some seconds."""
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

    def check(self, file: tuple[str, str]) -> dict[str, Any]:
        """Run ``check`` in a process of its own, because botocore reads HOME when it is imported."""
        output = json.loads(run("check", "--output", "json", *file, exit_code=1).stdout)
        finding: dict[str, Any] = output["findings"][-1]
        assert (finding["step"], finding["code"]) == ("AWS identity", "no-credentials")
        assert SECRET not in str(finding)
        assert "aws sso login --profile dev" in finding["remedy"]
        assert "A service needs another source than SSO" in finding["remedy"]
        return finding

    @pytest.mark.usefixtures("log_in")
    @pytest.mark.parametrize("profile", ["dev", "hub"])
    def test_a_missing_login_is_named_with_its_command(self, kwargs_file: Any, profile: str) -> None:
        """Also if another profile assumes its role with the login; `check` lists SSO as the last source."""
        finding = self.check(kwargs_file(profile))

        assert "the SSO login of profile dev was not found" in finding["message"]
        if profile == "dev":
            assert [each["source"] for each in finding["sources"]][-1] == "SSO"

    @pytest.mark.parametrize("seconds", [-10, 3600])
    def test_an_expired_or_rejected_login_is_named_with_its_command(
        self, aws: AwsStandIn, log_in: Callable[[float], None], kwargs_file: Any, seconds: float
    ) -> None:
        """The portal rejects a login that was ended there; an older botocore sends it an expired one also."""
        log_in(seconds)
        aws.script(self.REJECTION)

        assert "the SSO login of profile dev has expired" in self.check(kwargs_file("dev"))["message"]
