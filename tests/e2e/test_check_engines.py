"""``check`` with real engines in other places than the default one: TLS, ssh, contexts, Podman."""

from __future__ import annotations

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.e2e.checks import Site, fault, warning
from tests.requirements import need_programs
from tests.sites.fixtures import ENGINE_URL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Runs a command where no engine listens at the default place.
NO_ENGINE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh")


def tls_options(folder: Path, **names: str) -> list[str]:
    """Return the options for TLS, with the files of a folder."""
    files = {"ca": "ca.pem", "client-cert": "cert.pem", "client-key": "key.pem"} | names
    return [
        *("--tls-ca-cert", str(folder / files["ca"])),
        *("--tls-client-cert", str(folder / files["client-cert"])),
        *("--tls-client-key", str(folder / files["client-key"])),
    ]


def engine_of(findings: list[dict[str, str]]) -> str:
    """Return what the step about the engine says."""
    return next(finding["message"] for finding in findings if finding["step"] == "engine")


def test_an_engine_behind_tls_is_used_with_its_certificates(site: Site) -> None:
    """As a DockerOperator with the parameters of the same names uses it."""
    findings = site.check("--docker-url", ENGINE_URL, *tls_options(site.world.folder / "engine"), exit_code=0)

    assert f"{ENGINE_URL} answers" in engine_of(findings)
    assert f"by {ENGINE_URL}" in str(findings)
    assert {finding["state"] for finding in findings} == {"good"}


def test_an_engine_that_accepts_only_tls_is_named(site: Site) -> None:
    """And not called one that does not run."""
    step, code, text = fault(site.check("--docker-url", ENGINE_URL))

    assert (step, code) == ("engine", "engine-wants-tls")
    assert "--tls-client-cert" in text


def test_the_variables_of_docker_are_used_and_warned_of(site: Site) -> None:
    """DockerOperator does not read them."""
    folder = str(site.world.folder / "engine")
    variables = site.with_(DOCKER_HOST=ENGINE_URL, DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=folder)

    step, code, text = warning(variables.check(exit_code=0))

    assert (step, code) == ("engine", "engine-tls-variables")
    assert "tls_client_cert" in text


@pytest.mark.parametrize("wrong", ["ca", "client-cert", "missing"])
def test_a_wrong_certificate_of_an_engine_is_named(site: Site, wrong: str) -> None:
    """The engine's authority, the client's certificate, or a file that does not exist."""
    folder, other = site.folder / "tls", trustme.CA()
    folder.mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (folder / name).write_bytes((site.world.folder / "engine" / name).read_bytes())
    if wrong == "ca":
        other.cert_pem.write_to_path(folder / "ca.pem")
    elif wrong == "client-cert":
        certificate = other.issue_cert("127.0.0.1")
        certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        certificate.private_key_pem.write_to_path(folder / "key.pem")
    else:
        (folder / "key.pem").unlink()

    step, code, text = fault(site.check("--docker-url", ENGINE_URL, *tls_options(folder)))

    assert (step, code) == ("engine", "engine-certificate")
    assert ENGINE_URL in text


def test_tls_with_an_engine_that_has_none_is_named(site: Site) -> None:
    """The certificates may be right, and the port wrong."""
    with serving(site, Echoing) as url:
        options = ["--docker-url", url, *tls_options(site.world.folder / "engine")]
        step, code, _ = fault(site.check(*options))

    assert (step, code) == ("engine", "engine-certificate")


def test_the_context_of_docker_is_named_where_it_is_another_engine(site: Site) -> None:
    """Docker uses it, and DockerOperator does not."""
    docker = ("docker", "--config", site.docker)
    site.world.run(*docker, "context", "create", "rl", "--docker", "host=unix:///run/rl.sock")
    site.world.run(*docker, "context", "use", "rl")

    step, code, text = warning(site.check(exit_code=0))
    assert (step, code) == ("engine", "docker-context")
    assert "docker uses context rl (unix:///run/rl.sock), DockerOperator does not" in text

    step, code, text = fault(site.check(prefix=NO_ENGINE))
    assert (step, code) == ("engine", "engine-unreachable")
    assert (
        "docker uses context rl (unix:///run/rl.sock), DockerOperator does not: set DOCKER_HOST or docker_url" in text
    )

    assert site.with_(DOCKER_CONTEXT="default").check(exit_code=0)
    assert site.with_(DOCKER_HOST="unix:///var/run/docker.sock").check(exit_code=0)


def test_the_socket_of_podman_is_found_where_docker_s_is_missing(site: Site) -> None:
    """As that of rootless Docker."""
    need_programs("podman")
    run = site.folder / "run"
    (run / "podman").mkdir(parents=True)
    path = run / "podman/podman.sock"
    podman = ("podman", "--root", site.folder / "podman", "--runroot", "/run/podman-root")
    with site.world.serving("podman", *podman, "system", "service", "--time=0", f"unix://{path}"):
        site.world.wait("Podman", path.exists)
        _, code, text = fault(site.with_(XDG_RUNTIME_DIR=str(run)).check(prefix=NO_ENGINE))

    assert code == "engine-unreachable"
    assert f"docker_url to unix://{path}" in text


@pytest.mark.timeout(120)
def test_an_engine_is_used_by_ssh(site: Site) -> None:
    """With paramiko, as DockerOperator does."""
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
    settings = {
        "Port": "2222",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized",
        "StrictModes": "no",
        "PidFile": "none",
        "UsePAM": "no",
    }
    options = [f"-o{name}={value}" for name, value in settings.items()]
    (site.world.root / "run/sshd").mkdir(exist_ok=True)
    with site.world.serving("sshd", "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *options):
        site.world.wait("sshd", lambda: "listening" in (site.world.folder / "sshd.log").read_text())
        findings = site.with_(HOME=str(home)).check("--docker-url", "ssh://root@127.0.0.1:2222", exit_code=0)

    assert "ssh://***@127.0.0.1:2222 answers" in engine_of(findings)


@pytest.mark.parametrize("body", ["[]", "null", "1", '"a"', "<html>", "[" * 5000])
def test_what_is_not_an_engine_is_named(site: Site, body: str) -> None:
    """Whatever answers at its place."""
    with serving(site, type("Odd", (Answering,), {"body": body.encode()})) as url:
        step, code, _ = fault(site.check("--docker-url", url))

    assert (step, code) == ("engine", "engine-unreachable")


def test_an_engine_that_echoes_the_login_reveals_nothing(site: Site) -> None:
    """A finding shows stars in place of the token, in either form."""
    with serving(site, Echoing) as url:
        findings = site.check("--docker-url", url)

    _, code, text = fault(findings)
    assert code == "engine-login-refused"
    assert "denied: ***, or Basic ***, or ***, is not known" in text


class Answering(BaseHTTPRequestHandler):
    """Answers every request with one body."""

    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


class Echoing(Answering):
    """An engine that refuses every login, and repeats it."""

    def do_GET(self) -> None:
        version = {"Version": "1", "ApiVersion": "1.44", "Os": "linux", "Arch": "amd64"}
        self.body = b"OK" if self.path.endswith("/_ping") else json.dumps(version).encode()
        super().do_GET()

    def do_POST(self) -> None:
        login = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        header = base64.b64encode(f"{login['username']}:{login['password']}".encode()).decode()
        message = f"denied: {login['password']}, or Basic {header}, or {header[:99]}, is not known"
        body = json.dumps({"message": message}).encode()
        self.send_response(500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(site: Site, handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a port of the world."""
    with site.world.inside(lambda: ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
