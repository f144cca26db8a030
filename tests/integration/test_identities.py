"""Whose token it is: each way by which boto3 and Airflow find credentials, against what stands in for AWS's ends."""

from __future__ import annotations

import json
import os
import ssl
from contextlib import closing, suppress
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from socketserver import BaseRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import trustme

from ecr_secrets_backend.aws import request_token
from ecr_secrets_backend.cache import Memory, TokenCache
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.settings import Settings
from tests.integration.faults import look_up
from tests.stand_ins.credentials import CredentialEndpoint, pod_token, write, write_keys
from tests.stand_ins.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.faults import Lookup
    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn, Call

HOUR = 3600.0
HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
ROLE = "arn:aws:iam::210987654321:role/pull"
CHAINED_ROLE = "arn:aws:iam::310987654321:role/hub"
FIRST_KEY, SECOND_KEY = "AKIAIOSFODNN7EXAMPLE", "AKIAI44QH8DHBEXAMPLE"


@pytest.fixture
def calls(bare: AwsStandIn, tmp_path: Path) -> Callable[..., list[Call]]:
    """Look up in a process of its own, by the host's cache, and list the calls that AWS had for it."""

    def look_up(**settings: Any) -> list[Call]:
        (mapped,) = Settings.parse({"connections": {"docker_default": HOST}, **settings}).connections.values()
        identity = mapped.identity.in_environment(os.environ)
        before = len(bare.calls())
        cache = TokenCache(HostStore(str(tmp_path / "cache")), HOUR, Memory())
        cache.get(identity, partial(request_token, identity))
        return bare.calls()[before:]

    return look_up


