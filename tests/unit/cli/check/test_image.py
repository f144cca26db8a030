from __future__ import annotations

import pytest

from ecr_secrets_backend.cli.check.image import Image, operator_of

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


def test_registries_are_called_by_their_names() -> None:
    """As far as they are known."""
    assert operator_of("registry.gitlab.com") == "GitLab"
    assert operator_of("registry.example.com") == "another registry"
