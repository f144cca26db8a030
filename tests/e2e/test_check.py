"""``check`` in a world with a real Docker engine and registries: each usual cause of a failing pull, made for real."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import threading
import time
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import pytest

from ecr_secrets_backend.cli.check.image import INDEX_TYPES, MANIFEST_TYPES
from ecr_secrets_backend.entry import Entry
from ecr_secrets_backend.host_store import HostStore
from ecr_secrets_backend.identity import AwsIdentity
from tests.e2e.checks import Site, fault, warning
from tests.sites.fixtures import PROXY, PROXY_HOST, REGISTRIES, TOKEN_LIFETIME_SECONDS
from tests.sites.world import ADDRESS, World
from tests.stand_ins.aws import Error
from tests.unit.builders import build_token

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.stand_ins.aws import AwsStandIn
    from tests.stand_ins.registry import RegistryStandIn

US_HOST, EU_HOST = REGISTRIES
IMAGE = f"{US_HOST}/app:1"
OTHER_HOST = "999999999999.dkr.ecr.us-east-1.amazonaws.com"

GOOD_STEPS = [
    "configuration",
    "AWS identity",
    "token",
    "registry: login",
    "image: registry",
    "image: permission",
    "image: tag",
    "image: platform",
    "engine",
    "engine: login",
    "engine: login used",
    "Docker's own logins",
]


def test_a_good_way_is_walked_to_its_end(site: Site) -> None:
    """Every step is taken, in order, and none has a complaint."""
    findings = site.check("--image", IMAGE, exit_code=0)

    assert [finding["step"] for finding in findings] == GOOD_STEPS
    assert {finding["state"] for finding in findings} == {"good"}


@pytest.mark.usefixtures("proxy")
def test_a_registry_under_another_name_is_checked_at_its_host_and_port(site: Site) -> None:
    """Each step goes there, and an image is compared with both."""
    trusted = site.world.root / "etc/docker/certs.d" / PROXY / "ca.crt"
    proxied = site.with_kwargs(connections={"docker_default": {"registry": PROXY, "region_name": "us-east-1"}})
    proxied = proxied.with_(SSL_CERT_FILE=f"/{trusted.relative_to(site.world.root)}")

    findings = proxied.check("--image", f"{PROXY}/app:1", exit_code=0)
    assert [finding["step"] for finding in findings] == GOOD_STEPS
    assert f"{PROXY} accepts the token" in [finding["message"] for finding in findings]
    assert f"DockerHook logs in to {PROXY} by unix://var/run/docker.sock" in [each["message"] for each in findings]

    step, code, told = fault(proxied.check("docker_default", "--image", f"{PROXY_HOST}/app:1"))
    assert (step, code) == ("image: registry", "image-of-other-registry")
    assert f"Write {PROXY}/app:1" in told

    other = {"docker_default": US_HOST, "docker_proxy": {"registry": PROXY, "region_name": "us-east-1"}}
    _, code, told = fault(proxied.with_kwargs(connections=other).check("docker_default", "--image", f"{PROXY}/app:1"))
    assert (code, "docker_conn_id to 'docker_proxy'" in told) == ("image-of-other-registry", True)


def test_a_person_reads_the_same(site: Site) -> None:
    """Marks, steps, times and a last line; and no escape codes where there is no terminal."""
    site.check("--image", IMAGE, exit_code=0)
    file = ("--backend-kwargs", str(site.folder / "kwargs.json"))
    done = site.world.run("ecr-secrets-backend", "check", *file, "--image", IMAGE, environment=site.environment)

    for step in GOOD_STEPS:
        assert f"✓ {step}" in done.stdout
    assert done.stdout.rstrip().endswith("All checks passed.")
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        ("AccessDeniedException", "Allow ecr:GetAuthorizationToken"),
        ("UnrecognizedClientException", "Replace the access key"),
        ("ExpiredTokenException", "Renew the credentials"),
    ],
)
def test_a_wrong_credential_is_named(site: Site, aws: AwsStandIn, code: str, fix: str) -> None:
    """AWS gives no token for it."""
    site.world.inside(lambda: aws.script(Error(code, operation="GetAuthorizationToken")))

    step, found, told = fault(site.check())

    assert (step, found) == ("token", "no-token")
    assert code in told
    assert fix in told


def test_missing_credentials_are_named(site: Site) -> None:
    """Nothing is found by boto3's chain."""
    step, code, told = fault(site.with_(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="").check())

    assert (step, code) == ("AWS identity", "no-credentials")
    assert "give this process credentials" in told