class TestSharedFiles:
    def test_static_keys_that_were_replaced_are_another_identity(self, calls: Any) -> None:
        """The old keys' token is not served to whoever has the new ones."""
        write_keys(FIRST_KEY)
        assert [call.access_key_id for call in calls()] == [FIRST_KEY]
        write_keys(SECOND_KEY)

        assert [call.access_key_id for call in calls()] == [SECOND_KEY]
        assert calls() == []

    def test_temporary_keys_that_rotate_cost_one_call(self, calls: Any) -> None:
        """The keys that a login tool writes every hour may be another user's, so their token is their own."""
        for key_id in ("ASIAIOSFODNN7EXAMPLE", "ASIAI44QH8DHBEXAMPLE"):
            write_keys(key_id, "a-session")
            assert [call.access_key_id for call in calls()] == [key_id]
            assert calls() == []

    @pytest.mark.parametrize(
        ("variable", "text"),
        [
            ("BOTO_CONFIG", "[Credentials]\naws_access_key_id = {}\naws_secret_access_key = a-secret\n"),
            ("AWS_CREDENTIAL_FILE", "AWSAccessKeyId={}\nAWSSecretKey=a-secret\n"),
        ],
    )
    def test_processes_with_other_files_of_older_tools_do_not_share(
        self, calls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, text: str
    ) -> None:
        """boto3 still reads them, and each process is served the token of its own keys."""
        for key_id in (FIRST_KEY, SECOND_KEY):
            (tmp_path / key_id).write_text(text.format(key_id))
            monkeypatch.setenv(variable, str(tmp_path / key_id))
            assert [call.access_key_id for call in calls()] == [key_id]

    def test_another_profile_is_another_identity(self, calls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whether a setting names it or a variable does."""
        keys = {"aws_access_key_id": FIRST_KEY, "aws_secret_access_key": "a-secret"}
        others = {"aws_access_key_id": SECOND_KEY, "aws_secret_access_key": "a-secret"}
        write(os.environ["AWS_SHARED_CREDENTIALS_FILE"], default=keys, other=others)
        seen = [call.access_key_id for call in calls() + calls(profile_name="other")]
        monkeypatch.setenv("AWS_PROFILE", "other")

        assert seen + [call.access_key_id for call in calls()] == [FIRST_KEY, SECOND_KEY, SECOND_KEY]

    def test_a_profile_may_assume_a_role_and_another_on_top_of_it(self, calls: Any) -> None:
        """Role chaining: the role of the profile assumes the role of the settings."""
        write_keys(FIRST_KEY, profile="base")
        hub = {"role_arn": CHAINED_ROLE, "source_profile": "base", "external_id": "an-id"}
        write(os.environ["AWS_CONFIG_FILE"], **{"profile hub": hub})

        first, second, last = calls(profile_name="hub", role_arn=ROLE)

        assert [call.operation for call in (first, second, last)] == ["AssumeRole"] * 2 + ["GetAuthorizationToken"]
        assert [call.parameters["RoleArn"] for call in (first, second)] == [CHAINED_ROLE, ROLE]
        assert [call.account for call in (first, second, last)] == ["123456789012", "310987654321", "210987654321"]
        assert first.parameters["ExternalId"] == "an-id"

    def test_another_role_of_a_profile_is_another_identity(self, calls: Any) -> None:
        """Though the profile has kept its name and its keys."""
        write_keys(FIRST_KEY, profile="base")
        for role in (ROLE, CHAINED_ROLE):
            profile = {"role_arn": role, "source_profile": "base"}
            write(os.environ["AWS_CONFIG_FILE"], **{"profile hub": profile})
            assume, _ = calls(profile_name="hub")
            assert assume.parameters["RoleArn"] == role

    def test_a_program_may_give_the_credentials(self, calls: Any, tmp_path: Path) -> None:
        """A profile's ``credential_process``."""
        keys = {"Version": 1, "AccessKeyId": FIRST_KEY, "SecretAccessKey": "a-secret"}
        (tmp_path / "keys").write_text(json.dumps(keys))
        write(os.environ["AWS_CONFIG_FILE"], default={"credential_process": f"cat {tmp_path / 'keys'}"})

        assert [call.access_key_id for call in calls()] == [FIRST_KEY]


class TestRole:
    def test_sts_gets_all_that_a_role_may_be_assumed_with(self, calls: Any) -> None:
        """Each argument, as it was written, serialised as STS reads it."""
        write_keys(FIRST_KEY)
        arguments = {
            "DurationSeconds": 900,
            "ExternalId": "an-id",
            "Policy": '{"Version": "2012-10-17", "Statement": []}',
            "PolicyArns": [{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}],
            "ProvidedContexts": [{"ProviderArn": "arn:aws:iam::aws:contextProvider/x", "ContextAssertion": "text"}],
            "RoleSessionName": "airflow",
            "SourceIdentity": "a-person",
            "Tags": [{"Key": "team", "Value": "data"}],
            "TransitiveTagKeys": ["team"],
        }

        assume, token = calls(role_arn=ROLE, assume_role_kwargs=arguments)

        assert assume.parameters == {
            "RoleArn": ROLE,
            "DurationSeconds": "900",
            "ExternalId": "an-id",
            "Policy": '{"Version": "2012-10-17", "Statement": []}',
            "PolicyArns.member.1.arn": "arn:aws:iam::aws:policy/ReadOnlyAccess",
            "ProvidedContexts.member.1.ProviderArn": "arn:aws:iam::aws:contextProvider/x",
            "ProvidedContexts.member.1.ContextAssertion": "text",
            "RoleSessionName": "airflow",
            "SourceIdentity": "a-person",
            "Tags.member.1.Key": "team",
            "Tags.member.1.Value": "data",
            "TransitiveTagKeys.member.1": "team",
        }
        assert token.account == "210987654321"

    @pytest.mark.parametrize(
        "arguments", [{"DurationSeconds": "a-secret"}, {"ExternalId": {"a": "a-secret"}}, {"Tags": ["a-secret"]}]
    )
    def test_an_argument_that_is_not_valid_fails_the_lookup(
        self, bare: AwsStandIn, calls: Any, arguments: dict[str, object]
    ) -> None:
        """boto3 refuses it before it calls AWS, and the failure does not repeat the value."""
        write_keys(FIRST_KEY)

        with pytest.raises(TokenError) as caught:
            calls(role_arn=ROLE, assume_role_kwargs=arguments)

        failure = caught.value.failure
        assert failure.code == "ParamValidationError"
        assert failure.reason.startswith(f"boto3 rejects the argument {next(iter(arguments))}")
        assert "assume_role_kwargs" in failure.fix
        assert "a-secret" not in str(caught.value)
        assert bare.calls() == []

    def test_a_pod_may_bring_its_web_identity(
        self, calls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """EKS's roles for service accounts: the token file is shown to STS as it is now, and may be replaced."""
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        (tmp_path / "token").write_text(web_identity := pod_token("airflow:worker"))

        assume, token = calls()

        assert assume.operation == "AssumeRoleWithWebIdentity"
        assert (assume.parameters["RoleArn"], assume.parameters["WebIdentityToken"]) == (ROLE, web_identity)
        assert token.account == "210987654321"
        (tmp_path / "token").write_text(pod_token("airflow:worker"))
        assert calls() == []

    def test_web_identities_of_other_service_accounts_do_not_share(
        self, calls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Their role is the same, but AWS may refuse it to one of them."""
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        for service_account in ("airflow:worker", "airflow:other"):
            (tmp_path / "token").write_text(pod_token(service_account))
            assert len(calls()) == 2


class TestEndpoints:
    @pytest.mark.parametrize("kind", ["ec2", "ecs", "eks"])
    def test_a_host_a_task_and_a_pod_have_keys_of_their_own(
        self, calls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: Any
    ) -> None:
        """From the endpoint that AWS gives them; that its keys rotate costs no call."""
        (tmp_path / "pod").write_text(pod_token("airflow:worker"))
        with CredentialEndpoint.running(kind, tmp_path / "pod") as endpoint:
            for name, value in endpoint.environment().items():
                monkeypatch.setenv(name, value)

            (call,) = calls()

            assert [call.access_key_id] == endpoint.given[-1:]
            (tmp_path / "pod").write_text(pod_token("airflow:worker"))
            assert calls() == []

    def test_pods_of_other_service_accounts_do_not_share(
        self, calls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """EKS Pod Identity gives all pods the same environment; what it knows them by tells them apart."""
        with CredentialEndpoint.running("eks", tmp_path / "pod") as endpoint:
            for name, value in endpoint.environment().items():
                monkeypatch.setenv(name, value)
            for service_account in ("airflow:worker", "airflow:other"):
                (tmp_path / "pod").write_text(pod_token(service_account))
                assert len(calls()) == 1

    def test_processes_with_other_authorization_tokens_do_not_share(
        self, calls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """One agent serves them all, and knows each by the variable alone."""
        with CredentialEndpoint.running("eks", tmp_path / "pod") as endpoint:
            for name, value in endpoint.environment().items():
                monkeypatch.setenv(name, value)
            monkeypatch.delenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
            for token in ("one", "two"):
                (tmp_path / "pod").write_text(token)
                monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", token)
                assert len(calls()) == 1

    def test_an_endpoint_that_refuses_is_told(
        self, calls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """By botocore's words for it."""
        (tmp_path / "pod").write_text(pod_token("airflow:worker"))
        with CredentialEndpoint.running("eks", tmp_path / "pod") as endpoint:
            for name, value in endpoint.environment().items():
                monkeypatch.setenv(name, value)
            monkeypatch.delenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")

            with pytest.raises(TokenError) as caught:
                calls()

        assert caught.value.failure.code == "CredentialRetrievalError"
        assert "401" in caught.value.failure.reason


@pytest.fixture
def tls_front(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """An endpoint of AWS with TLS, in the environment; yields the CA bundle that clients need for it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with closing(HTTPConnection(urlsplit(aws.url).netloc)) as upstream:
                upstream.request("POST", self.path, body, dict(self.headers))
                answer = upstream.getresponse()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.getheader("Content-Type", ""))
                self.end_headers()
                self.wfile.write(answer.read())

        def log_message(self, *_: object) -> None:
            pass

    class Front(BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), context.wrap_socket(self.request, server_side=True) as connection:
                Handler(connection, self.client_address, self.server)

    with serving(Front) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{port}")
        yield str(tmp_path / "ca.pem")


class TestNeighbours:
    """Processes of one host that share the cache; the first has a fault of its own."""

    @pytest.fixture
    def first_and_second(
        self, aws: AwsStandIn, processes: Processes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> Callable[..., list[Lookup]]:
        def look_up_in_each(variable: str, *values: str) -> list[Lookup]:
            lookups: list[Lookup] = []
            for value in values:
                monkeypatch.setenv(variable, value)
                kwargs = {"connections": {"docker_default": HOST}, "cache_dir": str(tmp_path)}
                lookups += processes.run(look_up, kwargs, aws).lookups
            return lookups

        return look_up_in_each

    def test_a_proxy_that_is_gone_is_the_fault_of_one_process(
        self, first_and_second: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another process without that proxy has its token at once."""
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        faulty, sound = first_and_second("http_proxy", "http://127.0.0.1:9", "")

        assert "ProxyConnectionError" in faulty.error
        assert sound.valid

    def test_a_missing_ca_bundle_is_the_fault_of_one_process(self, tls_front: str, first_and_second: Any) -> None:
        """Another process that has the bundle has its token at once."""
        faulty, sound = first_and_second("REQUESTS_CA_BUNDLE", "/missing/ca.pem", tls_front)

        assert faulty.error
        assert sound.valid
