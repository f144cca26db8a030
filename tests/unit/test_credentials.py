"""The search through botocore's sources of credentials, and why each has none; AWS's services are on loopback."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn
from unittest.mock import patch

import botocore.session
import pytest
from airflow.models.connection import Connection
from botocore.credentials import Credentials
from botocore.exceptions import PartialCredentialsError, UnauthorizedSSOTokenError

from ecr_secrets_backend import credentials
from ecr_secrets_backend.aws import call_aws, request_token
from ecr_secrets_backend.aws_errors import CredentialsError
from ecr_secrets_backend.cli.check.aws import identify
from ecr_secrets_backend.credentials import MfaRequiredError, load, refuse_mfa
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.identity import AwsIdentity
from tests.stand_ins.credentials import CredentialEndpoint, pod_token, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableMapping
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

IDENTITY = AwsIdentity(service="ecr", region="us-east-1")
ROLE = "arn:aws:iam::210987654321:role/pull"
KEYS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "a-secret"}
SECRET = "an-undisclosed-session-token"
CHAINED = {"role_arn": ROLE, "source_profile": "b"}
NOT_JSON = "did not print the JSON that AWS documents"
CLOSED = "http://127.0.0.1:9"
PROXY = f"http://user:{SECRET}@127.0.0.1:9"
ENABLED = {"AWS_EC2_METADATA_DISABLED": "false"}
POD_TOKEN = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
MFA = {"role_arn": ROLE, "mfa_serial": "arn:aws:iam::123456789012:mfa/a"}


pytestmark = pytest.mark.usefixtures("bare")


def build_session(*sources: tuple[str, Callable[[], Any]], profile: str | None = None, **profiles: Any) -> Any:
    """Build the parts of a botocore session that the search uses: the sources, and the configuration."""
    providers = [SimpleNamespace(METHOD=method, load=load) for method, load in sources]
    return SimpleNamespace(
        get_component=lambda _: SimpleNamespace(providers=providers),
        get_config_variable={"profile": profile, "config_file": "config", "credentials_file": "keys"}.get,
        full_config={"profiles": profiles},
    )


def absent() -> None:
    pass


def raising(error: Exception) -> Callable[..., NoReturn]:
    def load(*_: object) -> NoReturn:
        raise error

    return load


def has_keys() -> Credentials:
    return Credentials("an-id", "a-secret")


def search_error(session: Any, load_from_airflow: Callable[[], Any] | None = None) -> CredentialsError:
    with pytest.raises(CredentialsError) as caught:
        load(session, load_from_airflow)
    return caught.value


def test_the_first_source_with_credentials_is_used() -> None:
    """Credentials without a key do not count. The sources after it are not tried."""
    no_key = ("telepathy", lambda: Credentials("", ""))
    keys, sources = load(build_session(("env", absent), no_key, ("new", has_keys), ("sso", pytest.fail)))

    assert keys.access_key == "an-id"
    assert [(source.source, source.message) for source in sources] == [
        ("environment", "no AWS_ACCESS_KEY_ID"),
        ("telepathy", "no credentials"),  # a source that a later botocore may have
        ("new", "has credentials"),
    ]


@pytest.mark.parametrize("sources", [["environment", "new"], ["Airflow connection"]])
def test_a_source_that_hangs_is_named_in_time(monkeypatch: pytest.MonkeyPatch, sources: list[str]) -> None:
    """It is the last of the list. Each source is tried once, because some take seconds."""
    monkeypatch.setattr(credentials, "SEARCH_TIMEOUT_SECONDS", 0.05)
    may_end = threading.Event()
    tried: list[str] = []
    session = build_session(("env", lambda: tried.append("environment")), ("new", may_end.wait))
    error = search_error(session, may_end.wait if sources == ["Airflow connection"] else None)
    may_end.set()

    assert isinstance(error.cause, TimeoutError)
    assert [source.source for source in error.sources] == sources
    assert error.reason == f"{sources[-1]}: no answer within 0 s"
    assert tried == sources[:-1]


@pytest.mark.parametrize(
    ("method", "error", "reason", "fix"),
    [
        ("sso", UnauthorizedSSOTokenError(), "the SSO login of profile dev has expired", "Run aws sso login --profile"),
        ("config-file", PartialCredentialsError(provider="", cred_var=""), "Partial", "Correct profile dev in config."),
        ("container-role", ValueError("Unsupported host 'x'"), "Unsupported host 'x'", "Correct AWS_CONTAINER_CRED"),
        ("new", TimeoutError("in 3 s"), "in 3 s", "None"),  # not the timeout of the search
        ("new", ValueError(SECRET), "the message is not shown, because it may hold a secret", "None"),
    ],
)
def test_a_source_that_fails_is_the_last_of_the_list_with_its_fix(
    method: str, error: Exception, reason: str, fix: str
) -> None:
    """Its exception is not reported as an answer of AWS, and shows no secret."""
    failed = search_error(build_session(("env", absent), (method, raising(error)), profile="dev"))

    assert failed.reason.startswith(reason)
    assert str(failed.fix).startswith(fix)
    assert (failed.cause, failed.sources[-1].message) == (error, failed.reason)
    assert SECRET not in str(failed.sources)


@pytest.mark.parametrize(
    ("profiles", "requires_code"),
    [
        ({"default": {**MFA, "source_profile": "b"}, "b": KEYS}, True),
        ({"default": CHAINED, "b": {**MFA, "source_profile": "c"}}, True),
        ({"default": {**MFA, **KEYS, "source_profile": "default"}}, True),
        ({"default": CHAINED, "b": {**MFA, **KEYS}}, False),
        ({"default": {**MFA, "web_identity_token_file": "a"}}, False),
        ({"default": {**KEYS, "mfa_serial": "a"}}, False),
        ({"default": CHAINED, "b": {"role_arn": ROLE, "source_profile": "default"}}, False),
        ({"other": {**MFA, "source_profile": "other"}}, False),
        ({}, False),
    ],
)
def test_a_role_with_mfa_is_refused_only_if_botocore_assumes_it(profiles: dict[str, Any], requires_code: bool) -> None:
    """The role may be that of the profile, or of one in the chain of its source_profile."""
    with pytest.raises(MfaRequiredError) if requires_code else nullcontext():
        refuse_mfa(build_session(**profiles))


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., None]:
    """Write AWS's configuration file, with a profile for each argument."""
    return lambda **profiles: write(
        str(tmp_path / "config"), **{f"profile {name}": options for name, options in profiles.items()}
    )


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Iterator[MutableMapping[str, str]]:
    """Return the variables of this process. The agent of ECS is at an address that refuses connections."""
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.IP_ADDRESS", "127.0.0.1:9")
    with patch.dict(os.environ):
        yield os.environ


