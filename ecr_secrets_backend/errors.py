"""The exceptions, and the cause of a failure as a value. Each message names what failed, why, and how to fix it."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, dataclass

#: The public names. The other exceptions do not leave the package.
__all__ = ["ConfigurationError", "ConnectionUnavailableError", "EcrSecretsBackendError", "TokenFailure"]


class EcrSecretsBackendError(Exception):
    """The base class of the package's exceptions."""

    def __post_init__(self) -> None:
        self.args = tuple(vars(self).values())  # pickle and copy call the class with these


@dataclass(eq=False)
class ConfigurationError(EcrSecretsBackendError, ValueError):
    """A kwarg of the backend is not valid; raised while the backend is built.

    :param path: the kwarg, such as ``connections.docker_eu.region_name``
    :param problem: what is wrong with its value: the rest of a sentence that begins with the path
    :param fix: a sentence
    """

    path: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return one_line(f"{self.path} {self.problem}. {self.fix}")


@dataclass(frozen=True, slots=True)
class TokenFailure:
    """The reason why AWS returned no token. All processes of a host share it.

    It has text only: an exception would keep a traceback, with secrets in its local variables. The text may come from
    AWS, a proxy or a file, so each field becomes one printable line of bounded length.

    :param identity: the AWS identity, such as ``boto3's default credentials``
    :param region: the AWS region
    :param code: AWS's error code, such as ``AccessDeniedException``, or the package's own if AWS did not answer
    :param reason: AWS's message
    :param fix: how to fix it
    """

    identity: str
    region: str
    code: str
    reason: str
    fix: str

    def __post_init__(self) -> None:
        for name, limit in {"identity": 1000, "region": 100, "code": 100, "reason": 600, "fix": 1000}.items():
            object.__setattr__(self, name, one_line(getattr(self, name), limit))

    def to_json(self) -> dict[str, str]:
        """Return the fields under the names that the commands and the page in Airflow's UI use."""
        return {"remedy" if name == "fix" else name: text for name, text in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.code}: {self.reason} (identity: {self.identity}, region: {self.region}). {self.fix}"


@dataclass(frozen=True)
class CredentialSource:
    """A source of AWS credentials, the result of trying it, and the fix if this process needs it."""

    source: str
    message: str
    fix: str | None


@dataclass(eq=False)
class TokenError(EcrSecretsBackendError):
    """AWS returned no token.

    :param request_seconds: the duration of the caller's own request; None: the caller made none
    :param sources: the sources of credentials that were tried, if known
    """

    failure: TokenFailure
    request_seconds: float | None = None
    sources: tuple[CredentialSource, ...] = ()

    def __str__(self) -> str:
        return str(self.failure)


@dataclass(eq=False)
class ConnectionUnavailableError(EcrSecretsBackendError):
    """A mapped connection has no valid token.

    Catch this class. From Airflow 3.2.2 on, the backend raises a subclass that Airflow passes on to the task.

    :param conn_id: the ID of the Airflow connection
    :param failure: why AWS returned no token
    """

    conn_id: str
    failure: TokenFailure

    def __str__(self) -> str:
        return f"Cannot get an ECR token for connection {self.conn_id!r}: {self.failure}"


def one_line(text: str, limit: int = sys.maxsize) -> str:
    """Return a text as one printable line of at most ``limit`` characters, without user names and passwords in URLs."""
    text = re.sub(r"\S+", _mask_url, text)[: limit + 1]
    line = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _mask_url(word: re.Match[str]) -> str:
    scheme, mark, rest = word[0].partition("://")
    return f"{scheme}{mark}***@{rest.rpartition('@')[2]}" if mark and "@" in rest else word[0]
