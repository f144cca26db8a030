"""The image's part of a check: whose it is, whether it may be pulled, whether it is there, and for which platform."""

from __future__ import annotations

import dataclasses
import json
import re
from difflib import get_close_matches
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ecr_secrets_backend.cli.check.image import ANOTHER, DOCKER_HUB, Image, operator_of
from ecr_secrets_backend.cli.check.registry import INDEX_TYPES, MANIFEST_TYPES, Answer, RegistryClient
from ecr_secrets_backend.cli.check.result import Fault, Told
from ecr_secrets_backend.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What a pull asks of IAM. Source: Amazon ECR User Guide, "Required IAM permissions for pulling".
PULL_ACTIONS: Final = "ecr:BatchGetImage and ecr:GetDownloadUrlForLayer"


def read_image(text: str, host: str | None, conn_ids: Mapping[str, str]) -> Image:
    """Read an image's name, and see whether it is of a connection's registry.

    :param host: the connection's registry; None: no connection serves the image's
    :param conn_ids: the connection that serves a registry, by the registry's host
    """
    remedy = "Write REGISTRY/REPOSITORY:TAG, in lower case but for the tag, without https://."
    image = Image.parse(text)
    if image is None:
        raise Fault("image-name-invalid", f"{text!r} is no name of an image", remedy)
    if image.registry is None:
        registry = host or next(iter(conn_ids), "REGISTRY")
        raise Fault(
            "image-without-registry",
            f"{text!r} names no registry, so Docker looks for it on Docker Hub",
            f"Write {registry}/{image.repository}:{image.reference}."
            " If it is an image of Docker Hub, it needs none of these connections.",
        )
    if image.registry == host:
        return image
    if host is not None and image.registry.partition(":")[0] == host.partition(":")[0]:
        raise Fault(
            "image-of-other-registry",
            f"the image is of {image.registry}, and this connection logs in to {host}: to Docker, a port makes another"
            " registry",
            f"Write {dataclasses.replace(image, registry=host)}, or correct the registry in backend_kwargs.",
        )
    if not is_ecr(image.registry) and image.registry not in conn_ids:
        kind = operator_of(image.registry)
        at = "https://index.docker.io/v1/" if kind == operator_of(DOCKER_HUB) else image.registry
        fix = (
            f"Store another Airflow connection of type docker, with host {at} and that registry's own login and"
            " password (a deploy token, say), and name it by docker_conn_id."
        )
        if kind == ANOTHER:
            shape = json.dumps({"registry": image.registry, "region_name": "us-east-1"})
            fix += (
                f" If it is a proxy in front of ECR or an emulator, map a connection to it in backend_kwargs: {shape}."
            )
        raise Fault(
            "image-not-ecr",
            f"{image.registry} is {kind}, not Amazon ECR: no connection of this backend serves it",
            fix,
        )
    if image.registry in conn_ids:
        raise Fault(
            "image-of-other-registry",
            f"the image is of {image.registry}, and this connection logs in to {host}",
            f"Set docker_conn_id to {conn_ids[image.registry]!r}, which serves that registry.",
        )
    raise Fault(
        "image-of-other-registry",
        f"the image is of {image.registry}, and no connection is mapped to that registry",
        f'Map one to it in backend_kwargs, as by {{"docker_other": "{image.registry}"}}, or correct the name.',
    )


def is_ecr(registry: str) -> bool:
    """Tell whether a host is a registry of Amazon ECR."""
    return Registry.find(registry) is not None


@dataclasses.dataclass(frozen=True)
class Platform:
    """An operating system and a processor, in Docker's words."""

    os: str
    architecture: str

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"


