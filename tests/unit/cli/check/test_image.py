from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

from ecr_secrets_backend.cli.check.image import Image, Pull, match_registry, read_image
from ecr_secrets_backend.cli.check.registry import RegistryClient
from ecr_secrets_backend.cli.check.result import CheckFailed
from tests.command_settings import EU_HOST
from tests.unit.cli.check.conftest import CDN, CONTENT, DIGEST, HOST, LOGIN, S3, Site, fail

PROXY = "ecr.example.com:8443"


@pytest.mark.parametrize(
    ("text", "image", "written"),
    [
        ("team/app", (None, "team/app", "latest"), "team/app:latest"),
        ("localhost/app:1", ("localhost", "app", "1"), "localhost/app:1"),
        ("localhost:5000/a/b:V_1.2-3", ("localhost:5000", "a/b", "V_1.2-3"), "localhost:5000/a/b:V_1.2-3"),
        (f"h.example/a__b/c--d:1@{DIGEST}", ("h.example", "a__b/c--d", DIGEST), f"h.example/a__b/c--d@{DIGEST}"),
        (f"{HOST}:8443/app", (f"{HOST}:8443", "app", "latest"), f"{HOST}:8443/app:latest"),
        ("ecr.example.com:443/app:1", ("ecr.example.com:443", "app", "1"), "ecr.example.com:443/app:1"),
    ],
)
def test_a_name_is_read_and_written_as_by_docker(text: str, image: tuple[str | None, str, str], written: str) -> None:
    """Registry, repository, and the digest, else the tag, else the latest."""
    assert read_image(text) == Image(*image)
    assert str(read_image(text)) == written


@pytest.mark.parametrize(
    ("text", "problem", "right"),
    [
        (f"https://{HOST}/app:1", "'https://'", f"{HOST}/app:1."),
        (f" {HOST}/app:1", "' '", f"{HOST}/app:1."),
        (f"{HOST}/app:1 ", "' '", f"{HOST}/app:1."),
        (f"{HOST}:443/app:1", "':443'", f"{HOST}/app:1."),
        (f"{HOST.replace('dkr', 'Dkr')}/app:1", "'D'", f"{HOST}/app:1."),
        (f"{HOST.upper()}:443/app", "'D'", f"{HOST}/app."),
        (HOST, "names a registry and no repository", f"{HOST}/REPOSITORY:TAG"),
        (f"{HOST}:latest", "names a registry and no repository", f"{HOST}/REPOSITORY:TAG"),
        (f"https://{HOST}/", "names a registry and no repository", f"{HOST}/REPOSITORY:TAG"),
        (PROXY, "names a registry and no repository", f"{PROXY}/REPOSITORY:TAG"),
        (f"{HOST}/App:1", "'A'", "REGISTRY/REPOSITORY:TAG"),
        (f"{HOST}/app:1:2", "':'", "REGISTRY/REPOSITORY:TAG"),
        (f"{HOST}/app:v1+2", "'+'", "REGISTRY/REPOSITORY:TAG"),
        ("é", "'é'", "REGISTRY/REPOSITORY:TAG"),
        (f"{HOST}/app@sha256:0", "is not valid", "REGISTRY/REPOSITORY:TAG"),
        ("", "is not valid", "REGISTRY/REPOSITORY:TAG"),
    ],
)
def test_the_character_that_is_wrong_in_a_name_is_reported(text: str, problem: str, right: str) -> None:
    result = fail(lambda: read_image(text, [PROXY]))

    assert result.code == "image-name-invalid"
    assert problem in result.message
    assert f"Write {right}" in str(result.fix)


