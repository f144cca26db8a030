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

A = "123456789012"
HOST = f"{A}.dkr.ecr.us-east-1.amazonaws.com"
ROLE = "arn:aws:iam::210987654321:role/pull"
GOES_ON = " Airflow may now use an older connection with that ID, from its environment or its database."
DENIED = Error("AccessDeniedException", "User: arn:aws:iam::123456789012:user/u is not authorized")


@pytest.fixture
def build(tmp_path: Path) -> Any:
    def build(connections: object = None, **kwargs: Any) -> EcrSecretsBackend:
        return EcrSecretsBackend(connections=connections or {"docker_default": HOST}, cache_dir=str(tmp_path), **kwargs)

    return build


def test_nine_shapes_cost_one_call_for_each_identity_and_region(aws: AwsStandIn, build: Any) -> None:
    """Each connection has its own host, and a token that the registry of its region accepts."""
    backend = build(
        {
            "host": HOST,
            "url": f"https://{HOST}/",
            "object": {"registry": "210987654321.dkr.ecr.us-east-1.amazonaws.com"},
            "account": {"account_id": A, "region_name": "eu-west-1"},
            "region": {"region_name": "eu-west-1"},
            "role": {"region_name": "us-east-1", "role_arn": ROLE, "assume_role_kwargs": {"ExternalId": "an-id"}},
            "public": "public.ecr.aws",
            "china": f"{A}.dkr.ecr.cn-north-1.amazonaws.com.cn",
            "dual_stack": f"{A}.dkr-ecr.us-east-1.on.aws",
        }
    )
    expected = {
        "host": (HOST, "us-east-1"),
        "url": (HOST, "us-east-1"),
        "object": ("210987654321.dkr.ecr.us-east-1.amazonaws.com", "us-east-1"),
        "account": (f"{A}.dkr.ecr.eu-west-1.amazonaws.com", "eu-west-1"),
        "region": (f"{A}.dkr.ecr.eu-west-1.amazonaws.com", "eu-west-1"),
        "role": ("210987654321.dkr.ecr.us-east-1.amazonaws.com", "us-east-1"),
        "public": ("public.ecr.aws", "us-east-1"),
        "china": (f"{A}.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        "dual_stack": (f"{A}.dkr-ecr.us-east-1.on.aws", "us-east-1"),
    }

    for _ in range(2):
        for conn_id, (host, region) in expected.items():
            connection = backend.get_connection(conn_id)
            assert (connection.conn_id, connection.conn_type, connection.host) == (conn_id, "docker", host)
            assert (connection.login, connection.port) == ("AWS", None)
            assert aws.authorise("AWS", connection.password, region=region).valid

    calls = aws.calls(operation="GetAuthorizationToken")
    assert sorted((call.service, call.region, call.account) for call in calls) == [
        ("ecr", "cn-north-1", A),
        ("ecr", "eu-west-1", A),
        ("ecr", "us-east-1", A),
        ("ecr", "us-east-1", A),  # the dual-stack registry has an endpoint of its own
        ("ecr", "us-east-1", "210987654321"),
        ("ecr-public", "us-east-1", A),
    ]
    (role_call,) = aws.calls(operation="AssumeRole")
    assert role_call.parameters["ExternalId"] == "an-id"


def test_a_kwarg_with_the_name_of_a_parameter_is_refused(build: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(self=1)

    assert str(caught.value).startswith("self is not supported. ")


@pytest.mark.usefixtures("aws")
def test_the_connection_has_the_extra_of_the_settings(build: Any) -> None:
    backend = build({"docker_default": {"registry": HOST, "extra": {"email": "a@b.c"}}})

    assert backend.get_connection("docker_default").extra_dejson == {"email": "a@b.c"}


@pytest.mark.usefixtures("aws")
def test_airflow_chooses_the_class_of_connection(build: Any) -> None:
    """A server expects another class than a task. Airflow sets it from 3.2 on."""
    backend = build()
    assert type(backend.get_connection("docker_default")) is ServerConnection
    put_into_task(backend)
    assert type(backend.get_connection("docker_default")) is (TaskConnection if TELLS_CLASS else ServerConnection)


@pytest.mark.usefixtures("aws")
def test_each_lookup_returns_a_new_connection(build: Any) -> None:
    """A caller may change it."""
    backend = build()

    assert backend.get_connection("docker_default") is not backend.get_connection("docker_default")


@pytest.mark.usefixtures("aws")
def test_a_value_is_the_connection_as_json(build: Any) -> None:
    fields = json.loads(build().get_conn_value("docker_default"))

    assert (fields["conn_type"], fields["host"], fields["login"]) == ("docker", HOST, "AWS")


def test_a_team_name_changes_nothing(aws: AwsStandIn, build: Any) -> None:
    """Airflow passes one from 3.2 on."""
    backend = build()
    backend.get_connection(conn_id="docker_default", team_name="blue")
    backend.get_connection("docker_default", "red")

    assert len(aws.calls()) == 1


def test_other_connections_variables_and_options_are_not_served(aws: AwsStandIn, build: Any) -> None:
    backend = build()

    assert backend.get_connection("postgres_default") is None
    assert backend.get_conn_value("postgres_default") is None
    assert backend.get_variable("a") is None
    assert backend.get_config("a") is None
    assert aws.calls() == []


@pytest.mark.usefixtures("aws")
def test_an_unmapped_lookup_and_a_hit_use_no_file_no_import_and_no_socket(build: Any) -> None:
    """Python's audit hook receives no event."""
    backend = build()
    backend.get_connection("docker_default")
    events: list[str] = []
    watching = True
    sys.addaudithook(lambda event, _: events.append(event) if watching else None)

    backend.get_connection("postgres_default")
    backend.get_conn_value("docker_default")
    watching = False

    assert events == []


def test_a_failure_is_passed_on_and_logged(aws: AwsStandIn, build: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The exception and a line at ERROR name the connection, the region, the identity, the code and the fix."""
    aws.script(DENIED)

    with pytest.raises(DENIAL or ConnectionUnavailableError) as caught:
        build().get_connection("docker_default")

    for part in ("docker_default", "us-east-1", "user/u", "AccessDeniedException", "ecr:GetAuthorizationToken"):
        assert part in str(caught.value)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == str(caught.value) + ("" if DENIAL else GOES_ON)


@pytest.mark.usefixtures("aws")
def test_a_registry_under_another_name_is_served_by_host_and_port(build: Any) -> None:
    """DockerHook joins them again. Both forms of a lookup return the same."""
    shape = {"registry": "ecr.example.com:8443", "region_name": "us-east-1"}
    backend = build(connections={"docker_default": shape})

    connection = backend.get_connection("docker_default")
    fields = json.loads(backend.get_conn_value("docker_default"))
    assert (connection.host, connection.port) == ("ecr.example.com", 8443)
    assert (fields["host"], fields["port"], fields["password"]) == ("ecr.example.com", 8443, connection.password)


def test_a_failure_has_neither_cause_nor_context(aws: AwsStandIn, build: Any) -> None:
    """Airflow 3.0 would show the local variables of their tracebacks."""
    aws.script(DENIED)
    with pytest.raises(ConnectionUnavailableError) as caught:
        build().get_connection("docker_default")

    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_with_on_error_next_a_failure_is_logged_and_airflow_continues(
    aws: AwsStandIn, build: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The line warns that Airflow may use an older connection."""
    aws.script(DENIED)

    assert build(on_error="next").get_connection("docker_default") is None
    (record,) = caplog.records
    assert (record.levelno, record.getMessage().endswith(GOES_ON)) == (logging.ERROR, True)


def test_the_retries_of_a_failed_lookup_cost_no_call(aws: AwsStandIn, build: Any) -> None:
    """A worker sends five requests to the API server, which may build a backend for each."""
    aws.script(DENIED)
    for _ in range(5):
        with pytest.raises(ConnectionUnavailableError):
            build().get_connection("docker_default")

    assert len(aws.calls()) == 1


def test_one_line_logs_a_new_token(aws: AwsStandIn, build: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It names the connection, registry, identity, region and expiry, and no secret."""
    caplog.set_level(logging.INFO)
    build().get_connection("docker_default")

    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    for part in ("docker_default", HOST, "boto3's default credentials", "us-east-1", "valid until 20"):
        assert part in line
    assert not [secret for secret in aws.secrets() if secret in line]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings of this package. Airflow logs others, such as one about a missing Fernet key."""
    records = [record for record in caplog.records if record.name.startswith("ecr_secrets_backend")]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


def test_the_lifetime_of_a_token(aws: AwsStandIn, build: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Ten hours of hits, a renewal that fails, an error after its end, and a new token when AWS answers again."""
    start = datetime.now(timezone.utc)
    backend = build()

    def look_up(hours: float) -> str:
        with freeze_time(start + timedelta(hours=hours)):
            return str(backend.get_connection("docker_default").password)

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