class Pull:
    """A pull of one image by one login, as far as a check takes it: all but its layers.

    :param client: of the image's registry
    :param login: user name and password
    """

    def __init__(self, client: RegistryClient, login: tuple[str, str], image: Image) -> None:
        self._client = client
        self._login = login
        self._image = image
        self._found: Answer | None = None

    def ask(self) -> Told:
        """Ask for the image, which tells whether it may be pulled, and whether its repository is there."""
        self._found = answer = self._get("manifests", self._image.reference, (*INDEX_TYPES, *MANIFEST_TYPES))
        code, message = answer.error
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            self._deny(answer)
        if answer.status == HTTPStatus.NOT_FOUND and code == "NAME_UNKNOWN":
            raise Fault(
                "repository-missing",
                f"the registry has no repository {self._image.repository!r}",
                "Correct the image's name, or its account and region; repositories are of one region.",
            )
        if answer.status not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
            raise Fault(
                "registry-error",
                f"the registry answers {answer.status} {message}".rstrip(),
                "Try again; if it lasts, look at AWS's health for that region.",
            )
        return Told(f"{self._image.repository} may be pulled")

    def find(self) -> Told:
        """See whether the tag or digest is there."""
        if self._answer.status == HTTPStatus.NOT_FOUND:
            what = "digest" if self._image.reference.startswith("sha256:") else "tag"
            raise Fault(
                "tag-missing",
                f"the repository {self._image.repository!r} has no {what} {self._image.reference!r}{self._tags()}",
                "Correct the tag; it may not have been pushed yet, or a lifecycle policy has removed it.",
            )
        return Told(f"{self._image.reference} is there")

    def fit(self, wanted: Platform) -> Told:
        """See whether there is an image for the platform, and whether its content may be downloaded."""
        manifest = self._answer.json
        variants = manifest.get("manifests")
        if variants is not None:
            by_platform = {_platform(each.get("platform")): each.get("digest") for each in variants}
            if wanted not in by_platform:
                self._misfit(wanted, {str(platform) for platform in by_platform if platform.os != "unknown"})
            manifest = self._get("manifests", str(by_platform[wanted]), MANIFEST_TYPES).json
        try:
            digest = manifest["config"]["digest"]
        except (TypeError, KeyError):
            return Told("the manifest is of a form that tells no platform", "skipped", "platform-unknown")
        found = _platform(self._download(digest))
        if found != wanted:
            self._misfit(wanted, {str(found)})
        return Told(f"it is for {wanted}, and can be downloaded")

    @property
    def _answer(self) -> Answer:
        if self._found is None:
            raise RuntimeError("the image is asked for first")
        return self._found

    def _get(self, kind: str, reference: str, accept: tuple[str, ...] = ()) -> Answer:
        return self._client.get(f"/v2/{self._image.repository}/{kind}/{reference}", self._login, accept)

    def _tags(self) -> str:
        """Name the tags that come nearest, where the identity may list them."""
        found = self._get("tags", "list").json.get("tags") or []
        near = get_close_matches(self._image.reference, map(str, found), n=5, cutoff=0)
        return f"; the nearest are {', '.join(near)}" if near else ""

    def _deny(self, answer: Answer) -> NoReturn:
        _, message = answer.error
        missing = re.search(r"perform: ([\w-]+:\w+)", message)
        host = self._client.host
        account = host.partition(".")[0] if is_ecr(host) else "the repository's"
        raise Fault(
            "permission-missing",
            f"the identity may log in, but not pull {self._image.repository!r}: {message or answer.status}",
            f"Allow {missing[1] if missing else PULL_ACTIONS} on the repository to this identity: a pull needs"
            f" {PULL_ACTIONS}, in its own policy and, from another account than {account}, in the repository's.",
        )

    def _download(self, digest: str) -> Any:  # noqa: ANN401 - any JSON value
        """Get the image's configuration, by the way that its layers would come."""
        answer = self._get("blobs", digest)
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            self._deny(answer)
        if answer.location:
            try:
                answer = self._client.follow(answer.location)
            except OSError as error:
                raise Fault(
                    "storage-unreachable",
                    f"the registry answers, but the storage of its layers does not: {error}",
                    "Let this host reach Amazon S3 in the registry's region: a route, or a gateway endpoint for S3.",
                ) from None
        return answer.json

    def _misfit(self, wanted: Platform, found: set[str]) -> NoReturn:
        raise Fault(
            "platform-wrong",
            f"the engine is {wanted}, and the image is for {', '.join(sorted(found)) or 'no platform'}",
            f"Build it for {wanted}, as by docker buildx build --platform {wanted}, or run it on another host.",
        )


def _platform(value: Any) -> Platform:  # noqa: ANN401 - any JSON value
    fields = value if isinstance(value, dict) else {}
    return Platform(str(fields.get("os", "unknown")), str(fields.get("architecture", "unknown")))
