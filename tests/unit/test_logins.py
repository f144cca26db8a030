from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend.cache import Memory
from ecr_secrets_backend.errors import ConnectionUnavailableError
from tests.airflow_version import put_into_task
from tests.stand_ins.aws import Error
from tests.stand_ins.credentials import write_keys
from tests.stand_ins.faults import private_answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn, Call

HOUR = 3600.0
HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
ROLE = "arn:aws:iam::210987654321:role/pull"
CHAINED_ROLE = "arn:aws:iam::310987654321:role/hub"
FIRST_KEY, SECOND_KEY = "AKIAIOSFODNN7EXAMPLE", "AKIAI44QH8DHBEXAMPLE"


def test_a_connection_without_a_registry_is_not_served_with_any_host(aws: AwsStandIn) -> None:
    """If AWS's answer does not name one either, the failure names the setting to add."""
    aws.script(private_answer(proxyEndpoint="http://169.254.169.254/"))
    backend = EcrSecretsBackend(connections={"docker_own": {"region_name": "us-east-1"}}, cache="process")

    with pytest.raises(ConnectionUnavailableError, match="UnusableAnswer: the answer names no registry") as caught:
        backend.get_connection("docker_own")

    assert "Set the connection's registry and region_name in backend_kwargs" in str(caught.value)