def test_a_role_that_cannot_be_assumed_is_named(site: Site, aws: AwsStandIn) -> None:
    """With the action that is missing, and the role."""
    site.world.inside(lambda: aws.script(Error("AccessDenied", operation="AssumeRole", status=403)))
    role = "arn:aws:iam::210987654321:role/pull"

    step, code, told = fault(site.with_kwargs(role_arn=role, region_name="us-east-1").check())

    assert (step, code) == ("AWS identity", "no-credentials")
    assert f"Allow sts:AssumeRole on {role}" in told


def test_an_arn_that_is_not_told_is_no_fault(site: Site, aws: AwsStandIn) -> None:
    """A pull does not need STS."""
    site.world.inside(lambda: aws.script(Error("AccessDenied", operation="GetCallerIdentity", status=403)))

    identity = site.check(exit_code=0)[1]

    assert (identity["step"], identity["state"]) == ("AWS identity", "good")
    assert "STS does not return" in identity["message"]


def test_a_token_that_the_registry_refuses_is_named(site: Site) -> None:
    """As one that is in the cache, but that AWS has never given."""
    environment = {**site.world.environment, **site.environment}
    identity = AwsIdentity("ecr", "us-east-1").in_environment(environment)
    entry = Entry.of_token(identity.key, str(identity), build_token(received_at=time.time()))
    HostStore(site.kwargs["cache_dir"]).write(f"{identity.key}.json", entry.to_json(), entry.useful_until)

    step, code, told = fault(site.check())

    assert (step, code) == ("registry: login", "token-refused")
    assert "ecr-secrets-backend clear" in told


