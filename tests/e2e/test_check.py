"""``check`` with real Docker engines: the default one, one behind TLS or ssh, Docker's contexts."""

from __future__ import annotations

import json
import os
import socket
from shutil import copy, copytree
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import US_HOST, Site
from tests.requirements import need_programs
from tests.sites.fixtures import ENGINE_URL, PROXY, write_certificates
from tests.unit.cli.check.conftest import STEPS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn

#: Runs a command as root without root's rights to files.
NO_SUPERUSER = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def test_every_step_passes_and_shows_no_secret(site: Site, aws: AwsStandIn) -> None:
    findings = site.check("--image", f"{US_HOST}/app:1")

    assert [finding["step"] for finding in findings] == STEPS
    assert {finding["state"] for finding in findings} == {"good"}
    assert [secret for secret in site.world.inside(aws.secrets) if secret in json.dumps(findings)] == []


@pytest.mark.usefixtures("proxy")
def test_a_registry_under_another_name_is_checked_at_its_host_and_port(site: Site) -> None:
    site.kwargs["connections"] = {"docker_default": {"registry": PROXY, "region_name": "us-east-1"}}
    site.environment["SSL_CERT_FILE"] = f"/etc/docker/certs.d/{PROXY}/ca.crt"

    messages = [finding["message"] for finding in site.check("--image", f"{PROXY}/app:1")]

    assert f"{PROXY} accepts the token" in messages
    assert f"DockerHook logs in to {PROXY} through unix://var/run/docker.sock" in messages


def test_an_engine_that_this_user_may_not_use_is_reported(site: Site) -> None:
    path = site.folder / "other.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o600)
        os.chown(path, 65534, 65534)
        server.listen()
        _, code, text = site.check_for("failed", "--docker-url", f"unix://{path}", prefix=NO_SUPERUSER)

    assert code == "engine-forbidden"
    assert "this user (uid 0)" in text


def test_an_engine_that_does_not_trust_the_registry_is_reported(site: Site) -> None:
    """This process trusts it."""
    certificate = site.world.root / "etc/docker/certs.d" / US_HOST / "ca.crt"
    site.environment["SSL_CERT_FILE"] = str(site.folder / "ca.crt")
    (site.folder / "ca.crt").write_bytes(certificate.read_bytes())
    certificate.unlink()
    try:
        step, code, text = site.check_for("failed")
    finally:
        certificate.write_bytes((site.folder / "ca.crt").read_bytes())

    assert (step, code) == ("engine: login", "engine-tls")
    assert f"/etc/docker/certs.d/{US_HOST}/ca.crt" in text


def tls_options(folder: Path) -> list[str]:
    """Return the options for TLS, with the files of a folder."""
    files = {"ca-cert": "ca.pem", "client-cert": "cert.pem", "client-key": "key.pem"}
    return [f"--tls-{name}={folder / file}" for name, file in files.items()]


def test_an_engine_behind_tls_is_used_with_its_certificates(site: Site) -> None:
    """A DockerOperator with the parameters of the same names uses it."""
    findings = site.check("--docker-url", ENGINE_URL, *tls_options(site.world.folder / "engine"))

    assert f"{ENGINE_URL} answers" in str(findings)
    assert f"through {ENGINE_URL}" in str(findings)
    assert {finding["state"] for finding in findings} == {"good"}


def test_an_engine_that_accepts_only_tls_is_reported(site: Site) -> None:
    step, code, text = site.check_for("failed", "--docker-url", ENGINE_URL)

    assert (step, code) == ("engine", "engine-wants-tls")
    assert "--tls-client-cert" in text


def test_the_variables_of_docker_are_used_with_a_warning(site: Site) -> None:
    """DockerOperator does not read them."""
    folder = str(site.world.folder / "engine")
    site.environment.update(DOCKER_HOST=ENGINE_URL, DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=folder)

    step, code, text = site.check_for("warning")

    assert (step, code) == ("engine", "engine-tls-variables")
    assert "tls_client_cert" in text


@pytest.mark.parametrize("wrong", [["ca.pem"], ["cert.pem", "key.pem"]], ids=["CA", "client"])
def test_a_wrong_certificate_is_reported(site: Site, wrong: list[str]) -> None:
    """The engine's authority, or the client's certificate."""
    folder, other = site.folder / "tls", site.folder / "other"
    copytree(site.world.folder / "engine", folder)
    write_certificates(other)
    for name in wrong:
        copy(other / name, folder)

    step, code, text = site.check_for("failed", "--docker-url", ENGINE_URL, *tls_options(folder))

    assert (step, code) == ("engine", "engine-certificate")
    assert ENGINE_URL in text


def test_the_context_of_docker_is_named_where_it_is_another_engine(site: Site) -> None:
    """Docker uses it, and DockerOperator does not."""
    site.run("docker", "context", "create", "rl", "--docker", "host=unix:///run/rl.sock")
    site.run("docker", "context", "use", "rl")

    step, code, text = site.check_for("warning")

    assert (step, code) == ("engine", "docker-context")
    assert "docker uses context rl (unix:///run/rl.sock), DockerOperator does not" in text


@pytest.mark.timeout(120)
def test_an_engine_is_used_through_ssh(site: Site) -> None:
    """DockerOperator uses paramiko for it."""
    need_programs("/usr/sbin/sshd", "ssh-keygen")
    host_key, user_key = site.folder / "host", site.folder / ".ssh/id_ed25519"
    user_key.parent.mkdir(mode=0o700)
    for key in (host_key, user_key):
        site.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    user_key.with_name("known_hosts").write_text(f"[127.0.0.1]:2222 {host_key.with_suffix('.pub').read_text()}")
    settings = ("Port=2222", f"HostKey={host_key}", f"AuthorizedKeysFile={user_key}.pub", "StrictModes=no")
    options = [f"-o{setting}" for setting in (*settings, "PidFile=none", "UsePAM=no")]
    (site.world.root / "run/sshd").mkdir(exist_ok=True)
    site.environment["HOME"] = str(site.folder)
    site.world.start("sshd", "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *options)
    site.world.wait("sshd", lambda: "listening" in (site.world.folder / "sshd.log").read_text())

    findings = site.check("--docker-url", "ssh://root@127.0.0.1:2222")

    assert "ssh://***@127.0.0.1:2222 answers" in str(findings)
