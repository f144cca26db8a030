"""An image's name: its registry, repository, tag and digest, as Docker reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

#: Whose images a name without a registry means.
DOCKER_HUB: Final = "docker.io"

_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE: Final = re.compile(
    rf"(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?",
    re.ASCII,
)
ANOTHER: Final = "another registry"
#: What their users call them.
_KNOWN: Final = {
    DOCKER_HUB: "Docker Hub",
    "index.docker.io": "Docker Hub",
    "registry-1.docker.io": "Docker Hub",
    "registry.gitlab.com": "GitLab",
    "ghcr.io": "GitHub",
    "quay.io": "Quay",
    "gcr.io": "Google",
    "mcr.microsoft.com": "Microsoft",
}


@dataclass(frozen=True, slots=True)
class Image:
    """The name of an image.

    :param registry: the host that it is pulled from; None: it names none, so Docker goes to Docker Hub
    :param reference: its tag, or its digest, which wins
    """

    registry: str | None
    repository: str
    reference: str

    @classmethod
    def parse(cls, text: str) -> Image | None:
        """Read a name; None if Docker would refuse it.

        The first part is a registry if it has a dot or a colon, or is ``localhost``.
        Source: ``distribution/reference``, normalize.go.
        """
        first, slash, rest = text.partition("/")
        has_registry = bool(slash) and (any(mark in first for mark in ".:") or first == "localhost")
        match = _REFERENCE.fullmatch(rest if has_registry else text)
        if match is None:
            return None
        return cls(first if has_registry else None, match["repository"], match["digest"] or match["tag"] or "latest")

    def __str__(self) -> str:
        """Write it as Docker does."""
        mark = "@" if self.reference.startswith("sha256:") else ":"
        registry = f"{self.registry}/" if self.registry else ""
        return f"{registry}{self.repository}{mark}{self.reference}"


def operator_of(registry: str) -> str:
    """Name who runs a registry that is not ECR, as far as its host tells."""
    return _KNOWN.get(registry, ANOTHER)
