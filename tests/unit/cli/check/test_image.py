from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

from ecr_secrets_backend.cli.check.image import Image, match_registry, read_image
from ecr_secrets_backend.cli.check.registry import RegistryClient
from ecr_secrets_backend.cli.check.result import CheckFailed
from tests.unit.cli.check.conftest import AMD64, CDN, CONTENT, DIGEST, HOST, LOGIN, S3, Site, fail, pull


@pytest.mark.parametrize(
    ("text", "registry", "repository", "reference"),
    [
        ("app", None, "app", "latest"),
        ("team/app:1", None, "team/app", "1"),
        ("localhost/app", "localhost", "app", "latest"),
        ("localhost:5000/a/b:V_1.2-3", "localhost:5000", "a/b", "V_1.2-3"),
        ("public.ecr.aws/docker/library/busybox", "public.ecr.aws", "docker/library/busybox", "latest"),
        (f"host.example/app@{DIGEST}", "host.example", "app", DIGEST),
        (f"host.example/app:1@{DIGEST}", "host.example", "app", DIGEST),
        ("host.example/a__b/c--d.e", "host.example", "a__b/c--d.e", "latest"),
    ],
)
def test_a_name_is_read_as_docker_reads_it(text: str, registry: str | None, repository: str, reference: str) -> None:
    """Registry, repository, and the digest, else the tag, else the latest."""
    assert Image.parse(text) == Image(registry, repository, reference)


@pytest.mark.parametrize(
    "text",
    ["", "App", "host.example/", "host.example/App", "a:b:c", "https://host.example/a", "a@sha256:0", "é"],
)
def test_what_docker_would_refuse_is_no_name(text: str) -> None:
    """Upper case, empty parts, schemes, half a digest."""
    assert Image.parse(text) is None


@pytest.mark.parametrize("text", ["app:1", f"host.example/app@{DIGEST}"])
def test_a_name_is_written_as_docker_writes_it(text: str) -> None:
    """And reads the same again."""
    assert str(Image.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "problem", "right"),
    [
        (f"https://{HOST}/app:1", "'https://'", f"{HOST}/app:1"),
        (f"http://{HOST}/app:1", "'http://'", f"{HOST}/app:1"),
        (f" {HOST}/app:1", "' '", f"{HOST}/app:1"),
        (f"{HOST}/app:1 ", "' '", f"{HOST}/app:1."),
        (f"docker://{HOST}/app:1", "'docker://'", f"{HOST}/app:1."),
        (f"{HOST}:443/app:1", "':443'", f"{HOST}/app:1"),
        (f"{HOST.replace('dkr', 'Dkr')}/app:1", "'D'", f"{HOST}/app:1"),
        (f"{HOST.upper()}:443/app", "'D'", f"{HOST}/app"),
        (HOST, "names a registry and no repository", f"{HOST}/REPOSITORY:TAG"),
        (f"{HOST}/", "names a registry and no repository", f"{HOST}/REPOSITORY:TAG"),
        (f"{HOST}:latest", "names a registry and no repository", f"{HOST}/REPOSITORY:TAG"),
        (f"https://{HOST}", "names a registry and no repository", f"{HOST}/REPOSITORY:TAG"),
        (f"{HOST}/App:1", "'A'", "REGISTRY/REPOSITORY:TAG"),
        (f"{HOST}/app:1:2", "':'", "REGISTRY/REPOSITORY:TAG"),
        (f"{HOST}/app:v1+2", "'+'", "REGISTRY/REPOSITORY:TAG"),
        (f"{HOST}/app@sha256:0", "is not valid", "REGISTRY/REPOSITORY:TAG"),
        ("", "is not valid", "REGISTRY/REPOSITORY:TAG"),
    ],
)
def test_the_character_that_is_wrong_in_a_name_is_named(text: str, problem: str, right: str) -> None:
    """Docker refuses such a name, or finds no login for its registry."""
    with pytest.raises(CheckFailed) as caught:
        read_image(text)

    assert caught.value.result.code == "image-name-invalid"
    assert problem in caught.value.result.message
    assert f"Write {right}" in str(caught.value.result.fix)


@pytest.mark.parametrize("text", [f"{HOST}/app:1", "ecr.example.com:443/app:1", f"{HOST}:8443/app", "app:1"])
def test_a_name_that_docker_accepts_is_read(text: str) -> None:
    """A port belongs to the name of a registry that is not ECR's own, such as a proxy's."""
    assert read_image(text) == Image.parse(text)


@pytest.mark.parametrize(
    ("registry", "host"), [("docker.io", "https://index.docker.io/v1/"), ("registry.gitlab.com", "registry.gitlab.com")]
)
def test_an_image_of_another_registry_needs_another_connection(registry: str, host: str) -> None:
    """With the host by which Docker finds the login."""
    with pytest.raises(CheckFailed) as caught:
        match_registry(Image(registry, "app", "1"), HOST, {})

    assert f"with host {host} and" in str(caught.value.result.fix)


def test_an_image_of_ecr_public_needs_no_connection() -> None:
    """Unless one is mapped, which the image's registry is then compared with."""
    image = Image("public.ecr.aws", "docker/library/busybox", "1")

    assert match_registry(image, HOST, {}).code == "image-public"
    assert match_registry(image, "public.ecr.aws", {}).code == "ok"
    with pytest.raises(CheckFailed, match="logs in to"):
        match_registry(image, HOST, {"public.ecr.aws": "docker_public"})


