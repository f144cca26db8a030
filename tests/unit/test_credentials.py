"""How the sources of credentials are asked, and why one has none: botocore's own, with AWS's ends on loopback."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import botocore.session
import pytest
from airflow.models.connection import Connection
from botocore.credentials import Credentials
from botocore.exceptions import NoCredentialsError

from ecr_secrets_backend import aws as aws_module
from ecr_secrets_backend import credentials
from ecr_secrets_backend.aws import request_token
from ecr_secrets_backend.aws_errors import CredentialsError
from ecr_secrets_backend.cli.check.aws import identify
from ecr_secrets_backend.credentials import MfaRequiredError, load, refuse_mfa
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.identity import AwsIdentity
from tests.stand_ins.credentials import CredentialEndpoint, Proxy, pod_token, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ecr_secrets_backend.errors import TokenFailure
    from tests.stand_ins.aws import AwsStandIn

IDENTITY = AwsIdentity(service="ecr", region="us-east-1")
ROLE = "arn:aws:iam::210987654321:role/pull"
KEYS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "a-secret"}
SECRET = "an-undisclosed-session-token"
ROLE_OPTIONS = {"role_arn": "a-role"}
KEY_OPTIONS = {"aws_access_key_id": "an-id", "aws_secret_access_key": "a-secret"}


pytestmark = pytest.mark.usefixtures("bare")


def build_session(*sources: tuple[str, Callable[[], Any]], profile: str | None = None, **profiles: Any) -> Any:
    """Build what of a session of botocore is used: its chain, and its configuration."""
    providers = [SimpleNamespace(METHOD=method, load=load) for method, load in sources]
    return SimpleNamespace(
        get_component=lambda _: SimpleNamespace(providers=providers),
        get_config_variable={"profile": profile, "config_file": "config", "credentials_file": "keys"}.get,
        full_config={"profiles": profiles},
    )


def absent() -> None:
    pass


def test_the_first_source_that_has_credentials_gives_them() -> None:
    """Those behind it are not asked."""
    session = build_session(("env", absent), ("new", lambda: Credentials("an-id", "a-secret")), ("sso", pytest.fail))
    keys, sources = load(session)

    assert (keys.access_key, sources[-1].source) == ("an-id", "new")
    assert [source.message for source in sources] == ["no AWS_ACCESS_KEY_ID", "has credentials"]


def test_a_source_that_botocore_gets_one_day_is_listed_by_its_name() -> None:
    """It is asked like any other."""
    with pytest.raises(CredentialsError) as caught:
        load(build_session(("telepathy", absent)))

    (source,) = caught.value.sources
    assert (source.source, source.message) == ("telepathy", "no credentials")


def test_each_source_is_asked_once() -> None:
    """What it says is kept for the list: some take seconds."""
    asked: list[str] = []
    session = build_session(("sso", lambda: asked.append("sso")), ("env", lambda: asked.append("env")))
    with pytest.raises(CredentialsError):
        load(session)

    assert asked == ["sso", "env"]


def test_credentials_without_a_key_are_none() -> None:
    """The next source is asked."""
    session = build_session(("env", lambda: Credentials("", "")), ("new", lambda: Credentials("an-id", "a-secret")))

    _, sources = load(session)

    assert sources[-1].source == "new"


def test_a_source_that_hangs_is_reported_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the last of the list, behind those that answered."""
    monkeypatch.setattr(credentials, "SECONDS", 0.05)
    may_end = threading.Event()
    with pytest.raises(CredentialsError) as caught:
        load(build_session(("env", absent), ("new", may_end.wait)))
    may_end.set()

    assert isinstance(caught.value.cause, TimeoutError)
    assert [source.source for source in caught.value.sources] == ["environment", "new"]
    assert "no answer within 0 s" in caught.value.sources[-1].message


def test_a_request_has_time_left_when_a_source_is_given_up() -> None:
    """The whole of it has 20 s."""
    assert credentials.SECONDS < 20


def test_a_timeout_of_a_source_is_its_own() -> None:
    """And not taken for ours."""

    def time_out() -> None:
        raise TimeoutError("in 3 s")

    with pytest.raises(CredentialsError) as caught:
        load(build_session(("new", time_out)))

    assert caught.value.sources[-1].message == "in 3 s"


