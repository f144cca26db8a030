"""The search through botocore's sources of credentials, and why each has none; AWS's services are on loopback."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import botocore.session
import pytest
from airflow.models.connection import Connection
from botocore.credentials import Credentials
from botocore.exceptions import NoCredentialsError, PartialCredentialsError, UnauthorizedSSOTokenError

from ecr_secrets_backend import aws as aws_module
from ecr_secrets_backend import credentials
from ecr_secrets_backend.aws import call_aws, request_token
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
CHAINED = {"role_arn": ROLE, "source_profile": "b"}
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


def raising(error: Exception) -> Callable[[], NoReturn]:
    def load() -> NoReturn:
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


def test_each_source_is_tried_once() -> None:
    """Some take seconds."""
    tried: list[str] = []
    search_error(build_session(("sso", lambda: tried.append("sso")), ("env", lambda: tried.append("env"))))

    assert tried == ["sso", "env"]


@pytest.mark.parametrize("is_airflow", [False, True])
def test_a_source_that_hangs_is_named_in_time(monkeypatch: pytest.MonkeyPatch, is_airflow: bool) -> None:
    """It is the last of the list."""
    monkeypatch.setattr(credentials, "SEARCH_TIMEOUT_SECONDS", 0.05)
    may_end = threading.Event()
    error = search_error(build_session(("env", absent), ("new", may_end.wait)), may_end.wait if is_airflow else None)
    may_end.set()

    assert isinstance(error.cause, TimeoutError)
    assert [source.source for source in error.sources] == (
        ["Airflow connection"] if is_airflow else ["environment", "new"]
    )
    assert error.reason == f"{error.sources[-1].source}: no answer within 0 s"


def test_a_timeout_of_a_source_is_not_mistaken_for_ours() -> None:
    error = search_error(build_session(("new", raising(TimeoutError("in 3 s")))))

    assert (error.reason, error.sources[-1].message) == ("in 3 s", "in 3 s")


@pytest.mark.parametrize("load_from_airflow", [absent, raising(NoCredentialsError())])
def test_the_sources_of_botocore_are_listed_if_the_amazon_provider_has_none(load_from_airflow: Any) -> None:
    """The amazon provider has searched them."""
    error = search_error(build_session(("env", pytest.fail)), load_from_airflow)

    assert [source.message for source in error.sources] == ["no AWS_ACCESS_KEY_ID"]


def test_an_expired_sso_login_is_reported_with_the_command_that_renews_it() -> None:
    error = search_error(build_session(("sso", raising(UnauthorizedSSOTokenError())), profile="dev"))

    assert error.reason == "the SSO login of profile dev has expired"
    assert str(error.fix).startswith("Run aws sso login --profile dev as this user.")


def test_a_wrong_profile_is_named_with_its_file() -> None:
    wrong = PartialCredentialsError(provider="config-file", cred_var="aws_secret_access_key")

    assert search_error(build_session(("config-file", raising(wrong)))).fix == "Correct profile default in config."


def test_a_file_that_this_user_cannot_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root can read every file

    (source,) = search_error(build_session(("config-file", absent))).sources
    assert source.message == f"config is not readable by this user (uid {os.geteuid()})"


def test_a_wrong_url_of_a_container_is_shown() -> None:
    error = search_error(build_session(("container-role", raising(ValueError("Unsupported host 'x'")))))

    assert error.reason == "Unsupported host 'x'"
    assert str(error.fix).startswith("Correct AWS_CONTAINER_CREDENTIALS_FULL_URI")


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


def error_of(profile_name: str | None = None, **fields: Any) -> TokenError:
    """Fail to load credentials as ``check`` does."""
    with pytest.raises(TokenError) as caught:
        call_aws(identify, replace(IDENTITY, profile_name=profile_name, **fields))
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
    """The sources that ``check`` lists."""

    def test_each_source_of_botocore_is_listed_in_its_order_under_a_name_in_words(self) -> None:
        chain = botocore.session.Session().get_component("credential_provider").providers
        sources = error_of().sources
        messages = {each.source: each.message for each in sources}

        assert len(messages) == len(sources) == len(chain)
        assert all(
            " " in name or name in {"environment", "SSO", "container", "credential_process"} for name in messages
        )
        assert messages["environment"] == "no AWS_ACCESS_KEY_ID"
        assert messages["role of a profile"] == f"profile default: not in {os.environ['AWS_CONFIG_FILE']}"
        assert messages["web identity (IRSA)"] == "no AWS_WEB_IDENTITY_TOKEN_FILE"
        assert messages["container"].startswith("no AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or ")
        assert next(iter(messages)) == "environment"
        assert list(messages)[-1] == "instance metadata"
        assert all(messages.values())

    def test_an_option_that_a_profile_lacks_is_named(self, configure: Any) -> None:
        configure(dev={"region": "us-east-1"})

        assert message_of(error_of("dev"), "SSO") == "profile dev: no sso_account_id"

    def test_the_list_ends_at_the_source_that_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Like botocore's own search."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        (source,) = error_of().sources

        assert "missing: AWS_SECRET_ACCESS_KEY" in source.message

    def test_the_list_ends_at_the_source_with_credentials(self, configure: Any) -> None:
        """It shows why those before were not used."""
        configure(dev=KEYS)
        sources = call_aws(identify, replace(IDENTITY, profile_name="dev")).sources

        assert (sources[0].message, sources[-1].message) == ("profile dev: no role_arn", "has credentials")
        assert sources[-1].source == "config file"


@pytest.fixture
def endpoint(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """What provides credentials to an instance, or to a pod with a token in the file ``pod``."""
    (tmp_path / "pod").write_text(pod_token("airflow:worker"))
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    with CredentialEndpoint.running(request.cls.KIND, tmp_path / "pod") as endpoint:
        for name, value in endpoint.environment().items():
            monkeypatch.setenv(name, value)
        yield endpoint


class TestInstanceMetadata:
    KIND = "ec2"

    def test_no_answer_suggests_the_hop_limit(self, endpoint: CredentialEndpoint) -> None:
        """A container may be one hop further than the answers go. The search does not wait for it twice."""
        endpoint.is_silent = True
        started_at = time.monotonic()
        failure = failure_of()

        assert failure.code == "NoCredentialsError"
        assert failure.reason.endswith("instance metadata: no answer from 127.0.0.1 within 1 s, hop limit?")
        assert "set HttpPutResponseHopLimit of the instance to 2, or use a role for the task" in failure.fix
        assert "AWS_PROFILE" in failure.fix
        assert time.monotonic() - started_at < 2.9  # botocore asks twice, for 1 s each

    def test_an_instance_without_a_role_is_reported(self, endpoint: CredentialEndpoint) -> None:
        endpoint.has_role = False
        failure = failure_of()

        assert "127.0.0.1 answers, but has no credentials" in failure.reason
        assert "Attach a role to this instance" in failure.fix

    def test_an_address_that_refuses_the_connection_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """This is not an instance, or it has no network."""
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")

        assert message_of(error_of(), "instance metadata") == "127.0.0.1 cannot be reached: Connection refused"

    def test_the_variable_that_disables_it_is_named(self, configure: Any) -> None:
        """Also if a profile uses it as its credential_source."""
        configure(dev={"role_arn": ROLE, "credential_source": "Ec2InstanceMetadata"})
        failure = failure_of()

        assert "disabled by AWS_EC2_METADATA_DISABLED" in failure.reason
        assert "Unset AWS_EC2_METADATA_DISABLED" in failure.fix
        assert "disabled by AWS_EC2_METADATA_DISABLED" in failure_of("dev").reason

    @pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
    def test_a_proxy_that_gets_its_requests_is_named(self, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        """With the address that NO_PROXY lacks."""
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with Proxy.running() as proxy:
            monkeypatch.setenv(variable, proxy.url)
            failure = failure_of()

        assert proxy.asked[0] == "http://169.254.169.254/latest/api/token"
        assert f"{variable} sends the requests to a proxy" in failure.reason
        assert "because 169.254.169.254 is not in NO_PROXY" in failure.reason
        assert "Add 169.254.169.254 to NO_PROXY" in failure.fix

    def test_a_proxy_that_cannot_be_reached_is_named_without_its_password(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("HTTP_PROXY", f"http://user:{SECRET}@127.0.0.1:9")
        error = error_of()

        assert "Add 169.254.169.254 to NO_PROXY" in error.failure.fix
        assert SECRET not in f"{error} {error.sources}"


class TestContainer:
    KIND = "eks"

    @pytest.mark.usefixtures("endpoint")
    def test_an_agent_that_refuses_is_reported_with_the_http_status(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its answer is not shown."""
        monkeypatch.delenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        failure = failure_of()

        assert failure.code == "CredentialRetrievalError"
        assert failure.reason == "127.0.0.1 answers 401"
        assert "an EKS Pod Identity association" in failure.fix

    def test_an_answer_without_keys_is_reported(self, endpoint: CredentialEndpoint) -> None:
        """For it, botocore raises a KeyError."""
        endpoint.has_role = False
        failure = failure_of()

        assert (failure.code, failure.reason) == ("KeyError", "127.0.0.1 answers without credentials")

    @pytest.mark.usefixtures("endpoint")
    def test_a_missing_token_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "pod").unlink()

        assert failure_of().reason == f"{tmp_path}/pod: No such file or directory"

    def test_a_proxy_gets_no_request_for_it(
        self, endpoint: CredentialEndpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """boto3 sends these requests directly, so a proxy is never the cause."""
        with Proxy.running() as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)

            assert call_aws(identify, IDENTITY).sources[-1].source == "container"
            assert endpoint.given
            assert not [target for target in proxy.asked if "credentials" in target]

    @pytest.mark.parametrize(
        ("variable", "uri", "address"),
        [
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/x", "169.254.170.2"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials", "169.254.170.23"),
        ],
    )
    def test_no_answer_names_the_address_and_excludes_the_proxy(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, uri: str, address: str
    ) -> None:
        """On ECS and on EKS."""

        def connect(*_: object) -> None:  # the host of the tests may have a route to that address
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

    def test_a_missing_token_is_named_with_its_mount(self, tmp_path: Path) -> None:
        failure = failure_of()

        assert f"cannot read the token {tmp_path}/token: No such file or directory" in failure.reason
        for part in ("eks.amazonaws.com/role-arn", "service account", "mount", "fsGroup"):
            assert part in failure.fix

    def test_the_token_of_a_source_profile_is_named(self, configure: Any, tmp_path: Path) -> None:
        token = str(tmp_path / "another")
        configure(
            hub={"role_arn": ROLE, "source_profile": "pod"},
            pod={"role_arn": ROLE, "web_identity_token_file": token},
        )

        assert f"cannot read the token {token}" in failure_of("hub").reason

    def test_a_missing_role_is_reported_with_the_message_of_botocore(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ROLE_ARN")

        assert "has no role ARN configured" in failure_of().reason


class TestMfa:
    PROFILES: ClassVar = {
        "mfa": {**MFA, "source_profile": "base"},
        "base": KEYS,
        "dev": {"role_arn": ROLE, "source_profile": "mfa"},
    }
    REASON = "profile mfa requires an MFA code, which no task can enter"

    @pytest.mark.parametrize("profile", ["mfa", "dev"])
    def test_a_lookup_reports_the_code_and_does_not_read_it(
        self, aws: AwsStandIn, configure: Any, profile: str
    ) -> None:
        """Also if a source_profile requires it."""
        configure(**self.PROFILES)
        failure = failure_of(profile)

        assert (failure.code, failure.reason) == ("MfaRequiredError", self.REASON)
        assert failure.fix == "Use a role or temporary keys."
        assert aws.calls() == []

    def test_a_source_profile_with_keys_needs_no_code(self, configure: Any) -> None:
        """Its keys are used, and not its role."""
        configure(**{**self.PROFILES, "mfa": {**self.PROFILES["mfa"], **KEYS}})

        assert "arn:aws:" in call_aws(identify, replace(IDENTITY, profile_name="dev")).message

    def test_keys_of_the_environment_need_no_code(self, configure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """They come before the role of a profile."""
        configure(**self.PROFILES)
        monkeypatch.setenv("AWS_PROFILE", "mfa")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")

        assert call_aws(identify, IDENTITY).sources[-1].source == "environment"


class TestProgram:
    """``credential_process``."""

    KEYS = json.dumps({"Version": 1, "AccessKeyId": "ASIAIOSFODNN7EXAMPLE", "SessionToken": SECRET})

    @pytest.fixture
    def program(self, tmp_path: Path) -> Callable[[str], str]:
        """Write a shell script, and return its path."""

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
    def test_a_program_that_fails_is_named_without_its_output(
        self, configure: Any, program: Any, text: str, problem: str, profile: str
    ) -> None:
        """Also in a source_profile. Its arguments may be secret, too."""
        path = program(text)
        configure(
            dev={"credential_process": f"{path} --password {SECRET}"}, hub={"role_arn": ROLE, "source_profile": "dev"}
        )
        error = error_of(profile)

        if profile == "hub" and error.failure.code == "CredentialRetrievalError":
            problem = "failed"  # botocore starts it, and does not report the exit code
        assert error.failure.reason == f"{path} {problem}"
        assert "Run the credential_process of profile dev as this user" in error.failure.fix
        assert SECRET not in f"{error} {error.sources}"

    @pytest.mark.parametrize(("mode", "problem"), [(None, "No such file or directory"), (0o644, "Permission denied")])
    @pytest.mark.parametrize("profile", ["dev", "hub"])
    def test_a_program_that_cannot_be_started_is_named(
        self, configure: Any, program: Any, mode: int | None, problem: str, profile: str
    ) -> None:
        """It is not installed on this host, or not for this user."""
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
        """The timeout of the whole request could not name it."""
        configure(dev={"credential_process": "sleep 3"}, hub={"role_arn": ROLE, "source_profile": "dev"})
        monkeypatch.setattr(credentials, "SEARCH_TIMEOUT_SECONDS", 1.0)
        error = error_of(profile)

        assert error.failure.code == "TimedOut"
        assert "sleep did not end within 1 s" in error.failure.reason
        assert "Run the credential_process of profile dev" in error.failure.fix
        assert error.sources[-1].message == "sleep did not end within 1 s"


class TestFips:
    """A region without a FIPS endpoint of ECR: it has no DNS record."""

    @pytest.fixture(autouse=True)
    def _no_names(self, bare: AwsStandIn) -> Iterator[None]:
        def getaddrinfo(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        del bare  # ends after this fixture, because its reset needs DNS
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("AWS_ENDPOINT_URL")
            patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
            patch.setattr(socket, "getaddrinfo", getaddrinfo)
            patch.setattr(aws_module, "ATTEMPTS", 1)
            yield

    @pytest.mark.parametrize("setting", ["the host of the registry", "AWS_USE_FIPS_ENDPOINT", "use_fips_endpoint"])
    def test_the_setting_that_asks_for_it_is_named(
        self, configure: Any, monkeypatch: pytest.MonkeyPatch, setting: str
    ) -> None:
        profile = None
        if setting.isupper():
            monkeypatch.setenv(setting, "true")
        elif setting == "use_fips_endpoint":
            configure(dev={**KEYS, setting: "true"})
            profile = "dev"
        failure = failure_of(profile, region="eu-west-2", use_fips=setting.startswith("the host"))

        assert failure.code == "EndpointConnectionError"
        assert f"ECR may have no FIPS endpoint in eu-west-2, and {setting}" in failure.fix
        assert "let this host reach that endpoint" in failure.fix

    def test_sts_is_named_if_it_has_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """To assume a role is the first call."""
        monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")

        assert "STS may have no FIPS endpoint" in failure_of(region="eu-west-2", role_arn=ROLE).fix

    def test_another_unreachable_endpoint_is_not_mistaken_for_it(self) -> None:
        assert "FIPS" not in failure_of(region="eu-west-2").fix


@pytest.mark.parametrize("error", [EOFError(SECRET), KeyError(SECRET), ValueError(SECRET), RuntimeError("broken")])
def test_an_exception_of_a_source_is_not_reported_as_an_answer_of_aws(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("botocore.credentials.BotoProvider.load", lambda _: raising(error)())
    failure = failure_of()

    assert failure.code == type(error).__name__
    assert "AWS" not in failure.reason
    assert SECRET not in str(failure)


@pytest.mark.usefixtures("aws")
def test_the_keys_of_an_airflow_connection_are_the_only_source() -> None:
    """The sources of botocore are not searched."""
    keys: Any = Connection(conn_id="aws_ecr", conn_type="aws", login="AKIAIOSFODNN7EXAMPLE", password="a-secret")
    (source,) = call_aws(identify, replace(IDENTITY, aws_conn_id="aws_ecr"), keys).sources

    assert source.message == "has credentials"


class TestAirflowConnection:
    """An Airflow connection without keys, for which the amazon provider searches botocore's sources."""

    @pytest.fixture(params=[{}, {"role_arn": ROLE}], ids=["no role", "role"])
    def failure(self, configure: Any, request: pytest.FixtureRequest) -> Callable[..., TokenError]:
        """Fail to load credentials with a connection of the given extra, which assumes a role or not."""
        configure(**TestMfa.PROFILES, program={"credential_process": "false"})

        def fail(**extra: object) -> TokenError:
            connection: Any = Connection(
                conn_id="aws_ecr", conn_type="aws", extra=json.dumps({**extra, **request.param})
            )
            with pytest.raises(TokenError) as caught:
                call_aws(identify, replace(IDENTITY, aws_conn_id="aws_ecr"), connection)
            return caught.value

        return fail

    def test_its_profile_may_not_require_a_code(self, failure: Callable[..., TokenError]) -> None:
        assert failure(profile_name="mfa").failure.reason == TestMfa.REASON

    def test_the_sources_of_botocore_are_listed(self, failure: Callable[..., TokenError]) -> None:
        error = failure()

        assert "disabled by AWS_EC2_METADATA_DISABLED" in error.failure.reason
        assert message_of(error, "environment") == "no AWS_ACCESS_KEY_ID"

    def test_the_program_of_its_profile_is_named(self, failure: Callable[..., TokenError]) -> None:
        assert failure(profile_name="program").failure.reason == "false failed"