@pytest.mark.parametrize(
    ("text", "host", "code", "fix"),
    [
        ("app:1", HOST, "image-without-registry", f"Write {HOST}/app:1."),
        ("app:1", None, "image-without-registry", f"Write {EU_HOST}/app:1."),
        (f"{EU_HOST}/app:1", HOST, "image-of-other-registry", "Set docker_conn_id to 'docker_eu'"),
        ("public.ecr.aws/app", HOST, "image-of-other-registry", "Set docker_conn_id to 'docker_public'"),
        ("ecr.example.com/app:1", PROXY, "image-of-other-registry", f"Write {PROXY}/app:1,"),
        (f"{EU_HOST.replace('1', '2')}/app", HOST, "image-of-other-registry", "Map one to it in backend_kwargs"),
        ("registry.gitlab.com/app:1", None, "image-not-ecr", "with host registry.gitlab.com and"),
        ("docker.io/app:1", HOST, "image-not-ecr", "with host https://index.docker.io/v1/ and"),
        (f"{PROXY}/app:1", HOST, "image-not-ecr", f'{{"registry": "{PROXY}", "region_name": "us-east-1"}}'),
    ],
)
def test_an_image_of_another_registry_is_reported(text: str, host: str | None, code: str, fix: str) -> None:
    conn_ids = {EU_HOST: "docker_eu", "public.ecr.aws": "docker_public"}
    result = fail(lambda: match_registry(read_image(text), host, conn_ids))

    assert result.code == code
    assert fix in str(result.fix)


@pytest.mark.parametrize(("host", "code"), [(HOST, "image-public"), ("public.ecr.aws", "ok")])
def test_an_image_of_ecr_public_needs_no_connection(host: str, code: str) -> None:
    assert match_registry(read_image("public.ecr.aws/docker/library/busybox:1"), host, {}).code == code


def run_pull(tag: str = "1") -> str:
    """Run the steps of a pull, and return the code of the last one."""
    pull = Pull(RegistryClient(HOST, LOGIN), Image(HOST, "app", tag))
    pull.check_permission()
    pull.check_reference()
    return pull.check_platform("linux/amd64").code


def index(*architectures: str) -> bytes:
    """An index of images, as buildx writes it: with a manifest that is no image."""
    platforms = [{"os": "linux", "architecture": name} for name in architectures]
    platforms.append({"os": "unknown", "architecture": "unknown"})
    manifests = [{"platform": platform, "digest": f"of-{platform['architecture']}"} for platform in platforms]
    return json.dumps({"manifests": manifests}).encode()


def test_an_image_is_followed_to_the_storage_of_its_layers(site: Site) -> None:
    """The storage receives no login, and only what is for the engine's platform is requested."""
    site.answers["/v2/app/manifests/1"] = 200, {}, index("arm64", "amd64")

    assert run_pull() == "ok"
    assert [request for request in site.seen if not request.startswith("CONNECT")] == [
        *(f"{HOST}/v2/app/{path} AWS:a-token" for path in ("manifests/1", "manifests/of-amd64", f"blobs/{DIGEST}")),
        f"{S3}/layer?signature=x",
    ]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v2/app/manifests/1", index("s390x", "arm64"), "the image is for linux/arm64, linux/s390x"),
        ("/layer", b'{"os": "linux", "architecture": "s390x"}', "the image is for linux/s390x"),
        ("/v2/app/manifests/1", index(), "the image is for no platform"),
    ],
)
def test_an_image_for_other_platforms_is_reported(site: Site, path: str, body: bytes, message: str) -> None:
    site.answers[path] = 200, {}, body
    result = fail(run_pull)

    assert result.code == "platform-wrong"
    assert message in result.message
    assert "docker buildx build --platform linux/amd64" in str(result.fix)


@pytest.mark.parametrize("storage", [S3, CDN])
@pytest.mark.parametrize(("is_reachable", "problem"), [(False, "refuses to connect"), (True, "answers 403")])
def test_a_storage_that_denies_layers_is_reported(site: Site, storage: str, is_reachable: bool, problem: str) -> None:
    """A pull begins and then hangs: layers come from S3, or from the host that a pull-through cache redirects to."""
    site.storage = storage
    site.answers["/layer"] = 403, {}, b"<Error><Code>AccessDenied</Code></Error>"
    if not is_reachable:
        site.reachable.remove(storage)
    result = fail(run_pull)

    assert result.code == "storage-unreachable"
    assert f"redirects to {storage}, which {problem}" in result.message
    assert f"TCP from this host to {storage}; in a VPC, add a route or a gateway endpoint" in str(result.fix)