def test_what_fails_in_a_way_of_its_own_is_explained_alike() -> None:
    """As Airflow's amazon provider, whose session is not asked for its chain."""

    def fail() -> NoReturn:
        raise NoCredentialsError

    with pytest.raises(CredentialsError) as caught:
        load(build_session(("env", pytest.fail)), fail)

    assert [source.message for source in caught.value.sources] == ["no AWS_ACCESS_KEY_ID"]


def test_an_airflow_connection_that_hangs_is_reported_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for a file that cannot be read."""
    monkeypatch.setattr(credentials, "SECONDS", 0.05)
    may_end = threading.Event()

    def hang() -> NoReturn:
        may_end.wait()
        raise NoCredentialsError

    with pytest.raises(CredentialsError) as caught:
        load(build_session(), hang)
    may_end.set()

    assert caught.value.explanation is not None
    assert caught.value.explanation[0] == "Airflow connection: no answer within 0 s"


@pytest.mark.parametrize(
    ("profiles", "requires_code"),
    [
        ({"default": {**ROLE_OPTIONS, "source_profile": "base", "mfa_serial": "a"}, "base": KEY_OPTIONS}, True),
        (
            {
                "default": {**ROLE_OPTIONS, "source_profile": "b"},
                "b": {**ROLE_OPTIONS, "source_profile": "c", "mfa_serial": "a"},
            },
            True,
        ),
        ({"default": {**ROLE_OPTIONS, "source_profile": "default", "mfa_serial": "a", **KEY_OPTIONS}}, True),
        (
            {
                "default": {**ROLE_OPTIONS, "source_profile": "b"},
                "b": {**ROLE_OPTIONS, **KEY_OPTIONS, "mfa_serial": "a"},
            },
            False,
        ),
        ({"default": {**ROLE_OPTIONS, "web_identity_token_file": "a", "mfa_serial": "a"}}, False),
        ({"default": {**KEY_OPTIONS, "mfa_serial": "a"}}, False),
        (
            {"default": {**ROLE_OPTIONS, "source_profile": "b"}, "b": {**ROLE_OPTIONS, "source_profile": "default"}},
            False,
        ),
        ({"other": {**ROLE_OPTIONS, "source_profile": "other", "mfa_serial": "a"}}, False),
        ({}, False),
    ],
)
def test_only_a_code_that_botocore_would_ask_for_is_refused(profiles: dict[str, Any], requires_code: bool) -> None:
    """That of a role that is assumed, of the profile or of one behind it."""
    session = build_session(**profiles)

    if requires_code:
        with pytest.raises(MfaRequiredError):
            refuse_mfa(session)
    else:
        refuse_mfa(session)


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., None]:
    """Write AWS's configuration file, a profile for each argument."""
    return lambda **profiles: write(
        str(tmp_path / "config"), **{f"profile {name}": options for name, options in profiles.items()}
    )


def error_of(profile_name: str | None = None, **fields: Any) -> TokenError:
    """Fail to load credentials as ``check`` does."""
    with pytest.raises(TokenError) as caught:
        identify(replace(IDENTITY, profile_name=profile_name, **fields))
    assert str(caught.value).isprintable()
    return caught.value


def failure_of(profile_name: str | None = None, **fields: Any) -> TokenFailure:
    """Fail to load credentials as a lookup does."""
    with pytest.raises(TokenError) as caught:
        request_token(replace(IDENTITY, profile_name=profile_name, **fields))
    assert str(caught.value).isprintable()
    return caught.value.failure


def message_of(error: TokenError, source: str) -> str:
    (message,) = [each.message for each in error.sources if each.source == source]
    return message


