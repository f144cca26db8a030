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
from tests.command_settings import write_kwargs
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
KEYS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "a-secret"}
SECRET = "an-undisclosed-session-token"
START_URL = "https://corp.example/start"

pytestmark = pytest.mark.usefixtures("bare")


def request_without_credentials() -> str:
    with pytest.raises(TokenError) as caught:
        request_token(AwsIdentity("ecr", "us-east-1"))
    return str(caught.value.failure)


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Write AWS's configuration, and return the arguments with which a command uses the profile ``dev``, or another."""

    def configure(profile: str = "dev", **sections: dict[str, str]) -> tuple[str, str]:
        write(str(tmp_path / "config"), **sections)
        kwargs = {"connections": {"docker_default": REGISTRY}, "profile_name": profile}
        return write_kwargs(tmp_path, {**kwargs, "cache_dir": str(tmp_path / "cache")})

    return configure


@pytest.mark.parametrize(
    ("variable", "reason", "fix"),
    [
        ("AWS_SHARED_CREDENTIALS_FILE", "{} is not readable by this user (uid 65534)", "Let this user read {}"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "(uid 65534) cannot read the token {}: Permission denied", "fsGroup"),
    ],
)
def test_a_file_that_this_user_may_not_read_is_the_cause(
    processes: Processes, shared_folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, reason: str, fix: str
) -> None:
    """It is named, though botocore reports nothing of a credentials file that it cannot read."""
    need_root()
    file = shared_folder / "file"
    file.write_text("[default]\n" if variable == "AWS_SHARED_CREDENTIALS_FILE" else pod_token("airflow:worker"))
    file.chmod(0o600)
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)  # of the web identity
    monkeypatch.setenv(variable, str(file))

    failure = processes.run(request_without_credentials, user=65534)

    assert reason.format(file) in failure
    assert fix.format(file) in failure


def test_no_command_asks_for_an_mfa_code(configure: Any) -> None:
    """Not even at a terminal."""
    mfa = {"role_arn": ROLE, "source_profile": "base", "mfa_serial": "arn:aws:iam::123456789012:mfa/a"}
    dev = {"role_arn": ROLE, "source_profile": "mfa"}
    file = configure(**{"profile mfa": mfa, "profile base": KEYS, "profile dev": dev})
    shown = run_on_terminal("check", *file, exit_code=1)

    assert "Enter MFA code" not in shown
    assert "profile mfa requires an MFA code, which no task can enter" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("form", "profile", "login_seconds", "problem"),
    [
        ("sso_session", "dev", None, "was not found"),
        ("older form", "hub", None, "was not found"),
        ("older form", "dev", -10, "has expired"),
        ("sso_session", "dev", 3600, "has expired"),
    ],
)
def test_a_missing_expired_or_rejected_sso_login_is_named_with_its_command(
    aws: AwsStandIn,
    configure: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    form: str,
    profile: str,
    login_seconds: float | None,
    problem: str,
) -> None:
    """
    Also if another profile assumes its role with the login; ``check`` lists SSO as the last source.

    The portal rejects a login that was ended there; an older botocore sends it an expired one also.
    """
    sso = {"sso_start_url": START_URL, "sso_region": "us-east-1"}
    dev = {"sso_account_id": "210987654321", "sso_role_name": "pull"}
    sections = {"profile dev": {**dev, **sso}, "profile hub": {"role_arn": ROLE, "source_profile": "dev"}}
    if form == "sso_session":
        sections |= {"profile dev": {**dev, "sso_session": "corp"}, "sso-session corp": sso}
    monkeypatch.setenv("HOME", str(tmp_path))
    if login_seconds is not None:
        name = sha1(b"corp" if form == "sso_session" else START_URL.encode(), usedforsecurity=False).hexdigest()
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + login_seconds))
        token = {"accessToken": SECRET, "expiresAt": end, "startUrl": START_URL, "region": "us-east-1"}
        (tmp_path / ".aws/sso/cache").mkdir(parents=True)
        (tmp_path / f".aws/sso/cache/{name}.json").write_text(json.dumps(token))
    aws.script(Reply('{"__type": "UnauthorizedException", "message": "Session token not found or invalid"}', 401))
    # In a process of its own, because botocore reads HOME when it is imported.
    output = json.loads(run("check", "--output", "json", *configure(profile, **sections), exit_code=1).stdout)

    finding = output["findings"][-1]
    assert (finding["step"], finding["code"]) == ("AWS identity", "no-credentials")
    assert f"the SSO login of profile dev {problem}" in finding["message"]
    assert "aws sso login --profile dev" in finding["remedy"]
    assert "A service needs another source than SSO" in finding["remedy"]
    assert finding["sources"][-1]["source"] == ("SSO" if profile == "dev" else "role of a profile")
    assert SECRET not in str(finding)
