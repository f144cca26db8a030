"""``check`` with a real Docker engine, registries and a network of their own: usual causes of a failing pull."""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.e2e.checks import Site, pick
from tests.sites.fixtures import PROXY, REGISTRIES
from tests.sites.world import ADDRESS
from tests.unit.cli.check.conftest import STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.sites.world import World
    from tests.stand_ins.aws import AwsStandIn

HOST = next(iter(REGISTRIES))
OTHER_HOST = "999999999999.dkr.ecr.us-east-1.amazonaws.com"


def test_every_step_passes_and_shows_no_secret(site: Site, aws: AwsStandIn) -> None:
    findings = site.check("--image", f"{HOST}/app:1", exit_code=0)

    assert [finding["step"] for finding in findings] == STEPS
    assert {finding["state"] for finding in findings} == {"good"}
    assert [secret for secret in site.world.inside(aws.secrets) if secret in json.dumps(findings)] == []


@pytest.mark.usefixtures("proxy")
def test_a_registry_under_another_name_is_checked_at_its_host_and_port(site: Site) -> None:
    trusted = site.world.root / "etc/docker/certs.d" / PROXY / "ca.crt"
    proxied = site.with_registry({"registry": PROXY, "region_name": "us-east-1"})
    proxied = proxied.with_(SSL_CERT_FILE=f"/{trusted.relative_to(site.world.root)}")

    messages = [finding["message"] for finding in proxied.check("--image", f"{PROXY}/app:1", exit_code=0)]

    assert f"{PROXY} accepts the token" in messages
    assert f"DockerHook logs in to {PROXY} through unix://var/run/docker.sock" in messages


@pytest.mark.parametrize(
    ("image", "step", "code", "text"),
    [
        ("apq:1", "image: permission", "repository-missing", "no repository 'apq'"),
        ("app:10", "image: tag", "tag-missing", "no tag '10'; the nearest are 1"),
    ],
)
def test_an_image_that_the_registry_does_not_have_is_reported(
    site: Site, image: str, step: str, code: str, text: str
) -> None:
    failed = pick(site.check("--image", f"{HOST}/{image}"), "failed")

    assert (failed[:2], text in failed[2]) == ((step, code), True)


@pytest.mark.parametrize(
    ("address", "code", "fix"),
    [
        (None, "no-name-server", "name server"),
        ("127.0.0.1", "port-closed", "ecr.dkr"),
        ("192.0.2.99", "no-network", "ecr.dkr"),
        (ADDRESS, "tls-untrusted", f"/etc/docker/certs.d/{OTHER_HOST}/ca.crt"),
    ],
)
def test_a_registry_that_cannot_be_reached_is_reported(site: Site, address: str | None, code: str, fix: str) -> None:
    """No name server, a port without a listener, a network without a route, the certificate of another host."""
    with named(site.world, OTHER_HOST, address):
        failed = pick(site.with_registry(OTHER_HOST).check(), "failed")

    assert (failed[:2], fix in failed[2]) == (("registry: login", code), True)


def test_an_engine_that_this_user_may_not_use_is_reported(site: Site) -> None:
    no_superuser = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    with closed_socket(site.folder / "other.sock"):
        findings = site.check("--docker-url", f"unix://{site.folder}/other.sock", prefix=no_superuser)

    _, code, text = pick(findings, "failed")
    assert code == "engine-forbidden"
    assert "this user (uid 0)" in text


def test_an_engine_that_does_not_trust_the_registry_is_reported(site: Site) -> None:
    """This process trusts it."""
    certificate = site.world.root / "etc/docker/certs.d" / HOST / "ca.crt"
    trusted = site.folder / "ca.crt"
    trusted.write_bytes(certificate.read_bytes())
    certificate.unlink()
    try:
        step, code, text = pick(site.with_(SSL_CERT_FILE=str(trusted)).check(), "failed")
    finally:
        certificate.write_bytes(trusted.read_bytes())

    assert (step, code) == ("engine: login", "engine-tls")
    assert f"/etc/docker/certs.d/{HOST}/ca.crt" in text


@contextmanager
def named(world: World, name: str, address: str | None) -> Iterator[None]:
    """Let a name have an address in the world."""
    hosts = world.folder / "hosts"
    before = hosts.read_text()
    hosts.write_text(f"{before}{address} {name}\n" if address else before)
    try:
        yield
    finally:
        hosts.write_text(before)


@contextmanager
def closed_socket(path: Path) -> Iterator[None]:
    """A socket that only another user may use."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o600)
        os.chown(path, 65534, 65534)
        server.listen()
        yield