class TestList:
    """What ``check`` lists."""

    def test_every_source_of_botocore_is_listed_in_its_order(self) -> None:
        """With what it says, none of it empty."""
        chain = botocore.session.Session().get_component("credential_provider").providers
        error = error_of()

        assert len(error.sources) == len(chain)
        messages = {each.source: each.message for each in error.sources}
        assert messages["environment"] == "no AWS_ACCESS_KEY_ID"
        assert messages["role of a profile"] == f"profile default: not in {os.environ['AWS_CONFIG_FILE']}"
        assert messages["web identity (IRSA)"] == "no AWS_WEB_IDENTITY_TOKEN_FILE"
        assert messages["container"].startswith("no AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or ")
        assert next(iter(messages)) == "environment"
        assert list(messages)[-1] == "instance metadata"
        assert all(messages.values())

    def test_each_source_has_a_name_in_words(self) -> None:
        """None is called by botocore's name alone, whichever botocore is installed."""
        chain = botocore.session.Session().get_component("credential_provider").providers
        names = [each.source for each in error_of().sources]

        assert all(" " in name or name in {"environment", "SSO", "container", "credential_process"} for name in names)
        assert len(set(names)) == len(chain)

    def test_a_profile_that_lacks_an_option_is_told_from_one_that_is_not_there(self, configure: Any) -> None:
        """By the option's name."""
        configure(dev={"region": "us-east-1"})

        assert message_of(error_of("dev"), "SSO") == "profile dev: no sso_account_id"

    def test_the_list_ends_at_the_source_that_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As botocore does: it asks no other."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        (source,) = error_of().sources

        assert "missing: AWS_SECRET_ACCESS_KEY" in source.message

    def test_the_source_that_has_credentials_is_the_last(self, configure: Any) -> None:
        """The list says why those before it were not used."""
        configure(dev=KEYS)
        found = identify(replace(IDENTITY, profile_name="dev"))

        assert found.sources[-1].source == "config file"
        assert found.sources[-1].message == "has credentials"
        assert found.sources[0].message == "profile dev: no role_arn"