def test_an_image_is_followed_to_the_storage_of_its_layers(site: Site) -> None:
    """Which gets no login."""
    checked = pull()
    checked.check_permission()

    assert checked.check_platform(AMD64).state == "good"
    assert site.seen[-1] == f"{S3}/layer?signature=x"


@pytest.mark.parametrize(("storage", "fix"), [(S3, "gateway endpoint for S3"), (CDN, f"TCP to {CDN}")])
def test_a_storage_that_cannot_be_reached_is_named(site: Site, storage: str, fix: str) -> None:
    """A pull begins and then hangs: layers come from S3, or from the host that a pull-through cache redirects to."""
    site.storage = storage
    site.reachable.remove(storage)
    checked = pull()
    checked.check_permission()

    result = fail(lambda: checked.check_platform(AMD64))

    assert result.code == "storage-unreachable"
    assert storage in result.message
    assert fix in str(result.fix)


def test_a_storage_that_refuses_is_named(site: Site) -> None:
    """As S3 does where the policy of its endpoint denies the layers."""
    site.answers["/layer"] = 403, {}, b"<Error><Code>AccessDenied</Code></Error>"
    checked = pull()
    checked.check_permission()

    result = fail(lambda: checked.check_platform(AMD64))

    assert (result.code, f"{S3}, which answers 403" in result.message) == ("storage-unreachable", True)


def test_a_wrong_secret_of_a_pull_through_cache_is_named(site: Site) -> None:
    """ECR answers for the registry behind it."""
    message = "The authentication to the upstream registry failed. Verify that the credentials are valid."
    site.answer("/v2/app/manifests/1", 403, message)

    result = fail(pull().check_permission)

    assert result.code == "upstream-login-failed"
    assert "ecr-pullthroughcache/" in str(result.fix)


@pytest.mark.parametrize("code", ["NAME_UNKNOWN", "MANIFEST_UNKNOWN"])
def test_a_digest_that_is_missing_may_have_to_be_pulled_by_its_tag_first(site: Site, code: str) -> None:
    """A pull-through cache imports no image by its digest."""
    site.answer(f"/v2/app/manifests/{DIGEST}", 404, "not found", code)

    result = fail(pull(DIGEST).check_permission)

    assert result.code == "digest-missing"
    assert "by its tag first" in str(result.fix)


@pytest.mark.parametrize("path", ["/v2/", "/v2/app/manifests/1", "/v2/app/blobs/" + DIGEST])
def test_a_limit_on_requests_is_named(site: Site, path: str) -> None:
    """By whatever step meets it."""
    site.answer(path, 429, "Rate exceeded", "TOOMANYREQUESTS")

    def steps() -> None:
        RegistryClient(HOST, LOGIN).check_login()
        checked = pull()
        checked.check_permission()
        checked.check_platform(AMD64)

    assert fail(steps).code == "rate-limited"


@pytest.mark.parametrize(
    "location",
    [
        *("http://[::1", "https://", "file:///etc/passwd", "gopher://x/", "https://h:99999/", "//", "https://\x00/"),
        *("https://user:s3cret@no.such.name.invalid/", f"https://{HOST}/v2/app/blobs/{DIGEST}", "/", "?", "\x7f"),
    ],
)
def test_a_redirect_to_an_odd_url_is_no_traceback(site: Site, location: str) -> None:
    """Nor is a circle of them."""
    site.answers[f"/v2/app/blobs/{DIGEST}"] = 307, {"Location": location}, b""
    checked = pull()
    checked.check_permission()

    with suppress(CheckFailed):
        assert checked.check_platform(AMD64).code in ("ok", "platform-unknown")


ODD_VALUES: list[Any] = [None, 1, "a", [], {}, [1], [None], ["a"], {"a": []}, [[]], [{}], [{"platform": 1}]]


@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize("key", ["manifests", "config", "tags", "errors", "os"])
def test_an_answer_of_any_shape_is_no_traceback(site: Site, key: str, value: Any) -> None:
    """Whatever a registry puts into a manifest, a list of tags or an error."""
    body = json.dumps({**CONTENT, key: value}).encode()
    site.answers["/v2/app/manifests/1"] = site.answers["/layer"] = 200, {}, body
    site.answers["/v2/app/manifests/2"] = site.answers["/v2/app/tags/list"] = 404, {}, body
    for tag in ("1", "2"):
        checked = pull(tag)
        with suppress(CheckFailed):
            checked.check_permission()
            checked.check_reference()
            checked.check_platform(AMD64)


def test_a_mapped_registry_of_another_name_needs_a_repository_too() -> None:
    """Docker would look for it on Docker Hub."""
    image = Image.parse("localhost:5000")
    assert image is not None

    with pytest.raises(CheckFailed) as caught:
        match_registry(image, None, {"localhost:5000": "docker_default"})

    assert caught.value.result.code == "image-name-invalid"
    assert "Write localhost:5000/REPOSITORY:TAG." in str(caught.value.result.fix)


@pytest.mark.parametrize("content", [b"<html>", b"", b"[]"])
def test_a_page_in_place_of_a_manifest_is_named(site: Site, content: bytes) -> None:
    """A proxy or a login page may have answered."""
    site.answers["/v2/app/manifests/1"] = 200, {}, content

    assert fail(pull().check_permission).code == "registry-error"
