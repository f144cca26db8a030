"""An image: whether its name is of the connection's registry, and whether it can be pulled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from http import HTTPStatus
from typing import Final, NamedTuple, NoReturn

from ecr_secrets_backend.cli.check.registry import DENIED, Answer, RegistryClient, reject, storage_failure
from ecr_secrets_backend.cli.check.result import CheckFailed, StepResult
from ecr_secrets_backend.registry import Registry

#: What a pull needs from IAM. Source: Amazon ECR User Guide, "Required IAM permissions for pulling".
PULL_ACTIONS: Final = "ecr:BatchGetImage and ecr:GetDownloadUrlForLayer"
INDEX_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DIGEST: Final = r"sha256:[0-9a-f]{64}"
_REFERENCE: Final = re.compile(
    rf"(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>{_DIGEST}))?",
    re.ASCII,
)
_DOCKER_HUB: Final = ("docker.io", "index.docker.io", "registry-1.docker.io")


class Image(NamedTuple):
    """The name of an image.

    :param registry: the host that it is pulled from; None: it names none, so Docker uses Docker Hub
    :param reference: its digest, else its tag
    """

    registry: str | None
    repository: str
    reference: str

    @classmethod
    def parse(cls, text: str) -> Image | None:
        """Read a name; None if Docker would refuse it."""
        registry, rest = _split(text)
        match = _REFERENCE.fullmatch(rest)
        return match and cls(registry, match["repository"], match["digest"] or match["tag"] or "latest")

    @property
    def kind(self) -> str:
        """What the reference is."""
        return "digest" if re.fullmatch(_DIGEST, self.reference) else "tag"

    def __str__(self) -> str:
        name = f"{self.registry}/{self.repository}" if self.registry else self.repository
        return f"{name}{'@' if self.kind == 'digest' else ':'}{self.reference}"


def platform_of(fields: object) -> str:
    """Return the platform that a manifest or the configuration of an image names, such as ``linux/amd64``."""
    found = fields if isinstance(fields, dict) else {}
    return f"{found.get('os', 'unknown')}/{found.get('architecture', 'unknown')}"


def _split(text: str) -> tuple[str | None, str]:
    """Split a name into its registry and the rest.

    The first part is a registry if it has a dot or a colon, or is ``localhost``.
    Source: ``distribution/reference``, normalize.go.
    """
    first, slash, rest = text.partition("/")
    is_registry = bool(slash) and (any(mark in first for mark in ".:") or first == "localhost")
    return (first, rest) if is_registry else (None, text)


def read_image(text: str) -> Image:
    """Read an image's name.

    :raises CheckFailed: Docker refuses it, or would find no login for the registry as it is spelled
    """
    plain = re.sub(r"^\s*([\w+.-]+://)?", "", text).rstrip("/ ")
    registry, rest = _split(plain if "/" in plain else f"{plain}/")
    host, _, port = (registry or "").lower().partition(":")
    is_ecr = Registry.find(host) is not None
    if port and not (is_ecr and port == "443"):  # which Docker does not take for the same registry
        host = f"{host}:{port}"
    wrong = re.sub(r"^[a-z0-9._/-]*(:[\w.-]*)?(@[a-z0-9:]*)?", "", _split(text)[1], flags=re.ASCII)[:1]
    right = f"{host}/{rest}"
    if is_ecr and not rest:
        problem, right = "names a registry and no repository", f"{host.partition(':')[0]}/REPOSITORY:TAG"
    elif plain != text:
        problem, right = f"has {text.replace(plain, '', 1)!r} beside the name", plain
    elif registry and registry != host:
        wrong = next((character for character in registry if character.isupper()), ":443")
        problem = f"has {wrong!r} in the registry's host, under which Docker finds no login"
    elif image := Image.parse(text):
        return image
    else:
        problem = f"has {wrong!r}, which Docker refuses there" if wrong else "is not valid for Docker"
        right = "REGISTRY/REPOSITORY:TAG, in lower case but for the tag"
    raise CheckFailed("image-name-invalid", f"{text!r} {problem}", f"Write {right}.")


def match_registry(image: Image, host: str | None, conn_ids: Mapping[str, str]) -> StepResult:
    """Check that an image is of a connection's registry.

    :param host: the connection's registry; None: no connection serves the image's
    :param conn_ids: the connection that serves a registry, by the registry's host
    """
    other, code = image.registry, "image-of-other-registry"
    registry = Registry.find(other or "")
    problem = f"the image is of {other}, and this connection logs in to {host}"
    if other == host and host:
        return StepResult(f"{image} is of this connection's registry")
    if other is None and (named := f"{image.repository}:{image.reference}".removesuffix(":latest")) in conn_ids:
        code, problem = "image-name-invalid", f"'{named}' names a registry and no repository"
        fix = f"Write {named}/REPOSITORY:TAG."
    elif other is None:
        code, problem = "image-without-registry", f"'{image}' names no registry, so Docker looks for it on Docker Hub"
        fix = f"Write {image._replace(registry=host or next(iter(conn_ids), 'REGISTRY'))}."
        fix += " If it is an image of Docker Hub, it needs none of these connections."
    elif other in conn_ids:
        fix = f"Set docker_conn_id to {conn_ids[other]!r}, which serves that registry."
    elif registry and registry.service != "ecr":
        return StepResult(f"anyone can pull from {other}: the image needs no connection", code="image-public")
    elif host and other.partition(":")[0] == host.partition(":")[0]:
        problem = f"{problem}: to Docker, a port makes another registry"
        fix = f"Write {image._replace(registry=host)}, or correct the registry in backend_kwargs."
    elif registry:
        problem = f"the image is of {other}, and no connection is mapped to that registry"
        fix = f'Map one to it in backend_kwargs: {{"docker_other": "{other}"}}. Or correct the name.'
    else:
        code, problem = "image-not-ecr", f"{other} is not Amazon ECR: no connection of this backend serves it"
        url = "https://index.docker.io/v1/" if other in _DOCKER_HUB else other
        fix = f"Store another Airflow connection of type docker, with host {url} and that registry's own login and"
        fix += (
            " password (a deploy token, for example), and name it by docker_conn_id. If it is a proxy in front of ECR"
        )
        fix += f' or an emulator, map a connection: {{"registry": "{other}", "region_name": "us-east-1"}}.'
    raise CheckFailed(code, problem, fix)


class Pull:
    """A pull of one image, up to its layers.

    :param client: of the image's registry
    """

    _found: Answer

    def __init__(self, client: RegistryClient, image: Image) -> None:
        self._client = client
        self._image = image

    def check_permission(self) -> StepResult:
        """Request the manifest, which requires a permission and a repository."""
        image = self._image
        self._found = answer = self._get("manifests", image.reference, (*INDEX_TYPES, *MANIFEST_TYPES))
        if answer.status == HTTPStatus.NOT_FOUND:
            if image.kind == "digest":
                fix = (
                    "Correct the digest. If the repository is of a pull-through cache, pull the image by its tag first:"
                )
                fix += " ECR imports none by its digest."
                raise CheckFailed("digest-missing", f"the registry has no {image}", fix)
            if answer.error[0] == "NAME_UNKNOWN":
                fix = "Correct the image's name, or its account and region; a repository is of one region."
                raise CheckFailed("repository-missing", f"the registry has no repository {image.repository!r}", fix)
        elif answer.status != HTTPStatus.OK:
            raise reject(answer)
        elif not answer.fields:
            fix = "Look for a proxy between that answers in the registry's place."
            raise CheckFailed("registry-error", f"{answer.host} returns no manifest for {image}", fix)
        return StepResult(f"the identity may pull {image.repository}")

    def check_reference(self) -> StepResult:
        """Check that the tag exists."""
        wanted = self._image.reference
        if self._found.status == HTTPStatus.OK:
            return StepResult(f"{wanted} exists")
        tags = self._get("tags", "list").fields.get("tags")
        names = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
        near = ", ".join(get_close_matches(wanted, names, n=5, cutoff=0))
        problem = f"the repository {self._image.repository!r} has no tag {wanted!r}"
        fix = "Correct the tag. It may not have been pushed yet, or a lifecycle policy has removed it."
        raise CheckFailed("tag-missing", f"{problem}; the nearest are {near}" if near else problem, fix)

    def check_platform(self, wanted: str) -> StepResult:
        """Check that there is an image for a platform, and that its content can be downloaded."""
        manifest = self._found.fields
        if isinstance(variants := manifest.get("manifests"), list):
            digests = {platform_of(it.get("platform")): it.get("digest") for it in variants if isinstance(it, dict)}
            if wanted not in digests:
                _reject_platforms(wanted, digests)
            manifest = self._get("manifests", str(digests[wanted]), MANIFEST_TYPES).fields
        match manifest:
            case {"config": {"digest": str(digest)}} if re.fullmatch(_DIGEST, digest):
                answer = self._get("blobs", digest)
            case _:
                return StepResult("the manifest names no platform", "skipped", "platform-unknown")
        if answer.status != HTTPStatus.OK:
            raise reject(answer)
        found = platform_of(answer.fields)
        if found != wanted:
            _reject_platforms(wanted, [found])
        return StepResult(f"it is for {wanted}, and can be downloaded")

    def _get(self, kind: str, reference: str, accept: tuple[str, ...] = ()) -> Answer:
        answer = self._client.get(f"/v2/{self._image.repository}/{kind}/{reference}", accept)
        if answer.host != self._client.host and answer.status != HTTPStatus.OK:
            raise storage_failure(answer.host, f"answers {answer.status}")
        if answer.status in DENIED and kind != "tags":
            self._deny(answer)
        return answer

    def _deny(self, answer: Answer) -> NoReturn:
        _, message = answer.error
        repository, host = self._image.repository, self._client.host
        if "upstream registry" in message:
            fix = (
                "Correct the secret ecr-pullthroughcache/… that the pull-through cache rule names: user name and token."
            )
            raise CheckFailed("upstream-login-failed", f"{repository!r} is not cached, and: {message}", fix)
        missing = re.search(r"perform: ([\w-]+:\w+)", message)
        account = host.partition(".")[0] if Registry.find(host) else "the repository's"
        raise CheckFailed(
            "permission-missing",
            f"the identity may log in, but not pull {repository!r}: {message or answer.status}",
            f"Allow {missing[1] if missing else PULL_ACTIONS} on the repository to this identity: a pull needs"
            f" {PULL_ACTIONS}, in its own policy and, from another account than {account}, in the repository's.",
        )


def _reject_platforms(wanted: str, found: Iterable[str]) -> NoReturn:
    names = ", ".join(sorted(each for each in found if not each.startswith("unknown/"))) or "no platform"
    fix = f"Build it for {wanted}: docker buildx build --platform {wanted}. Or run it on another host."
    raise CheckFailed("platform-wrong", f"the engine is {wanted}, and the image is for {names}", fix)