class TestInstanceMetadata:
    @pytest.fixture
    def endpoint(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CredentialEndpoint]:
        with CredentialEndpoint.running("ec2", tmp_path / "pod") as endpoint:
            for name, value in endpoint.environment().items():
                monkeypatch.setenv(name, value)
            yield endpoint

    def test_no_answer_suggests_the_hop_limit(self, endpoint: CredentialEndpoint) -> None:
        """Of a container on an instance whose answers travel one hop; it is not waited for twice."""
        endpoint.is_silent = True
        started_at = time.monotonic()
        failure = failure_of()

        assert failure.code == "NoCredentialsError"
        assert failure.reason.endswith("instance metadata: no answer from 127.0.0.1 within 1 s, hop limit?")
        assert "set HttpPutResponseHopLimit of the instance to 2, or give the container a role" in failure.fix
        assert "AWS_PROFILE" in failure.fix
        assert time.monotonic() - started_at < 2.9  # botocore asks twice, for 1 s each

    def test_an_instance_without_a_role_needs_one(self, endpoint: CredentialEndpoint) -> None:
        """It answers, so it is no question of the network."""
        endpoint.has_role = False
        failure = failure_of()

        assert "127.0.0.1 answers, but has no credentials" in failure.reason
        assert "Attach a role to this instance" in failure.fix

    def test_an_address_that_refuses_is_not_one_without_a_role(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing listens there: this is no instance, or it has no network."""
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")

        assert message_of(error_of(), "instance metadata") == "127.0.0.1 cannot be reached: Connection refused"

    def test_a_variable_that_disables_it_is_named(self) -> None:
        """As in the environment of these tests."""
        failure = failure_of()

        assert "disabled by AWS_EC2_METADATA_DISABLED" in failure.reason
        assert "Unset AWS_EC2_METADATA_DISABLED" in failure.fix

    @pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
    def test_a_proxy_in_its_way_is_named(self, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        """With the address that NO_PROXY lacks; the requests for it did go to the proxy."""
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with Proxy.running() as proxy:
            monkeypatch.setenv(variable, proxy.url)
            failure = failure_of()

        assert proxy.asked[0] == "http://169.254.169.254/latest/api/token"
        assert f"{variable} sends the requests to a proxy" in failure.reason
        assert "because 169.254.169.254 is not in NO_PROXY" in failure.reason
        assert "Add 169.254.169.254 to NO_PROXY" in failure.fix

    def test_a_proxy_that_cannot_be_reached_is_named_alike(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An exception of its own is raised by botocore; the proxy's password is not shown."""
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("HTTP_PROXY", f"http://user:{SECRET}@127.0.0.1:9")
        error = error_of()

        assert "Add 169.254.169.254 to NO_PROXY" in error.failure.fix
        assert SECRET not in f"{error} {error.sources}"

    def test_a_profile_may_name_it_as_its_source(self, configure: Any) -> None:
        """The explanation is the same as without a profile."""
        configure(dev={"role_arn": ROLE, "credential_source": "Ec2InstanceMetadata"})

        assert "disabled by AWS_EC2_METADATA_DISABLED" in failure_of("dev").reason


class TestContainer:
    @pytest.fixture
    def endpoint(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CredentialEndpoint]:
        (tmp_path / "pod").write_text(pod_token("airflow:worker"))
        with CredentialEndpoint.running("eks", tmp_path / "pod") as endpoint:
            for name, value in endpoint.environment().items():
                monkeypatch.setenv(name, value)
            monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
            yield endpoint

    def test_an_agent_that_refuses_is_named(
        self, endpoint: CredentialEndpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the status, and without a word of its answer."""
        del endpoint
        monkeypatch.delenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        failure = failure_of()

        assert failure.code == "CredentialRetrievalError"
        assert failure.reason == "127.0.0.1 answers 401"
        assert "an EKS Pod Identity association" in failure.fix

    def test_keys_that_are_not_in_an_answer_are_no_answer_of_aws(self, endpoint: CredentialEndpoint) -> None:
        """A KeyError is raised by botocore."""
        endpoint.has_role = False
        failure = failure_of()

        assert failure.code == "KeyError"
        assert failure.reason == "127.0.0.1 gives no credentials"

    def test_a_token_that_is_not_there_is_named(self, endpoint: CredentialEndpoint, tmp_path: Path) -> None:
        """By its path."""
        del endpoint
        (tmp_path / "pod").unlink()

        assert failure_of().reason == f"{tmp_path}/pod: No such file or directory"

    def test_a_proxy_is_not_asked_for_it(self, endpoint: CredentialEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever the variables say: boto3 sends these requests directly, and so a proxy is never the cause."""
        with Proxy.running() as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)

            assert identify(IDENTITY).sources[-1].source == "container"
            assert endpoint.given
            assert not [target for target in proxy.asked if "credentials" in target]

    @pytest.mark.parametrize(
        ("variable", "uri", "address"),
        [
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/x", "169.254.170.2"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials", "169.254.170.23"),
        ],
    )
    def test_no_answer_names_the_address_and_clears_the_proxy(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, uri: str, address: str
    ) -> None:
        """On ECS and on EKS."""

        def connect(*_: object) -> None:  # whatever answers to that address where the tests run
            raise OSError(errno.EHOSTUNREACH, "No route to host")

        monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
        monkeypatch.setenv(variable, uri)
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "connect", connect)
            failure = failure_of()

        assert failure.reason.startswith(f"no answer from {address} (HTTP_PROXY does not matter")
        assert f"Let this container reach {address}" in failure.fix


class TestWebIdentity:
    @pytest.fixture(autouse=True)
    def _pod(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))

    def test_a_token_that_is_missing_is_named(self, tmp_path: Path) -> None:
        """By its path, with what mounts it."""
        failure = failure_of()

        assert f"cannot read the token {tmp_path}/token: No such file or directory" in failure.reason
        for part in ("eks.amazonaws.com/role-arn", "service account", "mount", "fsGroup"):
            assert part in failure.fix

    def test_a_profile_may_name_the_token(self, configure: Any, tmp_path: Path) -> None:
        """Also behind another profile."""
        token = str(tmp_path / "another")
        configure(
            hub={"role_arn": ROLE, "source_profile": "pod"},
            pod={"role_arn": ROLE, "web_identity_token_file": token},
        )

        assert f"cannot read the token {token}" in failure_of("hub").reason

    def test_a_role_that_is_not_named_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In botocore's words."""
        monkeypatch.delenv("AWS_ROLE_ARN")

        assert "has no role ARN configured" in failure_of().reason


