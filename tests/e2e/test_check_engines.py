"""``check`` with real engines in other places than the default one: TLS, ssh, contexts, Podman."""

from __future__ import annotations

from shutil import copytree
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.e2e.checks import Site, pick
from tests.requirements import need_programs
from tests.sites.fixtures import ENGINE_URL

if TYPE_CHECKING:
    from pathlib import Path

#: Runs a command where no engine listens at the default place.
NO_ENGINE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh")


def tls_options(folder: Path) -> list[str]:
    """Return the options for TLS, with the files of a folder."""
    files = {"ca-cert": "ca.pem", "client-cert": "cert.pem", "client-key": "key.pem"}
    return [f"--tls-{name}={folder / file}" for name, file in files.items()]


def test_an_engine_behind_tls_is_used_with_its_certificates(site: Site) -> None:
    """A DockerOperator with the parameters of the same names uses it."""
    findings = site.check("--docker-url", ENGINE_URL, *tls_options(site.world.folder / "engine"), exit_code=0)

    assert f"{ENGINE_URL} answers" in str(findings)
    assert f"through {ENGINE_URL}" in str(findings)
    assert {finding["state"] for finding in findings} == {"good"}


def test_an_engine_that_accepts_only_tls_is_reported(site: Site) -> None:
    step, code, text = pick(site.check("--docker-url", ENGINE_URL), "failed")

    assert (step, code) == ("engine", "engine-wants-tls")
    assert "--tls-client-cert" in text


def test_the_variables_of_docker_are_used_with_a_warning(site: Site) -> None:
    """DockerOperator does not read them."""
    folder = str(site.world.folder / "engine")
    variables = site.with_(DOCKER_HOST=ENGINE_URL, DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=folder)

    step, code, text = pick(variables.check(exit_code=0), "warning")

    assert (step, code) == ("engine", "engine-tls-variables")
    assert "tls_client_cert" in text


@pytest.mark.parametrize("wrong", ["ca.pem", "cert.pem"])
def test_a_wrong_certificate_is_reported(site: Site, wrong: str) -> None:
    """The engine's authority, or the client's certificate."""
    folder, other = site.folder / "tls", trustme.CA()
    copytree(site.world.folder / "engine", folder)
    if wrong == "ca.pem":
        other.cert_pem.write_to_path(folder / wrong)
    else:
        certificate = other.issue_cert("127.0.0.1")
        certificate.cert_chain_pems[0].write_to_path(folder / wrong)
        certificate.private_key_pem.write_to_path(folder / "key.pem")

    step, code, text = pick(site.check("--docker-url", ENGINE_URL, *tls_options(folder)), "failed")

    assert (step, code) == ("engine", "engine-certificate")
    assert ENGINE_URL in text


@pytest.mark.parametrize(
    ("state", "code", "prefix"), [("warning", "docker-context", ()), ("failed", "engine-unreachable", NO_ENGINE)]
)
def test_the_context_of_docker_is_named_where_it_is_another_engine(
    site: Site, state: str, code: str, prefix: tuple[str, ...]
) -> None:
    """Docker uses it, and DockerOperator does not."""
    docker = ("docker", "--config", site.docker)
    site.world.run(*docker, "context", "create", "rl", "--docker", "host=unix:///run/rl.sock")
    site.world.run(*docker, "context", "use", "rl")

    step, found, text = pick(site.check(prefix=prefix, exit_code=int(state == "failed")), state)

    assert (step, found) == ("engine", code)
    assert "docker uses context rl (unix:///run/rl.sock), DockerOperator does not" in text


def test_the_socket_of_podman_is_found_where_docker_s_is_missing(site: Site) -> None:
    need_programs("podman")
    run = site.folder / "run"
    (run / "podman").mkdir(parents=True)
    path = run / "podman/podman.sock"
    podman = ("podman", "--root", site.folder / "podman", "--runroot", "/run/podman-root")
    with site.world.serving("podman", *podman, "system", "service", "--time=0", f"unix://{path}"):
        site.world.wait("Podman", path.exists)
        _, code, text = pick(site.with_(XDG_RUNTIME_DIR=str(run)).check(prefix=NO_ENGINE), "failed")

    assert code == "engine-unreachable"
    assert f"docker_url to unix://{path}" in text


@pytest.mark.timeout(120)
def test_an_engine_is_used_through_ssh(site: Site) -> None:
    """DockerOperator uses paramiko for it."""
    need_programs("/usr/sbin/sshd", "ssh-keygen")
    folder = site.folder / "ssh"
    folder.mkdir(mode=0o700)
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    for name in (folder / "host", home / ".ssh/id_ed25519"):
        site.world.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name)
    (folder / "authorized").write_text((home / ".ssh/id_ed25519.pub").read_text())
    host_key = " ".join((folder / "host.pub").read_text().split()[:2])
    (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:2222 {host_key}\n")
    settings = ("Port=2222", f"HostKey={folder}/host", f"AuthorizedKeysFile={folder}/authorized", "StrictModes=no")
    options = [f"-o{setting}" for setting in (*settings, "PidFile=none", "UsePAM=no")]
    (site.world.root / "run/sshd").mkdir(exist_ok=True)
    with site.world.serving("sshd", "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *options):
        site.world.wait("sshd", lambda: "listening" in (site.world.folder / "sshd.log").read_text())
        findings = site.with_(HOME=str(home)).check("--docker-url", "ssh://root@127.0.0.1:2222", exit_code=0)

    assert "ssh://***@127.0.0.1:2222 answers" in str(findings)
