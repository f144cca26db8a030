from __future__ import annotations

import gc
import json
import os
import platform
import sys
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import docker.api.client
import pytest

from ecr_secrets_backend.cli.check import engine as engine_module
from ecr_secrets_backend.cli.check.engine import DEFAULT_URL, Engine
from ecr_secrets_backend.cli.check.result import CheckFailed, StepResult
from ecr_secrets_backend.cli.command import CommandError
from ecr_secrets_backend.logins import Login
from tests.unit.builders import build_token
from tests.unit.cli.check.conftest import ENGINE, HOST, fail

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOGIN = Login(HOST, build_token(), "mint")

# If docker's client cannot connect, it leaves a socket open.
pytestmark = [pytest.mark.usefixtures("docker_config"), pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module", autouse=True)
def _close_sockets() -> Iterator[None]:
    """Close what docker's client leaves open, before Python warns of it in another module's test."""
    yield
    gc.collect()


def fail_version(*options: str) -> StepResult:
    return fail(lambda: list(Engine(*options).check_version()))


def log_in(url: str) -> StepResult:
    return Engine(url).log_in("docker_default", LOGIN, None)


def test_the_engine_is_that_of_the_option_of_docker_host_or_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Engine().url == DEFAULT_URL
    monkeypatch.setenv("DOCKER_HOST", "tcp://docker:2375")
    assert Engine().url == "tcp://docker:2375"
    assert Engine("unix:///other.sock").url == "unix:///other.sock"


def test_options_for_tls_belong_together() -> None:
    with pytest.raises(CommandError, match="belong together"):
        Engine("tcp://docker:2376", "ca.pem", None, None)


def test_without_an_engine_the_platform_is_that_of_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")

    assert Engine(f"unix://{tmp_path}/nowhere.sock").platform() == "linux/arm64"


@pytest.mark.parametrize(
    "url",
    ["unix:///nowhere.sock", "tcp://127.0.0.1:9", "nonsense://", "tcp://127.0.0.1:x", "", "tcp://user:s3cret@[::1]:9"],
)
def test_an_engine_that_does_not_answer_fails_the_step(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding names its URL without a password, whatever is wrong with it."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    result = fail_version(url).without(())

    assert result.code == "engine-unreachable"
    assert (url.replace("user:s3cret", "***") or "tcp://127.0.0.1:9") in result.message
    assert "s3cret" not in str(result)


def test_an_engine_by_ssh_needs_paramiko(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(docker.api.client, "SSHHTTPAdapter", raising=False)  # as without that package

    assert fail_version("ssh://airflow@127.0.0.1").code == "engine-ssh"


@pytest.mark.parametrize("options", [("/nowhere",) * 3, ()])
def test_a_missing_certificate_is_reported(options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of the options, or of docker's variables, which do not matter to a socket."""
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", "/nowhere")

    assert fail_version("tcp://127.0.0.1:9", *options).code == "engine-certificate"
    assert fail_version("unix:///nowhere.sock").code == "engine-unreachable"


def test_without_docker_s_client_the_engine_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "docker"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "docker", None)
    monkeypatch.delitem(sys.modules, "airflow.providers.docker.hooks.docker", raising=False)
    engine = Engine("unix:///nowhere.sock")

    results = [*engine.check_version(), engine.log_in("docker_default", LOGIN, None), engine.check_login_used(LOGIN)]
    assert {(each.state, each.code) for each in results} == {("skipped", "no-docker-provider")}


def test_a_docker_hook_logs_in_and_a_pull_uses_the_login(engine: str) -> None:
    checked = Engine(engine)

    assert checked.platform() == "linux/amd64"
    assert checked.log_in("docker_default", LOGIN, '{"email": "a@b.c"}').state == "good"
    assert checked.check_login_used(LOGIN).message == "a pull uses the connection's login"
    other = LOGIN._replace(token=build_token(password="another-token"))
    assert fail(lambda: checked.check_login_used(other)).code == "login-lost"


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("x509: certificate signed by unknown authority", "engine-tls"),
        ("dial tcp: lookup registry: no such host", "engine-no-name"),
        ("dial tcp: lookup registry on 127.0.0.53:53: i/o timeout", "engine-no-name"),
        ("dial tcp 10.0.0.1:443: connect: connection refused", "engine-no-network"),
        ("proxyconnect tcp: EOF", "engine-no-network"),
        ("unauthorized: the token has expired", "engine-login-refused"),
    ],
)
def test_a_failed_login_is_reported_with_the_engine_s_reason(
    engine: str, monkeypatch: pytest.MonkeyPatch, reason: str, code: str
) -> None:
    monkeypatch.setitem(ENGINE, "auth", (500, {"message": reason}))
    result = fail(lambda: log_in(engine))

    assert (result.code, reason in result.message) == (code, True)
    assert fail(lambda: log_in("unix:///nowhere.sock")).code == "engine-login-failed"


NO_VERSIONS: list[Any] = [["a page"], None, 1, "a", {}]
NO_ERRORS: list[Any] = [[], {}, None, {"message": []}, b"<html>", b"[" * 100_000]


@pytest.mark.parametrize(
    ("status", "answer", "code", "message"),
    [
        *((200, answer, "engine-unreachable", "not from a Docker engine") for answer in NO_VERSIONS),
        *((502, answer, "engine-unreachable", "no Docker engine answers") for answer in NO_ERRORS),
        (400, {"message": "Client sent an HTTP request to an HTTPS server."}, "engine-wants-tls", "only TLS"),
    ],
)
def test_an_answer_that_is_not_an_engine_s_version_is_reported(
    engine: str, monkeypatch: pytest.MonkeyPatch, status: int, answer: Any, code: str, message: str
) -> None:
    """A proxy may answer in the place of the engine, with an error that docker's client for Python cannot read."""
    monkeypatch.setitem(ENGINE, "version", (status, answer))
    result = fail_version(engine)

    assert (result.code, message in result.message) == (code, True)


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (None, "credential-helper-broken"),
        ('{"Username": "AWS", "Secret": "an-old-token"}', "credential-helper-wins"),
        ("credentials not found in native keychain", "credential-helper"),
    ],
)
def test_a_credential_helper_that_docker_uses_before_the_connection_is_reported(
    engine: str, docker_config: Path, monkeypatch: pytest.MonkeyPatch, key: str, answer: str | None, code: str
) -> None:
    """If it has no login now, that is a warning. If it fails or is missing, DockerHook reports an engine's error."""
    if answer:
        helper = docker_config.parent / "docker-credential-planted"
        helper.write_text(f"#!/bin/sh\necho '{answer}'\ncase '{answer}' in cred*) exit 1;; esac\n")
        helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(docker_config.parent), prepend=os.pathsep)
    docker_config.write_text(json.dumps({key: "planted" if key == "credsStore" else {HOST: "planted"}}))
    checked = Engine(engine)
    try:
        checked.log_in("docker_default", LOGIN, None)
        result = checked.check_login_used(LOGIN)
    except CheckFailed as error:
        result = error.result

    assert result.code == code
    assert f"Remove {key}" in str(result.fix)
    assert "docker-credential-planted" in str(result.fix)