@pytest.mark.parametrize(
    ("path", "status", "error", "code", "fix"),
    [
        ("manifests/1", 403, ("DENIED", "not authorized"), "permission-missing", "Allow ecr:BatchGetImage"),
        ("manifests/1", 403, ("DENIED", ""), "permission-missing", "ecr:GetDownloadUrlForLayer on the repository"),
        ("manifests/1", 403, ("", "The authentication to the upstream registry failed."), "upstream-login-failed", "…"),
        ("manifests/1", 404, ("NAME_UNKNOWN", ""), "repository-missing", "Correct the name"),
        ("manifests/1", 404, ("MANIFEST_UNKNOWN", ""), "tag-missing", "Correct the tag"),
        (f"manifests/{DIGEST}", 404, ("NAME_UNKNOWN", ""), "digest-missing", "by its tag first"),
        ("manifests/1", 503, ("", ""), "registry-error", "try again"),
        ("manifests/1", 429, ("TOOMANYREQUESTS", "Rate exceeded"), "rate-limited", "Start fewer tasks"),
        (f"blobs/{DIGEST}", 429, ("TOOMANYREQUESTS", "Rate exceeded"), "rate-limited", "Start fewer tasks"),
    ],
)
def test_an_image_that_cannot_be_pulled_is_reported(
    site: Site, path: str, status: int, error: tuple[str, str], code: str, fix: str
) -> None:
    """The registry's own error shows which of the permission, the secret, the repository or the reference is wrong.

    A pull does not need the list of tags.
    """
    site.answer("/v2/app/tags/list", 403)
    site.answer(f"/v2/app/{path}", status, error[1], error[0])
    result = fail(lambda: run_pull(path.removeprefix("manifests/") if "manifests" in path else "1"))

    assert result.code == code
    assert error[1] in result.message
    assert fix in str(result.fix)


def test_the_tags_that_are_nearest_to_a_missing_one_are_shown(site: Site) -> None:
    site.answer("/v2/app/manifests/v10", 404, "", "MANIFEST_UNKNOWN")
    site.answers["/v2/app/tags/list"] = 200, {}, b'{"tags": ["latest", "v1", 5]}'

    assert fail(lambda: run_pull("v10")).message.endswith("has no tag 'v10'; the nearest are v1, latest")


@pytest.mark.parametrize(
    "location",
    [
        *("http://[::1", "https://", "file:///etc/passwd", "https://h:99999/", "//", "https://\x00/", "/", "?", "\x7f"),
        *("https://user:s3cret@no.such.name.invalid/", f"https://{HOST}/v2/app/blobs/{DIGEST}"),
    ],
)
def test_a_redirect_to_an_odd_url_is_no_traceback(site: Site, location: str) -> None:
    site.answers[f"/v2/app/blobs/{DIGEST}"] = 307, {"Location": location}, b""

    with suppress(CheckFailed):
        assert run_pull() in ("ok", "platform-unknown")


ODD_VALUES: list[Any] = [None, 1, "a", [], {}, [1], [None], ["a"], {"a": []}, [[]], [{}], [{"platform": 1}]]


@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize("key", ["manifests", "config", "tags", "errors", "os"])
def test_an_answer_of_any_shape_is_no_traceback(site: Site, key: str, value: Any) -> None:
    body = json.dumps({**CONTENT, key: value}).encode()
    site.answers["/v2/app/manifests/1"] = site.answers["/layer"] = 200, {}, body
    site.answers["/v2/app/manifests/2"] = site.answers["/v2/app/tags/list"] = 404, {}, body
    for tag in ("1", "2"):
        with suppress(CheckFailed):
            run_pull(tag)


@pytest.mark.parametrize("content", [b"<html>", b"[]"])
def test_a_page_in_place_of_a_manifest_is_reported(site: Site, content: bytes) -> None:
    site.answers["/v2/app/manifests/1"] = 200, {}, content

    assert fail(run_pull).code == "registry-error"