@pytest.mark.parametrize("action", ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"])
def test_a_missing_permission_is_named(site: Site, registries: RegistryStandIn, action: str) -> None:
    """The registry answers 403; the remedy names the IAM action."""
    registries.denied["app"] = action

    _, code, told = fault(site.check("--image", IMAGE))

    assert code == "permission-missing"
    assert f"Allow {action} on the repository" in told


def test_a_repository_that_does_not_exist_is_named(site: Site) -> None:
    """In that account and region."""
    step, code, told = fault(site.check("--image", f"{US_HOST}/apq:1"))

    assert (step, code) == ("image: permission", "repository-missing")
    assert "'apq'" in told


def test_a_wrong_tag_is_named(site: Site) -> None:
    """With those that come near it."""
    step, code, told = fault(site.check("--image", f"{US_HOST}/app:10"))

    assert (step, code) == ("image: tag", "tag-missing")
    assert "'10'; the nearest are 1" in told


@pytest.mark.parametrize(
    ("architectures", "told"),
    [(["s390x"], "for linux/s390x"), (["arm64", "s390x"], "for linux/arm64, linux/s390x")],
)
def test_a_wrong_platform_is_named(site: Site, architectures: list[str], told: str) -> None:
    """The engine's, the image's or all of the image's, and how to build it right."""
    tag = "-".join(architectures)
    site.world.inside(lambda: push_for(architectures, tag))

    step, code, text = fault(site.check("--image", f"{US_HOST}/app:{tag}"))

    assert (step, code) == ("image: platform", "platform-wrong")
    assert told in text
    assert "docker buildx build --platform linux/" in text


def test_the_right_one_of_many_platforms_is_found(site: Site) -> None:
    """Among others, and beside what is no image, as buildx adds it."""
    site.world.inside(lambda: push_for(["s390x", "amd64", "arm64", "unknown"], "many"))

    assert site.check("--image", f"{US_HOST}/app:many", exit_code=0)


@pytest.mark.parametrize(
    ("image", "code", "told"),
    [
        ("app:1", "image-without-registry", f"Write {US_HOST}/app:1"),
        (f"{EU_HOST}/app:1", "image-of-other-registry", "no connection is mapped"),
        ("registry.gitlab.com/group/app:1", "image-not-ecr", "host registry.gitlab.com"),
        ("docker.io/library/busybox", "image-not-ecr", "host https://index.docker.io/v1/"),
        (f"{PROXY}/app:1", "image-not-ecr", f'{{"registry": "{PROXY}", "region_name": "us-east-1"}}'),
        (f"https://{US_HOST}/app:1", "image-name-invalid", f"Write {US_HOST}/app:1."),
    ],
)
def test_an_image_of_elsewhere_is_named(site: Site, image: str, code: str, told: str) -> None:
    """Whether it names no registry, another one, or one that is not ECR."""
    for conn_ids in ((), ("docker_default",)):
        step, found, text = fault(site.check(*conn_ids, "--image", image))
        assert (step, found) == ("image: registry", code)
        assert told in text


def test_the_connection_of_another_image_is_named(site: Site) -> None:
    """Where another connection serves the image."""
    both = site.with_kwargs(connections={"docker_default": US_HOST, "docker_eu": EU_HOST})

    _, code, told = fault(both.check("docker_default", "--image", f"{EU_HOST}/app:1"))

    assert code == "image-of-other-registry"
    assert "docker_conn_id to 'docker_eu'" in told


def test_the_connection_of_an_image_is_found(site: Site) -> None:
    """Without naming it, and no other way is walked."""
    both = site.with_kwargs(connections={"docker_default": US_HOST, "docker_eu": EU_HOST})

    findings = both.check("--image", f"{EU_HOST}/app:1", exit_code=0)

    assert {finding["connection"] for finding in findings} == {None, "docker_eu"}


def test_without_a_name_server_that_is_named(site: Site) -> None:
    """The world has none."""
    step, code, told = fault(site.with_kwargs(connections={"docker_default": OTHER_HOST}).check())

    assert (step, code) == ("registry: login", "no-name-server")
    assert "name server" in told


def test_a_name_that_is_not_found_is_named(site: Site) -> None:
    """A name server that answers says that there is none."""
    (site.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    mount = f"mount --bind {site.folder}/resolv.conf /etc/resolv.conf && exec"
    with name_server(site.world):
        findings = site.with_kwargs(connections={"docker_default": OTHER_HOST}).check(
            prefix=("unshare", "--mount", "sh", "-c", f'{mount} "$@"', "sh")
        )

    step, code, told = fault(findings)
    assert (step, code) == ("registry: login", "name-not-found")
    assert OTHER_HOST in told
    assert "account and region" in told


@pytest.mark.parametrize(
    ("address", "step", "code", "fix"),
    [
        ("127.0.0.1", "registry: login", "port-closed", "com.amazonaws.us-east-1.ecr.dkr"),
        ("192.0.2.99", "registry: login", "no-network", "com.amazonaws.us-east-1.ecr.dkr"),
        (ADDRESS, "registry: login", "tls-untrusted", f"/etc/docker/certs.d/{OTHER_HOST}/ca.crt"),
    ],
)
def test_a_broken_way_to_the_registry_is_named(site: Site, address: str, step: str, code: str, fix: str) -> None:
    """A port where nobody listens, a network without a route, a certificate of somebody else."""
    with named(site.world, OTHER_HOST, address):
        found_step, found, told = fault(site.with_kwargs(connections={"docker_default": OTHER_HOST}).check())

    assert (found_step, found) == (step, code)
    assert fix in told


def test_a_backend_that_this_process_does_not_have_is_named(site: Site) -> None:
    """As where only another process, worker or server, is configured."""
    step, code, told = fault(site.findings(exit_code=2))

    assert (step, code) == ("configuration", "not-configured")
    assert "In the Airflow of this process" in told
    assert "the environment of the process that has it" in told


def test_the_backend_of_another_section_is_named(site: Site) -> None:
    """Tasks ask the backend of [workers], which may be another one than the server's."""
    other = site.with_(
        AIRFLOW__SECRETS__BACKEND="ecr_secrets_backend.EcrSecretsBackend",
        AIRFLOW__SECRETS__BACKEND_KWARGS=json.dumps(site.kwargs),
        AIRFLOW__WORKERS__SECRETS_BACKEND="airflow.secrets.environment_variables.EnvironmentVariablesBackend",
    )

    _, code, told = fault(other.findings(exit_code=2))

    assert code == "not-configured"
    assert "[workers] secrets_backend is airflow.secrets.environment_variables" in told
    assert "--section secrets" in told
    assert other.findings("--section", "secrets", exit_code=0)


def test_a_kwarg_that_is_wrong_is_named(site: Site) -> None:
    """By its place and with its remedy."""
    kwargs = json.dumps({"connections": {"docker_default": {"regoin_name": "us-east-1"}}})
    wrong = site.with_(
        AIRFLOW__SECRETS__BACKEND="ecr_secrets_backend.EcrSecretsBackend", AIRFLOW__SECRETS__BACKEND_KWARGS=kwargs
    )

    _, code, told = fault(wrong.findings(exit_code=2))

    assert code == "configuration-wrong"
    assert "[secrets] backend_kwargs: connections.docker_default.regoin_name" in told
    assert "region_name" in told


def test_a_connection_that_is_not_mapped_is_named(site: Site) -> None:
    """With those that are."""
    _, code, told = fault(site.check("docker_eu", exit_code=2))

    assert code == "not-mapped"
    assert "'docker_eu' is not mapped" in told
    assert "docker_default" in told


def test_an_engine_that_does_not_run_is_named(site: Site) -> None:
    """By its URL."""
    step, code, told = fault(site.check("--docker-url", "unix:///run/nowhere.sock"))

    assert (step, code) == ("engine", "engine-unreachable")
    assert "/run/nowhere.sock" in told


def test_an_engine_that_this_user_may_not_use_is_named(site: Site) -> None:
    """By the user's number, and the group that is missing."""
    no_superuser = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    with closed_socket(site.folder / "other.sock"):
        findings = site.check("--docker-url", f"unix://{site.folder}/other.sock", prefix=no_superuser)

    _, code, told = fault(findings)
    assert code == "engine-forbidden"
    assert "uid 0" in told
    assert "group" in told


def test_an_engine_that_does_not_trust_the_registry_is_named(site: Site) -> None:
    """Although this process does."""
    certificate = site.world.root / "etc/docker/certs.d" / US_HOST / "ca.crt"
    trusted = site.folder / "ca.crt"
    trusted.write_bytes(certificate.read_bytes())
    certificate.unlink()
    try:
        step, code, told = fault(site.with_(SSL_CERT_FILE=str(trusted)).check())
    finally:
        certificate.write_bytes(trusted.read_bytes())

    assert (step, code) == ("engine: login", "engine-tls")
    assert f"/etc/docker/certs.d/{US_HOST}/ca.crt" in told


def test_a_credential_helper_that_is_not_there_is_named(site: Site) -> None:
    """DockerHook tells of it in the words of an engine that does not answer."""
    (site.docker / "config.json").write_text('{"credsStore": "nowhere"}')

    step, code, told = fault(site.check())

    assert (step, code) == ("engine: login", "credential-helper-broken")
    assert "credsStore" in told
    assert "docker-credential-nowhere" in told


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_credential_helper_that_wins_is_named(site: Site, key: str) -> None:
    """Its login is sent in place of the connection's."""
    helper = site.folder / "docker-credential-planted"
    helper.write_text('#!/bin/sh\necho \'{"Username": "AWS", "Secret": "an-old-token"}\'\n')
    helper.chmod(0o755)
    value = "planted" if key == "credsStore" else {US_HOST: "planted"}
    (site.docker / "config.json").write_text(json.dumps({key: value}))

    step, code, told = fault(site.with_(PATH=f"{site.folder}:{site.world.environment['PATH']}").check())

    assert (step, code) == ("engine: login used", "credential-helper-wins")
    assert f"Remove {key}" in told


def test_a_stale_login_of_docker_is_named(site: Site) -> None:
    """The registry refuses it, and whoever pulls without the connection uses it."""
    auth = base64.b64encode(b"AWS:an-old-token").decode()
    (site.docker / "config.json").write_text(json.dumps({"auths": {f"https://{US_HOST}": {"auth": auth}}}))

    step, code, told = warning(site.check(exit_code=0))

    assert (step, code) == ("Docker's own logins", "stale-auth")
    assert f"docker logout https://{US_HOST}" in told


def kwargs_file(site: Site) -> tuple[str, str]:
    (site.folder / "kwargs.json").write_text(json.dumps(site.kwargs))
    return "--backend-kwargs", str(site.folder / "kwargs.json")


@pytest.mark.timeout(180)
def test_what_earlier_solutions_left_is_named(site: Site) -> None:
    """A row of the metadata database, a variable, and a DAG that renews it."""
    dags = site.folder / "dags"
    dags.mkdir()
    (dags / "refresh.py").write_text('token = boto3.client("ecr").get_authorization_token()\n')
    airflow = site.with_(
        AIRFLOW__CORE__DAGS_FOLDER=str(dags),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{site.folder}/airflow.db",
    )
    site.world.run("airflow", "db", "migrate", environment=airflow.environment, timeout=120)
    row = ("--conn-type", "docker", "--conn-host", US_HOST, "--conn-login", "AWS", "--conn-password", "old")
    site.world.run("airflow", "connections", "add", "docker_default", *row, environment=airflow.environment)

    findings = airflow.with_(
        AIRFLOW__SECRETS__BACKEND="ecr_secrets_backend.EcrSecretsBackend",
        AIRFLOW__SECRETS__BACKEND_KWARGS=json.dumps(site.kwargs),
        AIRFLOW_CONN_DOCKER_DEFAULT="docker://",
    ).findings(exit_code=0)

    told = {finding["code"]: finding["remedy"] for finding in findings if finding["state"] == "warning"}
    assert told.keys() == {"leftover-row", "leftover-variable", "leftover-dag"}
    assert "airflow connections delete docker_default" in told["leftover-row"]


def test_no_finding_holds_a_secret(site: Site, aws: AwsStandIn) -> None:
    """In good weather and bad, in no form."""
    secrets = []
    for arguments, exit_code in ((("--image", IMAGE), 0), (("--image", f"{US_HOST}/app:2"), 1)):
        output = json.dumps(site.check(*arguments, exit_code=exit_code))
        secrets += [secret for secret in site.world.inside(aws.secrets) if secret in output]

    assert secrets == []


def test_a_token_that_is_not_renewed_is_named(site: Site, aws: AwsStandIn) -> None:
    """It serves, with a warning, while AWS does not answer."""
    site.world.inside(lambda: aws.set(token_lifetime=TOKEN_LIFETIME_SECONDS))
    site.check(exit_code=0)
    site.world.inside(lambda: aws.script(Error("ServiceUnavailable", status=503)))
    site.world.wait("renewal to be due", lambda: not is_fresh(site), TOKEN_LIFETIME_SECONDS)

    step, code, _ = warning([each for each in site.check("--docker-url", "unix:///run/nowhere.sock") if each])

    assert (step, code) == ("token", "token-not-renewed")


def is_fresh(site: Site) -> bool:
    done = site.world.run(
        "ecr-secrets-backend", "status", "--output", "json", *kwargs_file(site), environment=site.environment
    )
    return bool(json.loads(done.stdout)["tokens"][0]["state"] == "fresh")


def push_for(architectures: list[str], tag: str) -> None:
    """Push the image `app` anew, said to be for other processors; for several of them, as an index of images."""
    manifests = []
    for architecture in architectures:
        manifest = ask("GET", "manifests/1", accept=MANIFEST_TYPES)
        config = {**ask("GET", f"blobs/{manifest['config']['digest']}"), "architecture": architecture}
        manifest["config"] |= put("blobs", json.dumps(config), manifest["config"]["mediaType"])
        of = tag if len(architectures) == 1 else f"{tag}-{architecture}"
        described = put(f"manifests/{of}", json.dumps(manifest), manifest["mediaType"])
        manifests.append({**described, "platform": {"os": "linux", "architecture": architecture}})
    if len(manifests) > 1:
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPES[1], "manifests": manifests}
        put(f"manifests/{tag}", json.dumps(index), INDEX_TYPES[1])


def put(where: str, text: str, kind: str) -> dict[str, Any]:
    """Upload something, and give its description."""
    digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    if where == "blobs":
        where = f"{ask('POST', 'blobs/uploads/')}&digest={digest}"
    ask("PUT", where, text, {"Content-Type": "application/octet-stream" if "uploads" in where else kind})
    return {"mediaType": kind, "digest": digest, "size": len(text)}


def ask(
    method: str, where: str, body: str = "", headers: Mapping[str, str] | None = None, accept: tuple[str, ...] = ()
) -> Any:
    """Ask the registry behind the door that asks for a token, and get its JSON, or where it sends us."""
    with closing(HTTPConnection("127.0.0.1", REGISTRIES[US_HOST], timeout=10)) as registry:
        path = where if "://" in where else f"/v2/app/{where}"
        registry.request(method, path, body, {**(headers or {}), **({"Accept": ", ".join(accept)} if accept else {})})
        answer = registry.getresponse()
        text = answer.read().decode()
    assert answer.status < 300, text
    return answer.headers["Location"] if method == "POST" else json.loads(text or "{}")


@contextmanager
def named(world: World, name: str, address: str) -> Iterator[None]:
    """Give a name an address in the world."""
    hosts = world.folder / "hosts"
    before = hosts.read_text()
    hosts.write_text(f"{before}{address} {name}\n")
    try:
        yield
    finally:
        hosts.write_text(before)


@contextmanager
def closed_socket(path: Path) -> Iterator[None]:
    """A socket that only its owner may use, another user."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o600)
        os.chown(path, 65534, 65534)
        server.listen()
        yield


@contextmanager
def name_server(world: World) -> Iterator[None]:
    """Answer, at the world's port 53, that there is no name that anybody asks for."""

    def bind() -> socket.socket:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 53))
        return server

    server = world.inside(bind)

    def serve() -> None:
        while True:
            question, client = server.recvfrom(512)
            if not question:  # this test has nothing more to ask
                return
            # The same question, with the bits of an answer and RCODE 3: no such name. Source: RFC 1035, 4.1.1.
            server.sendto(question[:2] + b"\x81\x83" + question[4:6] + b"\0" * 6 + question[12:], client)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        server.sendto(b"", server.getsockname())
        thread.join()
        server.close()