def test_a_token_is_renewed_by_refresh_before_and_cache_process_writes_no_file(aws: AwsStandIn, tmp_path: Path) -> None:
    """The default place of the host's cache is in the test's folder."""
    backend = EcrSecretsBackend(connections={"docker_default": HOST}, refresh_before=3 * HOUR, cache="process")
    backend.get_connection("docker_default")
    with freeze_time(datetime.now(timezone.utc) + timedelta(hours=10)):
        while len(aws.calls()) < 2:  # a renewal that is slower than a second is not waited for
            backend.get_connection("docker_default")

    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def add_connection(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def add(key_id: str | None = FIRST_KEY, **extra: object) -> None:
        keys = {} if key_id is None else {"login": key_id, "password": "a-secret-of-airflows"}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_ECR", json.dumps({"conn_type": "aws", **keys, "extra": extra}))

    return add


@pytest.fixture
def look_up(bare: AwsStandIn, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., list[Call]]:
    """Look up as a new process of the host, which is a task or a server, and return the AWS calls of that."""

    def look_up(connection: object = HOST, **settings: str) -> list[Call]:
        kwargs = {"cache_dir": str(tmp_path / "cache"), **(settings or {"aws_conn_id": "aws_ecr"})}
        backend = EcrSecretsBackend(connections={"docker_default": connection}, **kwargs)
        if getattr(request, "param", "task") == "task":
            put_into_task(backend)
        backend._logins._cache._memory = Memory()
        before = len(bare.calls())
        assert backend.get_connection("docker_default").password
        return bare.calls()[before:]

    return look_up


@pytest.mark.parametrize("look_up", ["server", "task"], indirect=True)
def test_an_airflow_connection_holds_the_credentials(look_up: Any, add_connection: Any) -> None:
    """New credentials are another identity, and cost one call."""
    for key_id, extra in ((FIRST_KEY, {}), ("ASIAI44QH8DHBEXAMPLE", {"aws_session_token": "a-session"})):
        add_connection(key_id, **extra)
        assert [call.access_key_id for call in look_up()] == [key_id]
        assert look_up() == []


@pytest.mark.parametrize("look_up", ["server", "task"], indirect=True)
def test_the_role_region_and_endpoints_of_an_airflow_connection_are_used(
    bare: AwsStandIn, look_up: Any, add_connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    add_connection(
        region_name="eu-west-1",
        role_arn=CHAINED_ROLE,
        assume_role_kwargs={"ExternalId": "an-id"},
        endpoint_url=bare.url,
        service_config={"sts": {"endpoint_url": bare.url}},
        config_kwargs={"user_agent_extra": "the-connections"},
    )

    hub, pull, token = look_up({"role_arn": ROLE})

    assert (hub.access_key_id, hub.parameters["ExternalId"]) == (FIRST_KEY, "an-id")
    assert [call.parameters["RoleArn"] for call in (hub, pull)] == [CHAINED_ROLE, ROLE]
    assert (token.account, token.region) == ("210987654321", "eu-west-1")
    assert "the-connections" in token.user_agent


def test_the_session_of_airflows_provider_calls_aws(
    look_up: Any, add_connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configured session factory therefore also applies to the request of a token."""
    monkeypatch.setenv("AIRFLOW__AWS__SESSION_FACTORY", "tests.stand_ins.session_factory.MarkingFactory")
    add_connection()

    (call,) = look_up()

    assert "the-company" in call.user_agent


def test_without_keys_in_the_airflow_connection_boto3s_default_credentials_are_used(
    look_up: Any, add_connection: Any
) -> None:
    """An AWS connection may be empty or contain only a role."""
    write_keys(SECOND_KEY)
    add_connection(None)

    assert [call.access_key_id for call in look_up()] == [SECOND_KEY]


def test_a_connection_may_have_an_airflow_connection_of_its_own(look_up: Any, add_connection: Any) -> None:
    """It replaces the common profile."""
    write_keys(SECOND_KEY, profile="other")
    add_connection()
    calls = look_up(profile_name="other") + look_up({"registry": HOST, "aws_conn_id": "aws_ecr"}, profile_name="other")

    assert [call.access_key_id for call in calls] == [SECOND_KEY, FIRST_KEY]


@pytest.mark.parametrize(("seconds", "seen"), [(0.0, [FIRST_KEY, SECOND_KEY]), (HOUR, [FIRST_KEY])])
def test_a_long_running_process_uses_new_credentials_within_seconds(
    bare: AwsStandIn, add_connection: Any, monkeypatch: pytest.MonkeyPatch, seconds: float, seen: list[str]
) -> None:
    """It does not look up the Airflow connection at each lookup."""
    monkeypatch.setattr("ecr_secrets_backend.logins.IDENTITY_SECONDS", seconds)
    backend = EcrSecretsBackend(connections={"docker_default": HOST}, aws_conn_id="aws_ecr", cache="process")
    for key_id in (FIRST_KEY, SECOND_KEY):
        add_connection(key_id)
        backend.get_connection("docker_default")

    assert [call.access_key_id for call in bare.calls()] == seen


def test_an_airflow_connection_that_is_missing_is_reported(bare: AwsStandIn, caplog: pytest.LogCaptureFixture) -> None:
    """The failure names its ID and the fix, and AWS is not called."""
    backend = EcrSecretsBackend(connections={"docker_default": HOST}, aws_conn_id="aws_missing")

    with pytest.raises(ConnectionUnavailableError, match="Add an Airflow connection 'aws_missing'"):
        backend.get_connection("docker_default")

    assert bare.calls() == []
    assert "Airflow connection aws_missing" in caplog.text


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_shows_the_secrets_of_an_airflow_connection(
    look_up: Any, add_connection: Any, caplog: pytest.LogCaptureFixture, fails: bool, bare: AwsStandIn
) -> None:
    """Neither a log at any level nor a local variable in the traceback of an exception."""
    caplog.set_level(logging.DEBUG)
    add_connection(aws_session_token="a-session-of-airflows")
    if fails:
        bare.script(Error("AccessDeniedException"))
    with pytest.raises(ConnectionUnavailableError) if fails else nullcontext() as caught:
        look_up()

    frames = caught.traceback if caught else ()
    shown = caplog.text + "".join(repr(frame.locals) for frame in frames if "/tests/" not in str(frame.path))
    assert not fails or "conn_id" in shown
    assert "of-airflows" not in shown
    assert [secret for secret in bare.secrets() if secret in shown] == []