class TestMfa:
    PROFILES: ClassVar = {
        "mfa": {"role_arn": ROLE, "source_profile": "base", "mfa_serial": "arn:aws:iam::123456789012:mfa/a"},
        "base": KEYS,
        "dev": {"role_arn": ROLE, "source_profile": "mfa"},
    }
    REASON = "profile mfa requires an MFA code, which no task can enter"

    @pytest.mark.parametrize("profile", ["mfa", "dev"])
    def test_a_lookup_says_so_and_does_not_ask(self, aws: AwsStandIn, configure: Any, profile: str) -> None:
        """Also where the code is required behind ``source_profile``."""
        configure(**self.PROFILES)
        failure = failure_of(profile)

        assert (failure.code, failure.reason) == ("MfaRequiredError", self.REASON)
        assert failure.fix == "Use a role or temporary keys."
        assert aws.calls() == []

    def test_a_profile_whose_keys_are_used_needs_no_code(self, configure: Any) -> None:
        """Behind another profile, botocore uses its keys and not its role."""
        configure(**{**self.PROFILES, "mfa": {**self.PROFILES["mfa"], **KEYS}})

        assert "arn:aws:" in identify(replace(IDENTITY, profile_name="dev")).message

    def test_keys_of_the_environment_need_no_code(self, configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """They come before the role of a profile that a variable names."""
        configure(**self.PROFILES)
        monkeypatch.setenv("AWS_PROFILE", "mfa")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")

        assert identify(IDENTITY).sources[-1].source == "environment"


class TestProgram:
    """``credential_process``."""

    KEYS = json.dumps({"Version": 1, "AccessKeyId": "ASIAIOSFODNN7EXAMPLE", "SessionToken": SECRET})

    @pytest.fixture
    def program(self, tmp_path: Path) -> Callable[[str], str]:
        """Write a program of the shell, and give its path."""

        def write(text: str) -> str:
            path = tmp_path / "keys"
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
            return str(path)

        return write

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            (f"echo '{KEYS}' >&2; exit 3", "ended with exit code 3"),
            (f"set -x; : '{SECRET}'; false", "ended with exit code 1"),
            (f"echo '{KEYS}'", "did not print the JSON that AWS documents"),
            (f"echo '[\"{SECRET}\"]'", "did not print the JSON that AWS documents"),
            (f"echo 'Version: {SECRET}'", "did not print the JSON that AWS documents"),
            (f'echo \'{{"Version": "{SECRET}"}}\'', "did not print the JSON that AWS documents"),
            (f"printf '{SECRET}\\377'", "did not print the JSON that AWS documents"),
        ],
        ids=["JSON to stderr", "set -x", "a key is missing", "a list", "no JSON", "another version", "no text"],
    )
    @pytest.mark.parametrize("profile", ["dev", "hub"])
    def test_a_program_that_fails_is_named_and_not_quoted(
        self, configure: Any, program: Any, text: str, problem: str, profile: str
    ) -> None:
        """Also behind a role. Its arguments may be secret, too."""
        path = program(text)
        configure(
            dev={"credential_process": f"{path} --password {SECRET}"}, hub={"role_arn": ROLE, "source_profile": "dev"}
        )
        error = error_of(profile)

        if profile == "hub" and error.failure.code == "CredentialRetrievalError":
            problem = "failed"  # botocore starts it itself, and does not report the exit code
        assert error.failure.reason == f"{path} {problem}"
        assert "Run the credential_process of profile dev as this user" in error.failure.fix
        assert SECRET not in f"{error} {error.sources}"

    @pytest.mark.parametrize(("mode", "problem"), [(None, "No such file or directory"), (0o644, "Permission denied")])
    @pytest.mark.parametrize("profile", ["dev", "hub"])
    def test_a_program_that_cannot_be_started_is_named(
        self, configure: Any, program: Any, mode: int | None, problem: str, profile: str
    ) -> None:
        """It is not installed here, or not for this user."""
        path = program("")
        if mode is None:
            Path(path).unlink()
        else:
            Path(path).chmod(mode)
        configure(dev={"credential_process": path}, hub={"role_arn": ROLE, "source_profile": "dev"})

        assert failure_of(profile).reason == f"{path} cannot be started: {problem}"

    @pytest.mark.parametrize("profile", ["dev", "hub"])
    def test_a_program_that_does_not_end_is_named_in_time(
        self, configure: Any, monkeypatch: pytest.MonkeyPatch, profile: str
    ) -> None:
        """Before the whole request is given up, whose message could not name it."""
        configure(dev={"credential_process": "sleep 3"}, hub={"role_arn": ROLE, "source_profile": "dev"})
        monkeypatch.setattr(credentials, "SECONDS", 1.0)
        error = error_of(profile)

        assert error.failure.code == "TimedOut"
        assert "sleep did not end within 1 s" in error.failure.reason
        assert "Run the credential_process of profile dev" in error.failure.fix
        assert error.sources[-1].message == "sleep did not end within 1 s"


