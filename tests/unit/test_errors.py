from __future__ import annotations

import pickle

import pytest

from ecr_secrets_backend.errors import ConfigurationError, ConnectionUnavailableError, InvalidRegistryError, MintError
from tests.unit.builders import build_failure

CONFIGURATION = ConfigurationError(path="connections.a", problem="is a list", remedy="write an object")
REGISTRY = InvalidRegistryError(problem="is empty", remedy="write a host")
MINT = MintError(failure=build_failure())
UNAVAILABLE = ConnectionUnavailableError(conn_id="docker_default", failure=build_failure())


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (CONFIGURATION, "connections.a is a list; write an object"),
        (REGISTRY, "The registry's host is empty; write a host"),
        (MINT, "AccessDeniedException: not allowed (identity: a role; region: us-east-1). Allow it."),
        (UNAVAILABLE, f"Connection 'docker_default' has no ECR token. {MINT}"),
    ],
)
def test_an_exception_tells_all_that_is_known(error: Exception, sentence: str) -> None:
    """Where it happened, what, why, and the remedy."""
    assert str(error) == sentence


@pytest.mark.parametrize("error", [CONFIGURATION, REGISTRY, MINT, UNAVAILABLE])
def test_an_exception_survives_pickling(error: Exception) -> None:
    """Celery and multiprocessing carry exceptions between processes, however they were made."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("error", [CONFIGURATION, REGISTRY, MINT])
def test_an_exception_can_be_made_anew_from_its_arguments(error: Exception) -> None:
    """As Celery does where it may not pickle."""
    assert vars(type(error)(*error.args)) == vars(error)


def test_a_configuration_error_is_one_line() -> None:
    """Whatever a key of the configuration holds, it neither breaks the line nor steers a terminal, and can be read."""
    error = ConfigurationError("connections.é\nb\x1b[31m", "is empty", "write a string")

    assert str(error) == r"connections.é\nb\x1b[31m is empty; write a string"
