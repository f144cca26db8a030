"""What can go wrong, in sentences that name the place, the fault and the fix."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

#: What a caller may rely on; the others do not leave the package.
__all__ = ["ConfigurationError", "ConnectionUnavailableError", "EcrSecretsBackendError", "TokenFailure"]


class EcrSecretsBackendError(Exception):
    """Every exception that this package raises on purpose."""

    def __post_init__(self) -> None:
        self.args = tuple(vars(self).values())  # by which it is pickled and copied


@dataclass(eq=False)
class ConfigurationError(EcrSecretsBackendError, ValueError):
    """A kwarg of the backend that cannot be right; raised while the backend is built.

    :param path: where it stands, such as ``connections.docker_eu.region_name``
    :param problem: what is wrong with the value
    :param fix: what would be right
    """

    path: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return one_line(f"{self.path} {self.problem}; {self.fix}")


@dataclass(frozen=True, slots=True)
class TokenFailure:
    """Why AWS gave no token: a value, so that every process of a host can repeat the cause without asking AWS again.

    It is text alone: neither the exception it was read from nor a traceback, whose locals would hold secrets. AWS, a
    proxy or a file may have written any of it, so each text is made one printable line of bounded length.

    :param identity: who has asked, such as ``boto3's default credentials``
    :param region: where
    :param code: AWS's own code, such as ``AccessDeniedException``, or ours where AWS did not answer
    :param reason: what AWS has said
    :param fix: what to do about it
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
        """Return the fields as the commands and the page in Airflow print them."""
        fields = {"identity": self.identity, "region": self.region, "code": self.code, "reason": self.reason}
        return {**fields, "remedy": self.fix}

    def __str__(self) -> str:
        return f"{self.code}: {self.reason} (identity: {self.identity}; region: {self.region}). {self.fix}"


@dataclass(frozen=True)
class CredentialSource:
    """A source of credentials, by its name in words, and what it says; ``fix`` is None if it need not apply here."""

    source: str
    message: str
    fix: str | None


@dataclass(eq=False)
class TokenError(EcrSecretsBackendError):
    """AWS returned no token.

    :param request_seconds: how long the caller's own request took; None: it made none
    :param sources: what each source of credentials said, where that is known
    """

    failure: TokenFailure
    request_seconds: float | None = None
    sources: tuple[CredentialSource, ...] = ()

    def __str__(self) -> str:
        return str(self.failure)


@dataclass(eq=False)
class ConnectionUnavailableError(EcrSecretsBackendError):
    """A mapped connection that cannot be served now.

    What is raised is of a class that Airflow passes on to the task as well, from Airflow 3.2.2 on: catch this one.

    :param conn_id: the Airflow connection that was asked for
    :param failure: why there is no token for it
    """

    conn_id: str
    failure: TokenFailure

    def __str__(self) -> str:
        return f"Connection {self.conn_id!r} has no ECR token. {self.failure}"


def one_line(text: str, limit: int = sys.maxsize) -> str:
    """Return at most so many characters of a text that others wrote, as a printable line without the logins of URLs."""
    text = re.sub(r"\S+", _without_login, text)[: limit + 1]
    line = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _without_login(word: re.Match[str]) -> str:
    scheme, mark, rest = word[0].partition("://")
    return f"{scheme}{mark}***@{rest.rpartition('@')[2]}" if mark and "@" in rest else word[0]