class TestFips:
    """A region in which ECR has no FIPS endpoint: no name server knows its name."""

    @pytest.fixture(autouse=True)
    def _no_names(self, bare: AwsStandIn) -> Iterator[None]:
        def getaddrinfo(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        del bare  # it is reset when names are known again
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("AWS_ENDPOINT_URL")
            patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
            patch.setattr(socket, "getaddrinfo", getaddrinfo)
            patch.setattr(aws_module, "ATTEMPTS", 1)
            yield

    @pytest.mark.parametrize("asker", ["the host of the registry", "AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint"])
    def test_what_asks_for_it_is_named(self, configure: Any, monkeypatch: pytest.MonkeyPatch, asker: str) -> None:
        """A host, a variable, or a profile."""
        profile = None
        if asker.isupper():
            monkeypatch.setenv(asker, "true")
        elif asker == "use_fips_endpoint":
            configure(dev={**KEYS, asker: "true"})
            profile = "dev"
        failure = failure_of(profile, region="eu-west-2", use_fips=asker.startswith("the host"))

        assert failure.code == "EndpointConnectionError"
        assert f"ECR may have no FIPS endpoint in eu-west-2, and {asker}" in failure.fix
        assert "let this host reach that endpoint" in failure.fix

    def test_sts_is_not_taken_for_ecr(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is asked first where a role is assumed."""
        monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")

        assert "STS may have no FIPS endpoint" in failure_of(region="eu-west-2", role_arn=ROLE).fix

    def test_another_endpoint_is_not_taken_for_one(self) -> None:
        """That cannot be reached either."""
        assert "FIPS" not in failure_of(region="eu-west-2").fix


@pytest.mark.parametrize("error", [EOFError(SECRET), KeyError(SECRET), ValueError(SECRET), RuntimeError("broken")])
def test_what_a_source_raises_is_no_answer_of_aws(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """An answer is what came over the wire."""

    def load(_: object) -> None:
        raise error

    monkeypatch.setattr("botocore.credentials.BotoProvider.load", load)
    failure = failure_of()

    assert failure.code == type(error).__name__
    assert "AWS" not in failure.reason
    assert SECRET not in str(failure)


class TestAirflowConnection:
    """The amazon provider asks botocore's chain where the connection has no keys."""

    @pytest.fixture
    def connection(self, configure: Any) -> Callable[..., Any]:
        def build(**extra: object) -> Any:
            return Connection(conn_id="aws_ecr", conn_type="aws", extra=json.dumps(extra))

        configure(**TestMfa.PROFILES, program={"credential_process": "false"})
        return build

    def failure(self, connection: Any) -> TokenError:
        with pytest.raises(TokenError) as caught:
            identify(replace(IDENTITY, aws_conn_id="aws_ecr"), connection)
        return caught.value

    @pytest.mark.parametrize("role", [{}, {"role_arn": ROLE}])
    def test_it_does_not_ask_for_a_code_either(self, connection: Any, role: dict[str, str]) -> None:
        """Whether the connection assumes a role or not."""
        assert self.failure(connection(profile_name="mfa", **role)).failure.reason == TestMfa.REASON

    @pytest.mark.parametrize("role", [{}, {"role_arn": ROLE}])
    def test_the_sources_of_botocore_are_listed_where_it_has_none(self, connection: Any, role: dict[str, str]) -> None:
        """As without a connection."""
        error = self.failure(connection(**role))

        assert "disabled by AWS_EC2_METADATA_DISABLED" in error.failure.reason
        assert message_of(error, "environment") == "no AWS_ACCESS_KEY_ID"

    @pytest.mark.parametrize("role", [{}, {"role_arn": ROLE}])
    def test_a_program_that_fails_is_named(self, connection: Any, role: dict[str, str]) -> None:
        """That of the connection's profile."""
        error = self.failure(connection(profile_name="program", **role))

        assert error.failure.reason == "false failed"
