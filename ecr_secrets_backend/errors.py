"""What can go wrong, in sentences that name the place, the fault and the remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ecr_secrets_backend.credential_sources import Source

#: What a caller may rely on; the others do not leave the package.
__all__ = ["ConfigurationError", "ConnectionUnavailableError", "EcrSecretsBackendError", "MintFailure"]


class EcrSecretsBackendError(Exception):
    """Every exception that this package raises on purpose."""


class InvalidRegistryError(EcrSecretsBackendError, ValueError):
    """A text that is not the host of an ECR registry.

    :param problem: what is wrong with the host
    :param remedy: what would be right
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return one_line(f"The registry's host {self.problem}; {self.remedy}")


class ConfigurationError(EcrSecretsBackendError, ValueError):
    """A kwarg of the backend that cannot be right; raised while the backend is built.

    :param path: where it stands, such as ``connections.docker_eu.region_name``
    :param problem: what is wrong with the value
    :param remedy: what would be right
    """

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(path, problem, remedy)
        self.path = path
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return one_line(f"{self.path} {self.problem}; {self.remedy}")


#: Characters that each text of a failure may have. It is logged, and stored for the other processes of the host.
_LIMITS: Final[Mapping[str, int]] = {"identity": 1000, "region": 100, "code": 100, "reason": 600, "remedy": 1000}


@dataclass(frozen=True, slots=True)
class MintFailure:
    """Why AWS gave no token: a value, so that every process of a host can repeat the cause without asking AWS again.

    It is text alone: neither the exception it was read from nor a traceback, whose locals would hold secrets. AWS, a
    proxy or a file may have written any of it, so each text is made one printable line of bounded length.

    :param identity: who has asked, such as ``boto3's default credentials``
    :param region: where
    :param code: AWS's own code, such as ``AccessDeniedException``, or ours where AWS did not answer
    :param reason: what AWS has said
    :param remedy: what to do about it
    """

    identity: str
    region: str
    code: str
    reason: str
    remedy: str

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            object.__setattr__(self, name, one_line(getattr(self, name), limit))

    def __str__(self) -> str:
        return f"{self.code}: {self.reason} (identity: {self.identity}; region: {self.region}). {self.remedy}"


class MintError(EcrSecretsBackendError):
    """AWS returned no token.

    :param failure: why
    :param request_seconds: how long the caller's own request took; None: it made none
    :param sources: what each source of credentials said, where that is known
    """

    def __init__(
        self, failure: MintFailure, request_seconds: float | None = None, sources: tuple[Source, ...] = ()
    ) -> None:
        super().__init__(failure, request_seconds, sources)
        self.failure = failure
        self.request_seconds = request_seconds
        self.sources = sources

    def __str__(self) -> str:
        return str(self.failure)


class ConnectionUnavailableError(EcrSecretsBackendError):
    """A mapped connection that cannot be served now.

    What is raised is of a class that Airflow passes on to the task as well, from Airflow 3.2.2 on: catch this one.

    :param conn_id: the Airflow connection that was asked for
    :param failure: why there is no token for it
    """

    def __init__(self, conn_id: str, failure: MintFailure) -> None:
        # One argument only: a subclass that is an OSError as well would read several as errno and file name.
        super().__init__(f"Connection {conn_id!r} has no ECR token. {failure}")
        self.conn_id = conn_id
        self.failure = failure

    def __reduce__(self) -> tuple[type[ConnectionUnavailableError], tuple[str, MintFailure]]:
        return type(self), (self.conn_id, self.failure)


_WORD: Final = re.compile(r"\S+")


def one_line(text: str, limit: int | None = None) -> str:
    """Return a text that others wrote as one printable line, without the logins in its URLs.

    :param limit: the most characters that are returned; None: all
    """
    text = _WORD.sub(_without_login, text)
    if limit is not None:
        text = text[: limit + 1]
    line = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"


def _without_login(match: re.Match[str]) -> str:
    word = match[0]
    start, end = word.find("://") + len("://"), word.rfind("@")
    return f"{word[:start]}***{word[end:]}" if len("://") <= start <= end else word
