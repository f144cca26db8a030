from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

import pytest

from ecr_secrets_backend.cli.check.engine import DEFAULT_URL, Engine
from ecr_secrets_backend.cli.check.pull import Platform
from ecr_secrets_backend.cli.check.result import Fault, Finding
from ecr_secrets_backend.logins import Login
from tests.unit.builders import build_token

if TYPE_CHECKING:
    from pathlib import Path

LOGIN = Login("123456789012.dkr.ecr.us-east-1.amazonaws.com", build_token(), "mint")


def test_the_engine_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the option, by DOCKER_HOST, or where DockerOperator looks."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://docker:2375")
    assert Engine("unix:///other.sock").url == "unix:///other.sock"
    assert Engine(None).url == "tcp://docker:2375"
    monkeypatch.delenv("DOCKER_HOST")
    assert Engine(None).url == DEFAULT_URL


def test_without_an_engine_the_platform_is_this_host_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Docker's words."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")

    assert Engine(f"unix://{tmp_path}/nowhere.sock").platform() == Platform("linux", "arm64")


@pytest.mark.parametrize("url", ["unix:///nowhere.sock", "tcp://127.0.0.1:9", "nonsense://"])
def test_an_engine_that_does_not_answer_is_a_fault(url: str) -> None:
    """Whatever is wrong with its URL."""
    with pytest.raises(Fault) as caught:
        Engine(url).version()

    assert caught.value.code == "engine-unreachable"
    assert url in caught.value.message


def test_an_engine_that_does_not_answer_shows_no_password() -> None:
    """Its URL may hold one."""
    with pytest.raises(Fault) as caught:
        Engine("tcp://user:s3cret@127.0.0.1:9").version()
    fault = caught.value
    finding = Finding(None, "engine", "failed", fault.code, fault.message, fault.remedy, 0.0)

    assert "tcp://***@127.0.0.1:9" in finding.message
    assert "s3cret" not in str(finding)


def test_a_finding_is_one_bounded_line() -> None:
    """Whatever a registry, an engine, a file or a database has written into it."""
    finding = Finding(None, "engine", "failed", "a-code", "\x1b[2J\n" + "a" * 200_000, "b\n\x07", 0.0)

    assert (finding.message + str(finding.remedy)).isprintable()
    assert len(finding.message) <= 2000


def test_without_docker_s_client_the_engine_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every host runs DockerOperator."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "docker"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "docker", None)
    monkeypatch.delitem(sys.modules, "airflow.providers.docker.hooks.docker", raising=False)
    engine = Engine("unix:///nowhere.sock")

    told = [engine.version(), engine.log_in("docker_default", LOGIN, None), engine.check_use(LOGIN)]
    assert {(each.state, each.code) for each in told} == {("skipped", "no-docker-provider")}
