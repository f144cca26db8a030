"""Each source of credentials of boto3, with a stand-in, and which processes share a token."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.aws import request_token
from ecr_secrets_backend.cache import Memory, TokenCache
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.settings import Settings
from tests.process_helpers import REGISTRY, Host
from tests.stand_ins.credentials import CredentialEndpoint, pod_token, write, write_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn, Call

ROLE = "arn:aws:iam::210987654321:role/pull"
CHAINED_ROLE = "arn:aws:iam::310987654321:role/hub"
FIRST_KEY, SECOND_KEY = "AKIAIOSFODNN7EXAMPLE", "AKIAI44QH8DHBEXAMPLE"


@pytest.fixture
def calls(bare: AwsStandIn, tmp_path: Path) -> Callable[..., list[Call]]:
    """Look up as a new process of the host, and return the AWS calls of that."""

    def look_up(**settings: Any) -> list[Call]:
        (mapped,) = Settings.parse({"connections": {"docker_default": REGISTRY}, **settings}).connections.values()
        identity = mapped.identity.in_environment(os.environ)
        before = len(bare.calls())
        cache = TokenCache(HostStore(str(tmp_path / "cache")), 3600, Memory())
        cache.get(identity, partial(request_token, identity))
        return bare.calls()[before:]

    return look_up


def keys_of(calls: list[Call]) -> list[str]:
    return [call.access_key_id for call in calls]


class TestSharedFiles:
    @pytest.mark.parametrize("session_token", [None, "a-session"])
    def test_keys_that_were_replaced_are_another_identity(self, calls: Any, session_token: str | None) -> None:
        """They may be another user's, so each new key costs one call."""
        for key_id in (FIRST_KEY, SECOND_KEY):
            write_keys(key_id, session_token)
            assert keys_of(calls()) == [key_id]
            assert calls() == []

    @pytest.mark.parametrize(
        ("variable", "text"),
        [
            ("BOTO_CONFIG", "[Credentials]\naws_access_key_id = {}\naws_secret_access_key = a-secret\n"),
            ("AWS_CREDENTIAL_FILE", "AWSAccessKeyId={}\nAWSSecretKey=a-secret\n"),
        ],
    )
    def test_processes_with_different_files_of_older_tools_do_not_share(
        self, calls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, text: str
    ) -> None:
        """boto3 still reads them."""
        for key_id in (FIRST_KEY, SECOND_KEY):
            (tmp_path / key_id).write_text(text.format(key_id))
            monkeypatch.setenv(variable, str(tmp_path / key_id))
            assert keys_of(calls()) == [key_id]

    def test_another_profile_is_another_identity(self, calls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Named in a setting or in a variable."""
        profiles = {"default": FIRST_KEY, "other": SECOND_KEY}
        sections = {
            name: {"aws_access_key_id": key, "aws_secret_access_key": "a-secret"} for name, key in profiles.items()
        }
        write(os.environ["AWS_SHARED_CREDENTIALS_FILE"], **sections)
        keys = keys_of(calls() + calls(profile_name="other"))
        monkeypatch.setenv("AWS_PROFILE", "other")

        assert keys + keys_of(calls()) == [FIRST_KEY, SECOND_KEY, SECOND_KEY]

    def test_a_profile_may_assume_a_role_that_assumes_the_role_of_the_settings(self, calls: Any) -> None:
        """Role chaining."""
        write_keys(FIRST_KEY, profile="base")
        hub = {"role_arn": CHAINED_ROLE, "source_profile": "base", "external_id": "an-id"}
        write(os.environ["AWS_CONFIG_FILE"], **{"profile hub": hub})

        first, second, last = calls(profile_name="hub", role_arn=ROLE)

        assert [call.operation for call in (first, second, last)] == ["AssumeRole"] * 2 + ["GetAuthorizationToken"]
        assert [call.parameters["RoleArn"] for call in (first, second)] == [CHAINED_ROLE, ROLE]
        assert [call.account for call in (first, second, last)] == ["123456789012", "310987654321", "210987654321"]
        assert first.parameters["ExternalId"] == "an-id"


class TestRole:
    def test_sts_receives_each_argument_of_assume_role_kwargs(self, calls: Any) -> None:
        """In the form that STS reads."""
        write_keys(FIRST_KEY)
        texts = {
            "ExternalId": "an-id",
            "Policy": '{"Version": "2012-10-17", "Statement": []}',
            "RoleSessionName": "airflow",
            "SourceIdentity": "a-person",
        }
        arguments = {
            **texts,
            "DurationSeconds": 900,
            "PolicyArns": [{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}],
            "ProvidedContexts": [{"ProviderArn": "arn:aws:iam::aws:contextProvider/x", "ContextAssertion": "text"}],
            "Tags": [{"Key": "team", "Value": "data"}],
            "TransitiveTagKeys": ["team"],
        }

        assume, token = calls(role_arn=ROLE, assume_role_kwargs=arguments)

        assert assume.parameters == {
            **texts,
            "RoleArn": ROLE,
            "DurationSeconds": "900",
            "PolicyArns.member.1.arn": "arn:aws:iam::aws:policy/ReadOnlyAccess",
            "ProvidedContexts.member.1.ProviderArn": "arn:aws:iam::aws:contextProvider/x",
            "ProvidedContexts.member.1.ContextAssertion": "text",
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

    def test_each_service_account_with_a_web_identity_has_its_own_token(
        self, calls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """STS receives the current file; a new web identity of the same service account costs no call."""
        token = tmp_path / "token"
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        for service_account in ("airflow:worker", "airflow:other"):
            token.write_text(web_identity := pod_token(service_account))

            assume, request = calls()

            assert assume.operation == "AssumeRoleWithWebIdentity"
            assert (assume.parameters["RoleArn"], assume.parameters["WebIdentityToken"]) == (ROLE, web_identity)
            assert request.account == "210987654321"
            token.write_text(pod_token(service_account))
            assert calls() == []


class TestEndpoints:
    @pytest.fixture
    def endpoint(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> Iterator[CredentialEndpoint]:
        (tmp_path / "pod").write_text(pod_token("airflow:worker"))
        with CredentialEndpoint.running(getattr(request, "param", "eks"), tmp_path / "pod") as endpoint:
            for name, value in endpoint.environment().items():
                monkeypatch.setenv(name, value)
            yield endpoint

    @pytest.mark.parametrize("endpoint", ["ec2", "ecs", "eks"], indirect=True)
    def test_a_host_a_task_and_a_pod_have_keys_of_their_own(self, calls: Any, endpoint: CredentialEndpoint) -> None:
        """From the endpoint that AWS provides; new keys of the same identity cost no call."""
        (call,) = calls()

        assert [call.access_key_id] == endpoint.given[-1:]
        endpoint.pod_token.write_text(pod_token("airflow:worker"))
        assert calls() == []

    def test_pods_of_different_service_accounts_do_not_share(self, calls: Any, endpoint: CredentialEndpoint) -> None:
        """EKS Pod Identity sets the same variables in all pods; only the pod's token is different."""
        for service_account in ("airflow:worker", "airflow:other"):
            endpoint.pod_token.write_text(pod_token(service_account))
            assert len(calls()) == 1

    def test_processes_with_different_authorization_tokens_do_not_share(
        self, calls: Any, endpoint: CredentialEndpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One agent serves them all, and distinguishes them by this variable alone."""
        monkeypatch.delenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        for token in ("one", "two"):
            endpoint.pod_token.write_text(token)
            monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", token)
            assert len(calls()) == 1


def test_a_proxy_that_cannot_be_reached_fails_one_process_of_a_host(
    aws: AwsStandIn, processes: Processes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A process without that proxy shares the cache, and is served at once."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    host = Host(aws, processes, tmp_path)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    assert "ProxyConnectionError" in str(host.run().lookups[0].error)
    monkeypatch.delenv("http_proxy")
    host.look_up()