def error_of(profile_name: str | None = None, **fields: Any) -> TokenError:
    """Fail to load credentials."""
    with pytest.raises(TokenError) as caught:
        request_token(replace(IDENTITY, profile_name=profile_name, **fields))
    assert str(caught.value).isprintable()
    assert SECRET not in f"{caught.value} {caught.value.sources}"
    return caught.value


def test_each_source_of_botocore_is_listed_in_its_order_under_a_name_in_words() -> None:
    chain = botocore.session.Session().get_component("credential_provider").providers
    sources = error_of().sources
    messages = {each.source: each.message for each in sources}

    assert len(messages) == len(sources) == len(chain)
    assert all(" " in name or name in {"environment", "SSO", "container", "credential_process"} for name in messages)
    assert messages["environment"] == "no AWS_ACCESS_KEY_ID"
    assert messages["role of a profile"] == f"profile default: not in {os.environ['AWS_CONFIG_FILE']}"
    assert messages["web identity (IRSA)"] == "no AWS_WEB_IDENTITY_TOKEN_FILE"
    assert messages["container"].startswith("no AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or ")
    assert list(messages)[-1] == "instance metadata"
    assert all(messages.values())


PROFILES = {
    "mfa": {**MFA, "source_profile": "base"},
    "base": KEYS,
    "dev": {"role_arn": ROLE, "source_profile": "mfa"},
    "host": {"role_arn": ROLE, "credential_source": "Ec2InstanceMetadata"},
    "hub": {"role_arn": ROLE, "source_profile": "pod"},
    "pod": {"role_arn": ROLE, "web_identity_token_file": "/a/token"},
    "program": {"credential_process": "false"},
}
MFA_REASON = "profile mfa requires an MFA code, which no task can enter"


