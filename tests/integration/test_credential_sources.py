"""Credentials that are not there: which source was tried, and why it gave none. Real boto3, AWS's ends on loopback."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from configparser import RawConfigParser
from dataclasses import replace
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import botocore.session
import pytest
from airflow.models.connection import Connection

from ecr_secrets_backend import aws as aws_module
from ecr_secrets_backend import credentials
from ecr_secrets_backend.aws import mint
from ecr_secrets_backend.cli.check.aws import identify
from ecr_secrets_backend.errors import MintError
from ecr_secrets_backend.identity import AwsIdentity
from tests.integration.commands import US_HOST, run, run_on_terminal
from tests.requirements import need_root
from tests.stand_ins.aws import Reply
from tests.stand_ins.credentials import CredentialEndpoint, Proxy, pod_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ecr_secrets_backend.errors import MintFailure
    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn

IDENTITY = AwsIdentity(service="ecr", region="us-east-1")
ROLE = "arn:aws:iam::210987654321:role/pull"
NOBODY = 65534
KEYS = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "a-secret"}
SECRET = "an-undisclosed-session-token"


@pytest.fixture(autouse=True)
def bare(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AwsStandIn:
    """A process that no variable gives credentials; AWS's files are in the test's folder."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return aws


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., None]:
    """Write AWS's configuration file, a profile for each argument."""

    def configure(**profiles: dict[str, str]) -> None:
        parser = RawConfigParser()
        parser.read_dict({f"profile {name}": options for name, options in profiles.items()})
        with (tmp_path / "config").open("w") as file:
            parser.write(file)

    return configure


@pytest.fixture
def kwargs_file(tmp_path: Path) -> tuple[str, str]:
    """The arguments that have a command use the profile dev."""
    kwargs = {"connections": {"docker_default": US_HOST}, "profile_name": "dev", "cache_dir": str(tmp_path / "cache")}
    (tmp_path / "kwargs.json").write_text(json.dumps(kwargs))
    return "--backend-kwargs", str(tmp_path / "kwargs.json")


def error_of(profile_name: str | None = None, **fields: Any) -> MintError:
    """Fail to load credentials as ``check`` does."""
    with pytest.raises(MintError) as caught:
        identify(replace(IDENTITY, profile_name=profile_name, **fields))
    assert str(caught.value).isprintable()
    return caught.value


def failure_of(profile_name: str | None = None, **fields: Any) -> MintFailure:
    """Fail to load credentials as a lookup does."""
    with pytest.raises(MintError) as caught:
        mint(replace(IDENTITY, profile_name=profile_name, **fields))
    assert str(caught.value).isprintable()
    return caught.value.failure


