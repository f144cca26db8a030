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

pytest_plugins = ["tests.sites.fixtures"]  # here, so that all folders share one world


# "tests" tries the same inputs each time. `make fuzz` uses "fuzz", which tries many new ones. There is no deadline,
# because the machine may be busy.
NO_DEADLINE: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("tests", derandomize=True, max_examples=100, **NO_DEADLINE)
settings.register_profile("fuzz", derandomize=False, max_examples=10_000, **NO_DEADLINE)
settings.load_profile("tests")

# By default, freezegun does not freeze functions that a thread runs directly, such as the renewal of a token.
freezegun.configure(default_ignore_list=[name for name in DEFAULT_IGNORE_LIST if name != "threading"])

NOT_PASSED = ("skipped", "deselected", "xfailed", "xpassed")


def pytest_configure(config: pytest.Config) -> None:
    """Set a temporary AIRFLOW_HOME: Airflow would read the files of older versions in the user's, and warn."""
    home = TemporaryDirectory()
    config.add_cleanup(home.cleanup)
    os.environ["AIRFLOW_HOME"] = home.name


def pytest_report_header() -> str:
    return f"Airflow {version('apache-airflow')}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With ECR_SECRETS_BACKEND_REQUIRE_ALL, fail if a test was skipped or expected to fail."""
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    assert reporter is not None
    if "ECR_SECRETS_BACKEND_REQUIRE_ALL" in os.environ and any(map(reporter.stats.get, NOT_PASSED)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def _remove_the_user_s_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace the AWS settings and the runtime folder of the user that runs the tests."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@cache
def loader(*paths: str | None) -> Any:
    """Cache botocore's data files, which take nine tenths of the time of a session."""
    from botocore.loaders import create_loader  # noqa: PLC0415 - most tests need no boto3

    return create_loader(*paths)


@pytest.fixture(scope="session")
def aws_server() -> Iterator[AwsStandIn]:
    with AwsStandIn.running() as aws:
        yield aws


@pytest.fixture
def loopback_aws(aws_server: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsStandIn]:
    """Reset the stand-in, and point the environment to it with an identity for this test."""
    monkeypatch.setattr("botocore.session.create_loader", loader)
    aws_server.reset()
    for name, value in aws_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA" + secrets.token_hex(8).upper())
    yield aws_server
    aws_server.reset()  # the fixtures of other modules must not meet this test's faults


@pytest.fixture
def bare(loopback_aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AwsStandIn:
    """Remove all credentials and proxies. AWS's files are in the folder of the test."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return loopback_aws
