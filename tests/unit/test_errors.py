from __future__ import annotations

import pickle

import pytest

from ecr_secrets_backend.errors import ConfigurationError, ConnectionUnavailableError, InvalidRegistryError, MintError
from tests.unit.builders import build_failure


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError(path="connections.a", problem="is a list", remedy="write an object"),
        InvalidRegistryError(problem="is empty", remedy="write a host"),
        MintError(failure=build_failure()),
        ConnectionUnavailableError(conn_id="docker_default", failure=build_failure()),
    ],
)
def test_an_exception_survives_pickling(error: Exception) -> None:
    """Celery and multiprocessing carry exceptions between processes, however they were made."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_a_configuration_error_is_one_line() -> None:
    """Whatever a key of the configuration holds, it neither breaks the line nor steers a terminal."""
    error = ConfigurationError("connections.a\nb\x1b[31m", "is empty", "write a string")

    assert str(error).isprintable()


def test_an_unavailable_connection_tells_all_that_is_known() -> None:
    """The sentence holds the connection, the identity, the region, AWS's code and the remedy."""
    sentence = str(ConnectionUnavailableError("docker_default", build_failure()))

    for part in ("docker_default", "a role", "us-east-1", "AccessDeniedException", "not allowed", "Allow it."):
        assert part in sentence
