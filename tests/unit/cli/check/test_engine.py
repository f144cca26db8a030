from __future__ import annotations

import argparse
import gc
import platform
import sys
import warnings
from typing import TYPE_CHECKING

import docker.api.client
import pytest

from ecr_secrets_backend.cli.check.engine import DEFAULT_URL, Engine
from ecr_secrets_backend.cli.check.result import CheckFailed
from ecr_secrets_backend.cli.command import CommandError
from ecr_secrets_backend.logins import Login
from tests.unit.builders import build_token

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOGIN = Login("123456789012.dkr.ecr.us-east-1.amazonaws.com", build_token(), "mint")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_open_sockets() -> Iterator[None]:
    """Collect what docker leaves open where it cannot connect, before Python warns of it in another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


def options(docker_url: str | None = None, *files: str) -> argparse.Namespace:
    """Return the options of a command line."""
    ca_cert, client_cert, client_key = (*files, None, None, None)[:3]
    return argparse.Namespace(
        docker_url=docker_url, tls_ca_cert=ca_cert, tls_client_cert=client_cert, tls_client_key=client_key
    )


def fail(given: argparse.Namespace) -> CheckFailed:
    """Return how the check of an engine's version fails."""
    with pytest.raises(CheckFailed) as caught:
        list(Engine(given).check_version())
    return caught.value


def test_the_engine_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the option, by DOCKER_HOST, or where DockerOperator looks."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://docker:2375")
    assert Engine(options("unix:///other.sock")).url == "unix:///other.sock"
    assert Engine(options()).url == "tcp://docker:2375"
    monkeypatch.delenv("DOCKER_HOST")
    assert Engine(options()).url == DEFAULT_URL


def test_options_for_tls_belong_together() -> None:
    """DockerOperator ignores them unless all three are set."""
    with pytest.raises(CommandError, match="belong together"):
        Engine(options("tcp://docker:2376", "ca.pem"))


def test_without_an_engine_the_platform_is_this_host_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Docker names it."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")

    assert Engine(options(f"unix://{tmp_path}/nowhere.sock")).platform() == "linux/arm64"


@pytest.mark.parametrize("url", ["unix:///nowhere.sock", "tcp://127.0.0.1:9", "nonsense://", "tcp://127.0.0.1:x", ""])
def test_an_engine_that_does_not_answer_fails_the_step(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with its URL."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    result = fail(options(url)).result

    assert result.code == "engine-unreachable"
    assert (url or "tcp://127.0.0.1:9") in result.message


def test_an_engine_by_ssh_needs_paramiko(monkeypatch: pytest.MonkeyPatch) -> None:
    """DockerOperator does not use the program ssh, as docker does."""
    monkeypatch.delattr(docker.api.client, "SSHHTTPAdapter", raising=False)  # as without that package
    result = fail(options("ssh://airflow@127.0.0.1")).result

    assert result.code == "engine-ssh"
    assert "paramiko" in str(result.fix)


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    """DockerOperator would fail for it as well."""
    missing = str(tmp_path / "none.pem")
    result = fail(options("tcp://127.0.0.1:9", missing, missing, missing)).result

    assert result.code == "engine-certificate"


def test_an_engine_that_does_not_answer_shows_no_password() -> None:
    """Its URL may hold one."""
    result = fail(options("tcp://user:s3cret@127.0.0.1:9")).result.without(())

    assert "tcp://***@127.0.0.1:9" in result.message
    assert "s3cret" not in str(result)


def test_without_docker_s_client_the_engine_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every host runs DockerOperator."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "docker"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "docker", None)
    monkeypatch.delitem(sys.modules, "airflow.providers.docker.hooks.docker", raising=False)
    engine = Engine(options("unix:///nowhere.sock"))

    results = [*engine.check_version(), engine.log_in("docker_default", LOGIN, None), engine.check_login_used(LOGIN)]
    assert {(each.state, each.code) for each in results} == {("skipped", "no-docker-provider")}
