"""Check an image: its name, the permission to pull it, its tag and its platform."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from http import HTTPStatus
from typing import Final, NamedTuple

from ecr_secrets_backend.cli.check.registry import DENIED, MIDDLEBOX_FIX, RegistryClient, Response, storage_failure
from ecr_secrets_backend.cli.check.result import CheckFailed, StepResult
from ecr_secrets_backend.registry import Registry

#: The IAM actions of a pull. Source: Amazon ECR User Guide, "Required IAM permissions for pulling".
PULL_ACTIONS: Final = "ecr:BatchGetImage and ecr:GetDownloadUrlForLayer"
MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DIGEST: Final = r"sha256:[0-9a-f]{64}"
#: The first part is a registry if it has a dot or a colon, or is ``localhost``. Source: ``distribution/reference``.
_NAME: Final = re.compile(
    rf"(?:(?P<registry>[^/]*[.:][^/]*|localhost)/)?(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)"
    rf"(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>{_DIGEST}))?",
    re.ASCII,
)
#: Matches the part of a name after its registry, up to the first character that Docker refuses.
_VALID_START: Final = re.compile(r"[a-z0-9._/-]*(?::[\w.-]*)?(?:@[a-z0-9:]*)?", re.ASCII)
_DOCKER_HUB: Final = ("docker.io", "index.docker.io", "registry-1.docker.io")


class Image(NamedTuple):
    """The name of an image. Without a registry, it is Docker Hub's. The reference is a digest or a tag."""

    registry: str | None
    repository: str
    reference: str

    @property
    def has_digest(self) -> bool:
        """Return whether the reference is a digest, and not a tag."""
        return ":" in self.reference

    def __str__(self) -> str:
        name = f"{self.registry}/{self.repository}" if self.registry else self.repository
        return f"{name}{'@' if self.has_digest else ':'}{self.reference}"


def read_image(text: str, hosts: Collection[str] = ()) -> Image:
    """Read an image's name. Raise CheckFailed if Docker would refuse it, or find no login for this spelling."""
    plain = re.sub(r"^\s*([\w+.-]+://)?|[/\s]+$", "", text)
    first, slash, rest = plain.partition("/")
    name, _, port = first.lower().partition(":")
    ecr = Registry.find(name)
    host = first.lower() if port and not (ecr and port == "443") else name
    is_registry = ecr or (slash and re.search(r"[.:]", first))
    image, right = _NAME.fullmatch(text), f"{host}/{rest}"
    if (ecr or plain in hosts) and not rest:
        problem, right = "names a registry and no repository", f"{name if ecr else plain}/REPOSITORY:TAG"
    elif plain != text:
        problem, right = f"has {text.replace(plain, '', 1)!r} before or after the name", plain
    elif is_registry and first != host:
        wrong = next((character for character in first if character.isupper()), ":443")
        problem = f"has {wrong!r} in the registry's host, so Docker finds no login"
    elif image:
        return Image(image["registry"], image["repository"], image["digest"] or image["tag"] or "latest")
    else:
        wrong = _VALID_START.sub("", rest if is_registry else text, count=1)[:1]
        problem = f"has {wrong!r}, which Docker refuses there" if wrong else "is not valid for Docker"
        right = "REGISTRY/REPOSITORY:TAG, with upper case only in the tag"
    raise CheckFailed("image-name-invalid", f"{text!r} {problem}", f"Write {right}.")


def match_registry(image: Image, host: str | None, conn_ids: Mapping[str, str]) -> StepResult:
    """Check that an image is in a connection's registry, or in a registry that needs no connection.

    :param conn_ids: the connections, by the hosts of their registries
    """
    other, registry = image.registry, Registry.find(image.registry or "")
    code, problem = "image-of-other-registry", f"the image is in {other}, but this connection logs in to {host}"
    if other == host and host:
        return StepResult(f"{image} is in this connection's registry")
    if other is None:
        code, problem = "image-without-registry", f"'{image}' names no registry, so Docker looks for it on Docker Hub"
        right = image._replace(registry=host or next(iter(conn_ids), "REGISTRY"))
        fix = f"Write {right}. An image of Docker Hub needs none of these connections."
    elif other in conn_ids:
        fix = f"Set docker_conn_id to {conn_ids[other]!r}, which serves that registry."
    elif registry and registry.service != "ecr":
        return StepResult(f"anyone can pull from {other}: the image needs no connection", code="image-public")
    elif host and other.partition(":")[0] == host.partition(":")[0]:
        fix = f"Write {image._replace(registry=host)}, or map the registry with its port in backend_kwargs."
    elif registry:
        problem = f"the image is in {other}, but no connection is mapped to that registry"
        fix = f'Map one to it in backend_kwargs: {{"docker_other": "{other}"}}. Or correct the name.'
    else:
        code, problem = "image-not-ecr", f"{other} is not Amazon ECR: no connection of this backend serves it"
        url = "https://index.docker.io/v1/" if other in _DOCKER_HUB else other
        fix = (
            f"Store another Airflow connection of type docker, with host {url} and a login of that registry, such as a"
            " deploy token, and set docker_conn_id to its ID. If it is a proxy in front of ECR or an emulator, map a"
            f' connection: {{"registry": "{other}", "region_name": "us-east-1"}}.'
        )
    raise CheckFailed(code, problem, fix)


