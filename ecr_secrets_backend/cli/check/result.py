"""The result of a step of ``check``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from ecr_secrets_backend.errors import CredentialSource, one_line

#: The length of a message, in characters. A registry, an engine or a file may have written the most of them.
LONGEST_MESSAGE: Final = 2000
_LONGEST_TEXT: Final = 10 * LONGEST_MESSAGE  # is searched for secrets
#: A word is hidden if it has this many characters in a row in common with a secret, because it may be a part of one.
_SECRET_PART: Final = 16
_LONG_WORD: Final = re.compile(rf"[\w+/=%\\-]{{{_SECRET_PART},}}")  # also of an encoding for URLs or JSON


@dataclass(frozen=True)
class StepResult:
    """A finding of a step.

    :param code: for programs; it never changes
    :param sources: the result of each source of AWS credentials, if the step loads credentials
    :param connection: the connection's ID; None: the step is about all connections
    :param seconds: how long the step took
    """

    message: str
    state: Literal["good", "skipped", "warning", "failed"] = "good"
    code: str = "ok"
    fix: str | None = None
    sources: tuple[CredentialSource, ...] = ()
    connection: str | None = None
    step: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as ``docs/commands/check.md`` documents them."""
        fields = {"connection": self.connection, "step": self.step, "state": self.state, "code": self.code}
        fields |= {"message": self.message, "remedy": self.fix}
        sources = {"sources": [asdict(source) for source in self.sources]} if self.sources else {}
        return {**fields, "seconds": self.seconds, **sources}

    def without(self, secrets: Collection[str]) -> StepResult:
        """Return the result with texts of bounded length, without secrets, which a registry or engine may repeat."""

        def parts(text: str) -> set[str]:
            return {text[start : start + _SECRET_PART] for start in range(len(text) - _SECRET_PART + 1)}

        secret_parts = set().union(*map(parts, secrets))

        def clean(text: str) -> str:
            text = _LONG_WORD.sub(
                lambda word: "***" if parts(word[0]) & secret_parts else word[0], text[:_LONGEST_TEXT]
            )
            return one_line(text, LONGEST_MESSAGE)

        return replace(self, message=clean(self.message), fix=self.fix and clean(self.fix))


class CheckFailed(Exception):  # noqa: N818 - an outcome of a step
    """A step failed, so the steps after it cannot run."""

    def __init__(self, code: str, message: str, fix: str, sources: tuple[CredentialSource, ...] = ()) -> None:
        self.result = StepResult(message, "failed", code, fix, sources)
        super().__init__(self.result)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes. Python, urllib3, requests and docker wrap exceptions differently."""
    seen: list[BaseException] = []
    found: list[object] = [error]
    while found:
        cause = found.pop()
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            found += [cause.__context__, cause.__cause__, getattr(cause, "reason", None), *cause.args]
            yield cause