def message_of(error: MintError, source: str) -> str:
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

    def test_check_shows_the_list_to_people_and_to_programs(self, tmp_path: Path) -> None:
        """A line for each source, or an object."""
        kwargs = json.dumps({"connections": {"docker_default": US_HOST}, "cache_dir": str(tmp_path / "cache")})
        table = run("check", "--backend-kwargs", "-", exit_code=1, given=kwargs).stdout
        lines = [line.strip() for line in table.splitlines()]
        told = run("check", "--output", "json", "--backend-kwargs", "-", exit_code=1, given=kwargs).stdout
        configuration, identity = json.loads(told)["findings"]

        assert "- environment: no AWS_ACCESS_KEY_ID" in lines
        assert "- instance metadata: disabled by AWS_EC2_METADATA_DISABLED" in lines
        assert identity["sources"][0] == {"source": "environment", "message": "no AWS_ACCESS_KEY_ID", "fix": None}
        assert "sources" not in configuration

    def test_a_file_that_this_user_may_not_read_is_the_cause(
        self, processes: Processes, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
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


def failure_in_process(**fields: Any) -> str:
    return str(failure_of(**fields))


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
        assert "set HttpPutResponseHopLimit of the instance to 2, or give the container a role" in failure.remedy
        assert "AWS_PROFILE" in failure.remedy
        assert time.monotonic() - started_at < 2.9  # botocore asks twice, for 1 s each

    def test_an_instance_without_a_role_needs_one(self, endpoint: CredentialEndpoint) -> None:
        """It answers, so it is no question of the network."""
        endpoint.has_role = False
        failure = failure_of()

        assert "127.0.0.1 answers, but has no credentials" in failure.reason
        assert "Attach a role to this instance" in failure.remedy

    def test_an_address_that_refuses_is_not_one_without_a_role(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing listens there: this is no instance, or it has no network."""
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")

        assert message_of(error_of(), "instance metadata") == "127.0.0.1 cannot be reached: Connection refused"

    def test_a_variable_that_disables_it_is_named(self) -> None:
        """As in the environment of these tests."""
        failure = failure_of()

        assert "disabled by AWS_EC2_METADATA_DISABLED" in failure.reason
        assert "Unset AWS_EC2_METADATA_DISABLED" in failure.remedy

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
        assert "Add 169.254.169.254 to NO_PROXY" in failure.remedy

    def test_a_proxy_that_cannot_be_reached_is_named_alike(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An exception of its own is raised by botocore; the proxy's password is not shown."""
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("HTTP_PROXY", f"http://user:{SECRET}@127.0.0.1:9")
        error = error_of()

        assert "Add 169.254.169.254 to NO_PROXY" in error.failure.remedy
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
        assert "an EKS Pod Identity association" in failure.remedy

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
        assert f"Let this container reach {address}" in failure.remedy


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
            assert part in failure.remedy

    def test_a_token_that_this_user_may_not_read_is_named(
        self, processes: Processes, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By its path, with the user and what lets it read the token."""
        need_root()
        token = shared_folder / "token"
        token.write_text(pod_token("airflow:worker"))
        token.chmod(0o600)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))

        failure = processes.run(failure_in_process, user=NOBODY)

        assert f"this user (uid {NOBODY}) cannot read the token {token}: Permission denied" in failure
        assert "fsGroup" in failure

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
        assert failure.remedy == "Use a role or temporary keys."
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

    @pytest.mark.parametrize("command", ["token", "check", "docker-config"])
    @pytest.mark.parametrize("has_terminal", [False, True])
    def test_no_command_asks_for_a_code(
        self, configure: Any, kwargs_file: tuple[str, str], tmp_path: Path, command: str, has_terminal: bool
    ) -> None:
        """Neither at a terminal nor without one."""
        configure(**self.PROFILES)
        arguments = {"token": ["docker_default"], "docker-config": ["--config", str(tmp_path)]}.get(command, [])
        if has_terminal:
            shown = run_on_terminal(command, *arguments, *kwargs_file, exit_code=1)
        else:
            done = run(command, *arguments, *kwargs_file, exit_code=1)
            shown = done.stdout + done.stderr

        assert "Enter MFA code" not in shown
        assert self.REASON in " ".join(shown.split())


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
        parser = RawConfigParser()
        parser.read_dict(sections)
        with (tmp_path / "config").open("w") as file:
            parser.write(file)
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
            problem = "failed"  # botocore starts it itself, and does not tell the exit code
        assert error.failure.reason == f"{path} {problem}"
        assert "Run the credential_process of profile dev as this user" in error.failure.remedy
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
        assert "Run the credential_process of profile dev" in error.failure.remedy
        assert error.sources[-1].message == "sleep did not end within 1 s"

    def test_nothing_keeps_its_output(
        self, configure: Any, program: Any, kwargs_file: tuple[str, str], tmp_path: Path
    ) -> None:
        """Neither the error, nor the log, nor the host's cache, nor ``status`` or ``check``."""
        configure(dev={"credential_process": program(f"echo '{self.KEYS}' >&2; exit 3")})

        shown = [run("token", "docker_default", *kwargs_file, exit_code=1)]
        shown += [run("status", *kwargs_file), run("check", "--output", "json", *kwargs_file, exit_code=1)]
        kept = [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]

        assert "ended with exit code 3" in kept[0]
        assert all("ended with exit code 3" in done.stdout + done.stderr for done in shown)
        assert SECRET not in f"{shown} {kept}"


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
        assert f"ECR may have no FIPS endpoint in eu-west-2, and {asker}" in failure.remedy
        assert "let this host reach that endpoint" in failure.remedy

    def test_sts_is_not_taken_for_ecr(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is asked first where a role is assumed."""
        monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")

        assert "STS may have no FIPS endpoint" in failure_of(region="eu-west-2", role_arn=ROLE).remedy

    def test_another_endpoint_is_not_taken_for_one(self) -> None:
        """That cannot be reached either."""
        assert "FIPS" not in failure_of(region="eu-west-2").remedy


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

    def failure(self, connection: Any) -> MintError:
        with pytest.raises(MintError) as caught:
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
