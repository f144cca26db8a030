from __future__ import annotations

import gc
import json
import os
import platform
import sys
import warnings
from hashlib import sha256
from typing import TYPE_CHECKING

import docker.api.client
import pytest

from ecr_secrets_backend.cli.check import engine as engine_module
from ecr_secrets_backend.cli.check.engine import DEFAULT_URL, Engine
from ecr_secrets_backend.cli.check.result import CheckFailed
from ecr_secrets_backend.cli.command import CommandError
from ecr_secrets_backend.logins import Login
from tests.unit.builders import build_token
from tests.unit.cli.check.conftest import ENGINE

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


def fail(engine: Engine) -> CheckFailed:
    """Return how the check of an engine's version fails."""
    with pytest.raises(CheckFailed) as caught:
        list(engine.check_version())
    return caught.value


def test_the_engine_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the option, by DOCKER_HOST, or where DockerOperator looks."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://docker:2375")
    assert Engine("unix:///other.sock").url == "unix:///other.sock"
    assert Engine().url == "tcp://docker:2375"
    monkeypatch.delenv("DOCKER_HOST")
    assert Engine().url == DEFAULT_URL


def test_options_for_tls_belong_together() -> None:
    """DockerOperator ignores them unless all three are set."""
    with pytest.raises(CommandError, match="belong together"):
        Engine("tcp://docker:2376", "ca.pem")


def test_without_an_engine_the_platform_is_this_host_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Docker names it."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")

    assert Engine(f"unix://{tmp_path}/nowhere.sock").platform() == "linux/arm64"


@pytest.mark.parametrize("url", ["unix:///nowhere.sock", "tcp://127.0.0.1:9", "nonsense://", "tcp://127.0.0.1:x", ""])
def test_an_engine_that_does_not_answer_fails_the_step(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with its URL."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    result = fail(Engine(url)).result

    assert result.code == "engine-unreachable"
    assert (url or "tcp://127.0.0.1:9") in result.message


def test_an_engine_by_ssh_needs_paramiko(monkeypatch: pytest.MonkeyPatch) -> None:
    """DockerOperator does not use the program ssh, as docker does."""
    monkeypatch.delattr(docker.api.client, "SSHHTTPAdapter", raising=False)  # as without that package
    result = fail(Engine("ssh://airflow@127.0.0.1")).result

    assert result.code == "engine-ssh"
    assert "paramiko" in str(result.fix)


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    """DockerOperator would fail for it as well."""
    missing = str(tmp_path / "none.pem")
    result = fail(Engine("tcp://127.0.0.1:9", missing, missing, missing)).result

    assert result.code == "engine-certificate"


def test_an_engine_that_does_not_answer_shows_no_password() -> None:
    """Its URL may hold one."""
    result = fail(Engine("tcp://user:s3cret@127.0.0.1:9")).result.without(())

    assert "tcp://***@127.0.0.1:9" in result.message
    assert "s3cret" not in str(result)


def test_without_docker_s_client_the_engine_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every host runs DockerOperator."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "docker"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "docker", None)
    monkeypatch.delitem(sys.modules, "airflow.providers.docker.hooks.docker", raising=False)
    engine = Engine("unix:///nowhere.sock")

    results = [*engine.check_version(), engine.log_in("docker_default", LOGIN, None), engine.check_login_used(LOGIN)]
    assert {(each.state, each.code) for each in results} == {("skipped", "no-docker-provider")}


def test_an_engine_is_logged_in_to_and_sends_the_login_with_a_pull(engine: str) -> None:
    """As a DockerHook with that connection does."""
    checked = Engine(engine)

    assert checked.platform() == "linux/amd64"
    assert checked.log_in("docker_default", LOGIN, '{"email": "a@b.c"}').state == "good"
    assert checked.check_login_used(LOGIN).message == "a pull uses the connection's login"


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("x509: certificate signed by unknown authority", "engine-tls"),
        ("dial tcp: lookup registry: no such host", "engine-no-name"),
        ("dial tcp 10.0.0.1:443: connect: connection refused", "engine-no-network"),
        ("unauthorized: the token has expired", "engine-login-refused"),
    ],
)
def test_an_engine_that_cannot_log_in_is_told_by_its_reason(
    engine: str, monkeypatch: pytest.MonkeyPatch, reason: str, code: str
) -> None:
    """Each has its fix on the engine's host."""
    monkeypatch.setitem(ENGINE, "auth", reason)

    with pytest.raises(CheckFailed) as caught:
        Engine(engine).log_in("docker_default", LOGIN, None)

    assert (caught.value.result.code, reason in caught.value.result.message) == (code, True)