@dataclass
class Pull:
    """A pull of an image from its registry, up to its layers."""

    client: RegistryClient
    image: Image
    manifest: Response = field(init=False)

    def check_permission(self) -> StepResult:
        """Request the manifest, which requires a permission and a repository."""
        image = self.image
        self.manifest = response = self._get("manifests", image.reference, MANIFEST_TYPES)
        if response.status == HTTPStatus.NOT_FOUND and image.has_digest:
            fix = "Correct the digest. For a pull-through cache, pull by its tag first: ECR imports none by its digest."
            raise CheckFailed("digest-missing", f"the registry has no {image}", fix)
        if response.status == HTTPStatus.NOT_FOUND and response.error[0] == "NAME_UNKNOWN":
            fix = "Correct the name, account or region of the image, or create the repository."
            raise CheckFailed("repository-missing", f"the registry has no repository {image.repository!r}", fix)
        if response.status not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            raise response.to_failure()
        if response.status == HTTPStatus.OK and not response.fields:
            raise CheckFailed("registry-error", f"{response.host} returns no manifest for {image}", MIDDLEBOX_FIX)
        return StepResult(f"the identity may pull {image.repository}")

    def check_reference(self) -> StepResult:
        """Check that the tag exists."""
        wanted = self.image.reference
        if self.manifest.status == HTTPStatus.OK:
            return StepResult(f"{wanted} exists")
        tags = self._get("tags", "list").fields.get("tags")
        names = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
        near = ", ".join(get_close_matches(wanted, names, n=5, cutoff=0))
        problem = f"the repository {self.image.repository!r} has no tag {wanted!r}"
        fix = "Correct the tag, or push it. A lifecycle policy may have removed it."
        raise CheckFailed("tag-missing", f"{problem}; the nearest are {near}" if near else problem, fix)

    def check_platform(self, wanted: str) -> StepResult:
        """Check that the image supports a platform, and that its content can be downloaded."""
        manifest = self.manifest.fields
        if isinstance(variants := manifest.get("manifests"), list):
            digests = {platform_of(it.get("platform")): it.get("digest") for it in variants if isinstance(it, dict)}
            if wanted not in digests:
                raise _wrong_platform(wanted, digests)
            manifest = self._get("manifests", str(digests[wanted]), MANIFEST_TYPES).fields
        match manifest:
            case {"config": {"digest": str(digest)}} if re.fullmatch(_DIGEST, digest):
                response = self._get("blobs", digest)
            case _:
                return StepResult("the manifest names no platform", "skipped", "platform-unknown")
        if response.status != HTTPStatus.OK:
            raise response.to_failure()
        if (found := platform_of(response.fields)) != wanted:
            raise _wrong_platform(wanted, [found])
        return StepResult(f"the image is for {wanted}, and can be downloaded")

    def _get(self, kind: str, reference: str, accept: tuple[str, ...] = ()) -> Response:
        repository, host = self.image.repository, self.client.host
        response = self.client.get(f"/v2/{repository}/{kind}/{reference}", accept)
        if response.host != host and response.status != HTTPStatus.OK:
            raise storage_failure(response.host, f"answers {response.status}")
        if response.status not in DENIED or kind == "tags":  # a pull lists no tags
            return response
        message = response.error[1] or f"{host} answers {response.status}"
        if "upstream registry" in message:
            fix = "Correct user name and token in the secret ecr-pullthroughcache/… of the pull-through cache rule."
            raise CheckFailed("upstream-login-failed", f"{repository!r} is not cached, and: {message}", fix)
        fix = (
            f"Allow {PULL_ACTIONS} on the repository in the identity's policy and, if another account has the"
            " repository, in the repository's policy."
        )
        raise CheckFailed("permission-missing", f"the identity may not pull {repository!r}: {message}", fix)


def platform_of(fields: object) -> str:
    """Return the platform that a manifest or the configuration of an image names, such as ``linux/amd64``."""
    found = fields if isinstance(fields, dict) else {}
    return f"{found.get('os', 'unknown')}/{found.get('architecture', 'unknown')}"


def _wrong_platform(wanted: str, found: Iterable[str]) -> CheckFailed:
    names = ", ".join(sorted(each for each in found if not each.startswith("unknown/"))) or "no platform"
    fix = f"Build it for {wanted}: docker buildx build --platform {wanted}. Or run it on another host."
    return CheckFailed("platform-wrong", f"the engine's platform is {wanted}, but the image is for {names}", fix)
