"""What an operator reads: each line is of a level that fits it, tells what to do, and comes from us alone."""

from __future__ import annotations

import logging
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from freezegun import freeze_time

from ecr_secrets_backend import EcrSecretsBackend, host_store
from ecr_secrets_backend.cache import Memory
from tests.airflow_version import put_into_task
from tests.stand_ins.aws import Error

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
DENIED = Error("AccessDeniedException", "User: u is not authorized")
REMEDY = "Allow ecr:GetAuthorizationToken"
#: The loggers of what talks to AWS.
TALKATIVE = ("boto", "urllib3", "s3transfer")


@pytest.fixture
def new_process(tmp_path: Path) -> Callable[[], EcrSecretsBackend]:
    """Make what another process of the host has."""

    def build() -> EcrSecretsBackend:
        backend = EcrSecretsBackend(connections={"docker_default": HOST}, cache_dir=str(tmp_path / "cache"))
        backend._cache._memory = Memory()
        put_into_task(backend)
        return backend

    return build


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Give what the package has said since the last time, and see that what talks to AWS has said nothing."""
    assert [record.name for record in caplog.records if record.name.startswith(TALKATIVE)] == []
    lines = [(each.levelname, each.getMessage()) for each in caplog.records if each.name.startswith("ecr_secrets_")]
    caplog.clear()
    return lines


@pytest.mark.usefixtures("aws")
def test_a_request_has_one_line(new_process: Callable[[], EcrSecretsBackend], caplog: pytest.LogCaptureFixture) -> None:
    """At INFO: whose token it is, for which registry, until when it is valid, and how long it took."""
    caplog.set_level(logging.DEBUG)
    new_process().get_connection("docker_default")
    (level, line), *others = told(caplog)

    assert level == "INFO"
    assert [level for level, _ in others] == ["DEBUG"]
    assert re.fullmatch(
        rf"Received an ECR token for connection 'docker_default': registry {HOST}, region us-east-1, "
        r"identity boto3's default credentials, valid until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00, in \d+\.\d s",
        line,
    )


@pytest.mark.usefixtures("aws")
def test_hits_have_a_line_at_debug(
    new_process: Callable[[], EcrSecretsBackend], caplog: pytest.LogCaptureFixture
) -> None:
    """One each, which tells where the token comes from and how long it is valid; at INFO, where most are, none."""
    new_process().get_connection("docker_default")
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    other = new_process()
    for _ in range(2):
        other.get_connection("docker_default")
    told_at_debug = told(caplog)
    caplog.set_level(logging.INFO)
    other.get_connection("docker_default")

    assert [re.sub(r"4[23]\d{3} s", "43200 s", f"{level} {line}") for level, line in told_at_debug] == [
        "DEBUG Connection 'docker_default': a token from the host's cache, valid for 43200 s more",
        "DEBUG Connection 'docker_default': a token from the process's memory, valid for 43200 s more",
    ]
    assert told(caplog) == []


def test_an_old_token_has_a_warning_with_the_remedy(
    aws: AwsStandIn,
    new_process: Callable[[], EcrSecretsBackend],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which also says for how long it serves, and why AWS gives no other."""
    monkeypatch.setattr("ecr_secrets_backend.cache.RENEWAL_TIMEOUT_SECONDS", 30.0)  # a busy machine may need it
    new_process().get_connection("docker_default")
    aws.script(DENIED)
    late = new_process()
    caplog.clear()
    with freeze_time(datetime.now(timezone.utc) + timedelta(hours=11.5)):
        late.get_connection("docker_default")
    ((level, line),) = told(caplog)

    assert level == "WARNING"
    assert re.search(rf"was not renewed; it is valid for 1[78]\d\d s more. AccessDeniedException: .*{REMEDY}", line)


def test_a_lookup_that_fails_has_an_error_with_the_remedy(
    aws: AwsStandIn, new_process: Callable[[], EcrSecretsBackend], caplog: pytest.LogCaptureFixture
) -> None:
    """One line, though the exception says the same."""
    aws.script(DENIED)
    with pytest.raises(Exception, match="docker_default"):
        new_process().get_connection("docker_default")
    ((level, line),) = told(caplog)

    assert level == "ERROR"
    assert re.search(rf"'docker_default' .*AccessDeniedException: .*{REMEDY}", line)


@pytest.mark.usefixtures("aws")
def test_a_cache_dir_that_cannot_be_used_has_a_warning_with_the_fix(
    tmp_path: Path, default_place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Here it is a file."""
    (tmp_path / "file").touch()
    EcrSecretsBackend(connections={"docker_default": HOST}, cache_dir=str(tmp_path / "file")).get_connection(
        "docker_default"
    )
    level, line = told(caplog)[0]

    assert level == "WARNING"
    assert re.search(f"Not a directory. This process uses {default_place}/.* instead. Make cache_dir with mode", line)


@pytest.mark.usefixtures("aws")
def test_a_cache_that_fails_has_a_warning_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here its folder is a file, and there is no other place."""
    for variable in ("XDG_RUNTIME_DIR", "TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(variable, "/dev/null")
    monkeypatch.setattr(host_store, "_SHARED_MEMORY", "/dev/null")
    monkeypatch.setattr(host_store, "_TEMP_FOLDERS", ())
    (tmp_path / "file").touch()
    EcrSecretsBackend(connections={"docker_default": HOST}, cache_dir=str(tmp_path / "file")).get_connection(
        "docker_default"
    )
    level, line = told(caplog)[0]

    assert level == "WARNING"
    assert re.search("Not a directory. Run `ecr-secrets-backend status` as this user, or set cache_dir", line)
