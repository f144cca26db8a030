from __future__ import annotations

import json
import logging
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend.errors import ConfigurationError, ConnectionUnavailableError
from tests.airflow_version import DENIAL, TELLS_CLASS, ServerConnection, TaskConnection, put_into_task
from tests.stand_ins.aws import Error

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
GOES_ON = " Airflow may now use an older connection with that ID, from its environment or its database."
DENIED = Error("AccessDeniedException", "User: arn:aws:iam::123456789012:user/u is not authorized")


@pytest.fixture
def build(tmp_path: Path) -> Any:
    def build(connection: object = HOST, **kwargs: Any) -> EcrSecretsBackend:
        return EcrSecretsBackend(connections={"docker_default": connection}, cache_dir=str(tmp_path), **kwargs)

    return build


def test_a_kwarg_with_the_name_of_a_parameter_is_refused(build: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^self is not supported"):
        build(self=1)


def test_a_connection_has_a_valid_token_and_the_class_that_airflow_expects(aws: AwsStandIn, build: Any) -> None:
    """A server expects another class than a task. Airflow sets it from 3.2 on, and may name a team."""
    backend = build()
    on_server = backend.get_connection(conn_id="docker_default", team_name="blue")
    put_into_task(backend)
    in_task = backend.get_connection("docker_default", "red")

    for connection in (on_server, in_task):
        assert (connection.conn_id, connection.conn_type) == ("docker_default", "docker")
        assert (connection.host, connection.port, connection.login) == (HOST, None, "AWS")
        assert aws.authorise("AWS", connection.password).valid
    assert type(on_server) is ServerConnection
    assert type(in_task) is (TaskConnection if TELLS_CLASS else ServerConnection)
    assert len(aws.calls()) == 1


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


@pytest.mark.usefixtures("aws")
def test_building_an_unmapped_lookup_and_a_hit_use_no_file_no_import_and_no_socket(build: Any) -> None:
    """Airflow builds the backend in each process. Python's audit hook receives no event from this thread."""
    build().get_connection("docker_default")
    events: list[str] = []
    watched: int | None = threading.get_ident()  # the thread of the first request may still remove old files
    sys.addaudithook(lambda event, _: events.append(event) if threading.get_ident() == watched else None)

    backend = build()
    others = [backend.get_connection("postgres_default"), backend.get_conn_value("postgres_default")]
    others += [backend.get_variable("a"), backend.get_config("a")]
    value = backend.get_conn_value("docker_default")
    watched = None

    assert events == []
    assert others == [None] * 4
    assert value


@pytest.mark.parametrize("on_error", ["raise", "next"])
def test_other_lookups_are_passed_on_to_the_other_backends_with_the_team(
    aws: AwsStandIn, build: Any, on_error: str
) -> None:
    """The lookup of a mapped connection is not, even if it fails."""
    aws.script(DENIED)
    asked: list[Any] = []
    recording = {"backend": "tests.stand_ins.secrets_backends.Recording", "backend_kwargs": {"asked": asked}}
    backend = build(fallback_backends=[recording], on_error=on_error)
    with suppress(ConnectionUnavailableError):
        backend.get_connection("docker_default")
    for method in (backend.get_connection, backend.get_conn_value, backend.get_variable):
        method("a", team_name="blue")
    backend.get_config("a")

    methods = ("get_connection", "get_conn_value", "get_variable")
    assert asked == [*((name, "a", "blue") for name in methods), ("get_config", "a")]


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