@pytest.mark.parametrize(
    ("variables", "reason", "fixes"),
    [
        ({"AWS_ACCESS_KEY_ID": "an-id"}, "missing: AWS_SECRET_ACCESS_KEY", ["AWS_PROFILE"]),
        ({}, "disabled by AWS_EC2_METADATA_DISABLED", ["Unset AWS_EC2_METADATA_DISABLED", "AWS_PROFILE"]),
        ({"AWS_PROFILE": "host"}, "disabled by AWS_EC2_METADATA_DISABLED", ["Unset AWS_EC2_METADATA_DISABLED"]),
        ({**ENABLED, "AWS_EC2_METADATA_SERVICE_ENDPOINT": CLOSED}, "127.0.0.1 cannot be reached: Connection", []),
        ({**ENABLED, "http_proxy": PROXY}, "http_proxy sends the requests to", ["Add 169.254.169.254 to NO_PROXY"]),
        ({**ENABLED, "HTTP_PROXY": PROXY, "NO_PROXY": "127.0.0.1"}, "because 169.254.169.254 is not in NO_PROXY", []),
        (
            {"AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": "/a/token"},
            "cannot read the token /a/token: No such file or directory",
            ["eks.amazonaws.com/role-arn", "service account", "mount", "fsGroup"],
        ),
        ({"AWS_PROFILE": "hub"}, "cannot read the token /a/token: No such file or directory", ["fsGroup"]),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": CLOSED, "HTTP_PROXY": PROXY}, "(HTTP_PROXY does not", ["127.0.0.1"]),
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/x"}, "no answer from 169.254.170.2", ["reach 169.254.170.2"]),
        ({"AWS_PROFILE": "dev"}, MFA_REASON, ["Use a role or temporary keys."]),
    ],
)
def test_a_source_without_credentials_is_named_with_its_fix(
    aws: AwsStandIn, configure: Any, environ: Any, variables: dict[str, str], reason: str, fixes: list[str]
) -> None:
    """Also if a profile uses it as its credential_source or in its source_profile. AWS is not called."""
    configure(**PROFILES)
    environ.update(variables)
    error = error_of()

    assert reason in f"{error.failure.reason} {[source.message for source in error.sources]}"
    assert [fix for fix in fixes if fix not in error.failure.fix] == []
    assert aws.calls() == []


@pytest.mark.parametrize(
    ("variables", "sources"),
    [
        ({"AWS_PROFILE": "base"}, {0: "no AWS_ACCESS_KEY_ID", 1: "profile base: no role_arn", -1: "has credentials"}),
        ({"AWS_PROFILE": "mfa", **{name.upper(): key for name, key in KEYS.items()}}, {0: "has credentials"}),
    ],
)
def test_the_list_ends_at_the_source_with_credentials(
    configure: Any, environ: Any, variables: dict[str, str], sources: dict[int, str]
) -> None:
    """It shows why those before were not used. Keys of the environment need no MFA code."""
    configure(**PROFILES)
    environ.update(variables)
    messages = [source.message for source in call_aws(identify, IDENTITY).sources]

    assert {place: messages[place] for place in sources} == sources
    assert messages[-1] == "has credentials"


@pytest.mark.parametrize(
    ("kind", "has_role", "variables", "reason", "fix"),
    [
        ("ec2", None, {}, "no answer from 127.0.0.1 within 1 s, hop limit?", "set HttpPutResponseHopLimit of the"),
        ("ec2", False, {}, "127.0.0.1 answers, but has no credentials", "Attach a role to this instance"),
        ("eks", False, {}, "127.0.0.1 answers without credentials", "Attach a role to this task or pod"),
        ("eks", True, {POD_TOKEN: os.devnull}, "127.0.0.1 answers 401", "an EKS Pod Identity association"),
        ("eks", True, {POD_TOKEN: "/a/token"}, "/a/token: No such file or directory", "Restart the pod to mount the"),
    ],
    ids=["no answer", "no role", "no keys", "refused", "no token"],
)
def test_the_failure_of_an_instance_or_a_pod_is_reported(
    environ: Any, tmp_path: Path, kind: Any, has_role: bool | None, variables: dict[str, str], reason: str, fix: str
) -> None:
    """A container may be one hop further than the answers go. The search does not wait for them twice."""
    (tmp_path / "pod").write_text(pod_token("airflow:worker"))
    with CredentialEndpoint.running(kind, tmp_path / "pod") as endpoint:
        endpoint.has_role, endpoint.is_silent = bool(has_role), has_role is None
        environ.update({**endpoint.environment(), **variables})
        started_at = time.monotonic()
        failure = error_of().failure

    assert failure.reason.endswith(reason)
    assert fix in failure.fix
    assert time.monotonic() - started_at < 2.9  # botocore asks twice, for 1 s each


@pytest.mark.parametrize("profile", ["dev", "hub"])
class TestProgram:
    """``credential_process``, also in a source_profile, for which botocore starts it."""

    @pytest.mark.parametrize(
        ("program", "problem"),
        [
            (f"sh -c 'echo {SECRET} >&2; exit 3' --password {SECRET}", "ended with exit code 3"),
            (f"echo '{json.dumps({'Version': 1, 'AccessKeyId': SECRET})}'", NOT_JSON),
            (f"echo '[\"{SECRET}\"]'", NOT_JSON),
            (f"echo 'Version: {SECRET}'", NOT_JSON),
            (f"echo '{json.dumps({'Version': SECRET})}'", NOT_JSON),
            (f"printf '{SECRET}\\377'", NOT_JSON),
            ("/a/program", "cannot be started: No such file or directory"),
            ("/etc/passwd", "cannot be started: Permission denied"),
        ],
        ids=["exit code", "a key is missing", "a list", "no JSON", "other version", "no text", "no file", "no program"],
    )
    def test_a_program_that_fails_is_named_without_its_output(
        self, configure: Any, program: str, problem: str, profile: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Its arguments may be secret, too."""
        configure(dev={"credential_process": program}, hub={"role_arn": ROLE, "source_profile": "dev"})
        failure = error_of(profile).failure

        if profile == "hub" and failure.code == "CredentialRetrievalError":
            problem = "failed"  # botocore does not report the exit code
        assert failure.reason == f"{program.split(maxsplit=1)[0]} {problem}"
        assert "Run the credential_process of profile dev as this user" in failure.fix
        assert SECRET not in f"{failure}{capfd.readouterr()}"

    def test_a_program_that_does_not_end_is_named_in_time(
        self, configure: Any, monkeypatch: pytest.MonkeyPatch, profile: str
    ) -> None:
        """The timeout of the whole request could not name it."""
        configure(dev={"credential_process": "sleep 3"}, hub={"role_arn": ROLE, "source_profile": "dev"})
        monkeypatch.setattr(credentials, "SEARCH_TIMEOUT_SECONDS", 1.0)
        error = error_of(profile)

        assert error.failure.code == "TimedOut"
        assert "sleep did not end within 1 s" in error.failure.reason
        assert "Run the credential_process of profile dev" in error.failure.fix
        assert error.sources[-1].message == "sleep did not end within 1 s"


@pytest.mark.usefixtures("aws")
def test_the_keys_of_an_airflow_connection_are_the_only_source() -> None:
    """The sources of botocore are not searched."""
    keys: Any = Connection(conn_id="aws_ecr", conn_type="aws", login="AKIAIOSFODNN7EXAMPLE", password="a-secret")
    (source,) = call_aws(identify, replace(IDENTITY, aws_conn_id="aws_ecr"), keys).sources

    assert source.message == "has credentials"


@pytest.mark.parametrize("role", [{}, {"role_arn": ROLE}], ids=["no role", "role"])
@pytest.mark.parametrize(
    ("profile", "reason", "message"),
    [
        ({}, "disabled by AWS_EC2_METADATA_DISABLED", "no AWS_ACCESS_KEY_ID"),
        ({"profile_name": "mfa"}, MFA_REASON, MFA_REASON),
        ({"profile_name": "program"}, "false failed", "false failed"),
    ],
    ids=["no profile", "mfa", "program"],
)
def test_the_sources_of_botocore_are_listed_if_an_airflow_connection_has_no_keys(
    configure: Any, role: dict[str, str], profile: dict[str, str], reason: str, message: str
) -> None:
    """The amazon provider has searched them."""
    configure(**PROFILES)
    connection: Any = Connection(conn_id="aws_ecr", conn_type="aws", extra=json.dumps({**profile, **role}))
    with pytest.raises(TokenError) as caught:
        request_token(replace(IDENTITY, aws_conn_id="aws_ecr"), connection)

    assert reason in caught.value.failure.reason
    assert caught.value.sources[0].message == message
