"""Each source of credentials of boto3, with a stand-in, and which processes share a token."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pytest

from ecr_secrets_backend.aws import request_token
from ecr_secrets_backend.cache import Memory, TokenCache
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.settings import Settings
from tests.process_helpers import REGISTRY, Host
from tests.stand_ins.credentials import CredentialEndpoint, pod_token, write, write_keys

if TYPE_CHECKING:
    from collections.abc import Callable
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


def test_keys_that_were_replaced_are_another_identity(calls: Any) -> None:
    """They may be another user's, so each new key costs one call."""
    for key_id in (FIRST_KEY, SECOND_KEY):
        write_keys(key_id)
        assert [call.access_key_id for call in calls()] == [key_id]
        assert calls() == []


def test_a_profile_may_assume_a_role_that_assumes_the_role_of_the_settings(calls: Any) -> None:
    """STS receives the arguments of each role in the form that it reads."""
    write_keys(FIRST_KEY, profile="base")
    hub = {"role_arn": CHAINED_ROLE, "source_profile": "base", "external_id": "an-id"}
    write(os.environ["AWS_CONFIG_FILE"], **{"profile hub": hub})
    arguments = {
        "Policy": '{"Version": "2012-10-17", "Statement": []}',
        "RoleSessionName": "airflow",
        "PolicyArns": [{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}],
        "Tags": [{"Key": "team", "Value": "data"}],
        "TransitiveTagKeys": ["team"],
    }

    first, second, last = calls(profile_name="hub", role_arn=ROLE, assume_role_kwargs=arguments)

    assert [call.operation for call in (first, second, last)] == ["AssumeRole"] * 2 + ["GetAuthorizationToken"]
    assert [call.account for call in (first, second, last)] == ["123456789012", "310987654321", "210987654321"]
    assert (first.parameters["RoleArn"], first.parameters["ExternalId"]) == (CHAINED_ROLE, "an-id")
    assert second.parameters == {
        "RoleArn": ROLE,
        "Policy": arguments["Policy"],
        "RoleSessionName": "airflow",
        "PolicyArns.member.1.arn": "arn:aws:iam::aws:policy/ReadOnlyAccess",
        "Tags.member.1.Key": "team",
        "Tags.member.1.Value": "data",
        "TransitiveTagKeys.member.1": "team",
    }


def test_each_service_account_with_a_web_identity_has_its_own_token(
    calls: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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


@pytest.mark.parametrize("kind", ["ec2", "ecs", "eks"])
def test_a_host_a_task_and_a_pod_have_keys_of_their_own(
    calls: Any, kind: Literal["ec2", "ecs", "eks"], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    From the endpoint that AWS provides; new keys of the same identity cost no call.

    EKS Pod Identity sets the same variables in all pods; only the pod's token is different.
    """
    (tmp_path / "pod").write_text(pod_token("airflow:worker"))
    with CredentialEndpoint.running(kind, tmp_path / "pod") as endpoint:
        for name, value in endpoint.environment().items():
            monkeypatch.setenv(name, value)
        (call,) = calls()
        assert [call.access_key_id] == endpoint.given[-1:]
        (tmp_path / "pod").write_text(pod_token("airflow:worker"))
        assert calls() == []
        (tmp_path / "pod").write_text(pod_token("airflow:other"))
        assert len(calls()) == (kind == "eks")


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