def test_what_answers_like_no_engine_is_named(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy, for example."""
    monkeypatch.setitem(ENGINE, "version", ["a page"])

    assert "is not a Docker engine" in fail(Engine(engine)).result.message


def test_an_engine_that_accepts_only_tls_is_named(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fix is its certificates."""
    monkeypatch.setitem(ENGINE, "refusal", "Client sent an HTTP request to an HTTPS server.")

    assert fail(Engine(engine)).result.code == "engine-wants-tls"


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_credential_helper_that_is_not_there_is_the_cause(engine: str, docker_config: Path, key: str) -> None:
    """DockerHook reports an engine that does not answer."""
    docker_config.write_text(json.dumps({key: "nowhere" if key == "credsStore" else {LOGIN.host: "nowhere"}}))
    checked = Engine(engine)

    def steps() -> None:
        checked.log_in("docker_default", LOGIN, None)
        checked.check_login_used(LOGIN)

    with pytest.raises(CheckFailed, match=f"{key}.* names the credential helper .*nowhere.*, which fails"):
        steps()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ('{"Username": "AWS", "Secret": "an-old-token"}', "credential-helper-wins"),
        ("credentials not found in native keychain", "credential-helper"),
    ],
)
def test_a_credential_helper_is_asked_before_the_connection_s_login(
    engine: str, docker_config: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: str
) -> None:
    """If it has no login now, it is a warning."""
    helper = docker_config.parent / "docker-credential-planted"
    helper.write_text(f"#!/bin/sh\necho '{answer}'\ncase '{answer}' in cred*) exit 1;; esac\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(docker_config.parent), prepend=os.pathsep)
    docker_config.write_text(json.dumps({"credsStore": "planted"}))
    checked = Engine(engine)
    checked.log_in("docker_default", LOGIN, None)
    try:
        result = checked.check_login_used(LOGIN)
    except CheckFailed as error:
        result = error.result

    assert result.code == code
    assert "Remove credsStore" in str(result.fix)


def test_a_context_of_docker_that_is_another_engine_is_named(
    engine: str, docker_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker uses it, and DockerOperator does not: a warning, or the fix if no engine answers."""
    name = sha256(b"rl").hexdigest()
    meta = docker_config.parent / "contexts/meta" / name / "meta.json"
    meta.parent.mkdir(parents=True)
    endpoint = {"Host": "unix:///run/rl.sock", "SkipTLSVerify": False}
    meta.write_text(json.dumps({"Name": "rl", "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    docker_config.write_text('{"currentContext": "rl"}')

    monkeypatch.setattr(engine_module, "DEFAULT_URL", engine)
    assert [each.code for each in Engine().check_version()] == ["ok", "docker-context"]
    monkeypatch.setattr(engine_module, "DEFAULT_URL", "unix:///nowhere.sock")
    assert "docker uses context rl (unix:///run/rl.sock)" in str(fail(Engine()).result.fix)


@pytest.mark.usefixtures("docker_config")
def test_the_socket_of_another_engine_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where rootless Docker has it."""
    (tmp_path / "docker.sock").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(engine_module, "DEFAULT_URL", "unix:///nowhere.sock")

    assert f"unix://{tmp_path}/docker.sock" in str(fail(Engine()).result.fix)


@pytest.mark.parametrize("content", ['{"auths": {"h": null}}', '{"auths": {"h": {"auth": 5}}}', "[]"])
def test_a_config_json_that_docker_s_client_cannot_read_is_named(
    engine: str, docker_config: Path, content: str
) -> None:
    """And not the engine."""
    docker_config.write_text(content)

    with pytest.raises(CommandError, match=r"config\.json"):
        list(Engine(engine).check_version())


def test_variables_for_tls_do_not_matter_to_a_socket(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does the folder of the certificates alone, as to docker."""
    monkeypatch.setenv("DOCKER_CERT_PATH", "/nowhere")
    results = list(Engine(engine).check_version())

    assert [result.code for result in results] == ["ok"]
