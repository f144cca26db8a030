from __future__ import annotations

import pytest

from ecr_secrets_backend.cli.check.image import Image, match_registry, read_image
from ecr_secrets_backend.cli.check.result import CheckFailed

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
DIGEST = "sha256:" + "0" * 64


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
        (f"{HOST}/app:1 ", "' '", "REGISTRY/REPOSITORY:TAG"),
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