def test_a_context_of_docker_that_is_another_engine_is_reported(
    engine: str, docker_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker uses it, and DockerOperator does not: a warning, or the fix if no engine answers."""
    meta = docker_config.parent / "contexts/meta" / sha256(b"rl").hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    endpoint = {"Host": "unix:///run/rl.sock", "SkipTLSVerify": False}
    meta.write_text(json.dumps({"Name": "rl", "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    docker_config.write_text('{"currentContext": "rl"}')

    assert [each.code for each in Engine(engine).check_version()] == ["ok"]
    monkeypatch.setattr(engine_module, "DEFAULT_URL", engine)
    assert [each.code for each in Engine().check_version()] == ["ok", "docker-context"]
    monkeypatch.setattr(engine_module, "DEFAULT_URL", "unix:///nowhere.sock")
    assert "docker uses context rl (unix:///run/rl.sock)" in str(fail_version().fix)
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    assert "context" not in str(fail_version().fix)
    meta.write_text("[]")
    monkeypatch.delenv("DOCKER_CONTEXT")
    assert "context" not in str(fail_version().fix)


@pytest.mark.parametrize("name", ["docker.sock", "podman/podman.sock"])
def test_the_socket_of_rootless_docker_or_podman_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (tmp_path / "podman").mkdir()  # in the XDG_RUNTIME_DIR of a test
    (tmp_path / name).touch()
    monkeypatch.setattr(engine_module, "DEFAULT_URL", "unix:///nowhere.sock")

    assert f"unix://{tmp_path}/{name}" in str(fail_version().fix)


@pytest.mark.parametrize("content", ['{"auths": {"h": null}}', '{"auths": {"h": {"auth": 5}}}', "[]"])
def test_a_config_json_that_docker_s_client_cannot_read_is_reported(
    engine: str, docker_config: Path, content: str
) -> None:
    docker_config.write_text(content)

    with pytest.raises(CommandError, match=r"config\.json"):
        list(Engine(engine).check_version())
