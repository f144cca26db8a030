from __future__ import annotations

import os
import secrets
from functools import cache
from importlib.metadata import version
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import freezegun
import pytest
from freezegun.config import DEFAULT_IGNORE_LIST
from hypothesis import HealthCheck, settings

from tests.stand_ins.aws import AwsStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest_plugins = ["tests.sites.fixtures"]  # here, so that all levels share one world


# "tests" tries the same input every time; `make fuzz` asks for "fuzz", which tries new input, and far more. A machine
# under load is slow, which is no fault of the code.
UNHURRIED: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("tests", derandomize=True, max_examples=100, **UNHURRIED)
settings.register_profile("fuzz", derandomize=False, max_examples=10_000, **UNHURRIED)
settings.load_profile("tests")

# By default freezegun leaves the real time to what runs directly in a thread, where a token is renewed.
freezegun.configure(default_ignore_list=[name for name in DEFAULT_IGNORE_LIST if name != "threading"])

NOT_PASSED = ("skipped", "deselected", "xfailed", "xpassed")


def pytest_configure(config: pytest.Config) -> None:
    """Give Airflow a home of the run's own: what an older one has left in the user's would be read, and warned of."""
    home = TemporaryDirectory()
    config.add_cleanup(home.cleanup)
    os.environ["AIRFLOW_HOME"] = home.name


def pytest_report_header() -> str:
    return f"Airflow {version('apache-airflow')}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where all is required, whatever was not run or not expected to pass is a failure."""
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    assert reporter is not None
    if "ECR_SECRETS_BACKEND_REQUIRE_ALL" in os.environ and any(map(reporter.stats.get, NOT_PASSED)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def _no_identity_but_the_tests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs the tests has AWS settings and a runtime folder; the tests have their own."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@cache
def loader(*paths: str | None) -> Any:
    """Let botocore read its files once: they are the same for all tests, and take nine tenths of a session's time."""
    from botocore.loaders import create_loader  # noqa: PLC0415 - most tests need no boto3

    return create_loader(*paths)


@pytest.fixture(scope="session")
def aws_server() -> Iterator[AwsStandIn]:
    with AwsStandIn.running() as aws:
        yield aws


@pytest.fixture
def loopback_aws(aws_server: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsStandIn]:
    """The stand-in, as new, with an environment that leads there; each test is an identity of its own."""
    monkeypatch.setattr("botocore.session.create_loader", loader)
    aws_server.reset()
    for name, value in aws_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA" + secrets.token_hex(8).upper())
    yield aws_server
    aws_server.reset()  # what another module's fixtures ask of it does not meet the faults of this test


@pytest.fixture
def bare(loopback_aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AwsStandIn:
    """A process that no variable gives credentials or a proxy; AWS's files are in the test's folder."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return loopback_aws
