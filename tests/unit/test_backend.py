from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from freezegun import freeze_time

from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend.errors import ConfigurationError, ConnectionUnavailableError
from tests.airflow_version import DENIAL, TELLS_CLASS, ServerConnection, TaskConnection, put_into_task
from tests.stand_ins.aws import Error

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

A, B = "123456789012", "210987654321"
HOST = f"{A}.dkr.ecr.us-east-1.amazonaws.com"
ROLE = f"arn:aws:iam::{B}:role/pull"
GOES_ON = " Airflow may now use an older connection with that ID, from its environment or its database."
DENIED = Error("AccessDeniedException", "User: arn:aws:iam::123456789012:user/u is not authorized")


@pytest.fixture
def build(tmp_path: Path) -> Any:
    def build(connection: object = HOST, **kwargs: Any) -> EcrSecretsBackend:
        return EcrSecretsBackend(
            **{"connections": {"docker_default": connection}, "cache_dir": str(tmp_path), **kwargs}
        )

    return build


def test_connections_cost_one_call_for_each_identity_and_region(aws: AwsStandIn, build: Any) -> None:
    """Each connection has its own host, and a token that the registry of its region accepts."""
    connections: dict[str, tuple[object, str, str]] = {
        "url": (f"https://{HOST}/", HOST, "us-east-1"),
        "other_account": (f"{B}.dkr.ecr.us-east-1.amazonaws.com", f"{B}.dkr.ecr.us-east-1.amazonaws.com", "us-east-1"),
        "region": ({"region_name": "eu-west-1"}, f"{A}.dkr.ecr.eu-west-1.amazonaws.com", "eu-west-1"),
        "role": ({"region_name": "us-east-1", "role_arn": ROLE}, f"{B}.dkr.ecr.us-east-1.amazonaws.com", "us-east-1"),
        "public": ("public.ecr.aws", "public.ecr.aws", "us-east-1"),
    }
    backend = build(connections={conn_id: shape for conn_id, (shape, _, _) in connections.items()})

    for _ in range(2):
        for conn_id, (_, host, region) in connections.items():
            connection = backend.get_connection(conn_id)
            assert (connection.conn_id, connection.conn_type, connection.host) == (conn_id, "docker", host)
            assert (connection.login, connection.port) == ("AWS", None)
            assert aws.authorise("AWS", connection.password, region=region).valid

    calls = aws.calls(operation="GetAuthorizationToken")
    assert sorted((call.service, call.region, call.account) for call in calls) == [
        ("ecr", "eu-west-1", A),
        ("ecr", "us-east-1", A),
        ("ecr", "us-east-1", B),
        ("ecr-public", "us-east-1", A),
    ]


def test_a_kwarg_with_the_name_of_a_parameter_is_refused(build: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^self is not supported"):
        build(self=1)


@pytest.mark.usefixtures("aws")
def test_airflow_chooses_the_class_of_connection(build: Any) -> None:
    """A server expects another class than a task. Airflow sets it from 3.2 on."""
    backend = build()
    assert type(backend.get_connection("docker_default")) is ServerConnection
    put_into_task(backend)
    assert type(backend.get_connection("docker_default")) is (TaskConnection if TELLS_CLASS else ServerConnection)


@pytest.mark.usefixtures("aws")
def test_both_forms_of_a_lookup_return_the_same_host_port_and_extra(build: Any) -> None:
    """DockerHook joins host and port again. A caller may change the connection, so each lookup returns a new one."""
    backend = build({"registry": "ecr.example.com:8443", "region_name": "us-east-1", "extra": {"email": "a@b.c"}})

    connection, other = backend.get_connection("docker_default"), backend.get_connection("docker_default")
    assert other is not connection
    assert (connection.host, connection.port, connection.extra_dejson) == ("ecr.example.com", 8443, {"email": "a@b.c"})
    assert json.loads(backend.get_conn_value("docker_default")) == {
        "conn_type": "docker",
        "host": "ecr.example.com",
        "port": 8443,
        "login": "AWS",
        "password": connection.password,
        "extra": '{"email": "a@b.c"}',
    }


def test_a_team_name_changes_nothing(aws: AwsStandIn, build: Any) -> None:
    """Airflow passes one from 3.2 on."""
    backend = build()
    backend.get_connection(conn_id="docker_default", team_name="blue")
    backend.get_connection("docker_default", "red")

    assert len(aws.calls()) == 1


@pytest.mark.usefixtures("aws")
def test_building_an_unmapped_lookup_and_a_hit_use_no_file_no_import_and_no_socket(build: Any) -> None:
    """Airflow builds the backend in each process. Python's audit hook receives no event."""
    build().get_connection("docker_default")
    events: list[str] = []
    watching = True
    sys.addaudithook(lambda event, _: events.append(event) if watching else None)

    backend = build()
    others = [backend.get_connection("postgres_default"), backend.get_conn_value("postgres_default")]
    others += [backend.get_variable("a"), backend.get_config("a")]
    value = backend.get_conn_value("docker_default")
    watching = False

    assert events == []
    assert others == [None] * 4
    assert value


def test_a_failure_is_passed_on_and_logged_and_costs_one_call(
    aws: AwsStandIn, build: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The exception and a line at ERROR name the connection, the region, the identity, the code and the fix.

    A worker sends five requests to the API server, which may build a backend for each. Airflow 3.0 would show the local
    variables of a cause or a context.
    """
    aws.script(DENIED)
    with pytest.raises(ConnectionUnavailableError, match="not authorized"):
        build().get_connection("docker_default")
    with pytest.raises(DENIAL or ConnectionUnavailableError) as caught:
        build().get_connection("docker_default")

    for part in ("docker_default", "us-east-1", "user/u", "AccessDeniedException", "ecr:GetAuthorizationToken"):
        assert part in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert lines == [str(caught.value) + ("" if DENIAL else GOES_ON)] * 2
    assert len(aws.calls()) == 1


def test_with_on_error_next_a_failure_is_logged_and_airflow_continues(
    aws: AwsStandIn, build: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The line warns that Airflow may use an older connection."""
    aws.script(DENIED)

    assert build(on_error="next").get_connection("docker_default") is None
    (record,) = caplog.records
    assert (record.levelno, record.getMessage().endswith(GOES_ON)) == (logging.ERROR, True)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings of this package. Airflow logs others, such as one about a missing Fernet key."""
    records = [record for record in caplog.records if record.name.startswith("ecr_secrets_backend")]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


def test_the_lifetime_of_a_token(aws: AwsStandIn, build: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Ten hours of hits, a renewal that fails, an error after its end, and a new token when AWS answers again."""
    start = datetime.now(timezone.utc)
    backend = build()

    def look_up(hours: float) -> str:
        clock.move_to(start + timedelta(hours=hours))
        return str(backend.get_connection("docker_default").password)

    with freeze_time(start) as clock:
        first = look_up(0)
        assert look_up(10) == first
        assert len(aws.calls()) == 1

        aws.script(DENIED)
        while not (warnings := warnings_of(caplog)):  # a renewal that is slower than a second is not waited for
            assert look_up(11.5) == first
        assert len(aws.calls()) == 2
        assert "AccessDeniedException" in warnings[0]

        with pytest.raises(ConnectionUnavailableError, match="'docker_default': AccessDeniedException"):
            look_up(12)
        aws.settle()
        aws.set(clock_offset=12.5 * 3600)
        second = look_up(12.5)
        assert second != first
        assert aws.authorise("AWS", second).valid
