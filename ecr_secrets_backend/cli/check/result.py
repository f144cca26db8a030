"""What a check reports: a value for people and for programs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, Literal

from ecr_secrets_backend.errors import CredentialSource, one_line

#: Characters of a message. A registry, an engine or a file may have written most of it.
LONGEST_MESSAGE: Final = 2000
#: So many characters of a token in a row are not shown. Of a longer text, only the beginning is searched for them.
_PART_OF_SECRET: Final = 16
_LONGEST_TEXT: Final = 10 * LONGEST_MESSAGE


@dataclass(frozen=True)
class StepResult:
    """What a step of a check has found.

    :param code: a word that programs can rely on
    :param fix: how to fix it
    :param sources: what each source of AWS credentials said, if the step asks them
    """

    message: str
    state: Literal["good", "skipped", "warning", "failed"] = "good"
    code: str = "ok"
    fix: str | None = None
    sources: tuple[CredentialSource, ...] = ()

    def without(self, secrets: Collection[str]) -> StepResult:
        """Return it in bounded lines, without any part of a secret, which a registry or engine may echo."""
        length = _PART_OF_SECRET
        parts = {secret[start : start + length] for secret in secrets for start in range(len(secret) - length + 1)}

        def clean(text: str) -> str:
            text = text[:_LONGEST_TEXT]
            hidden = bytearray(len(text))
            for start in range(len(text) - length + 1):
                if text[start : start + length] in parts:
                    hidden[start : start + length] = b"1" * length
            runs = groupby(zip(text, hidden, strict=True), lambda pair: pair[1])
            return one_line(
                "".join("***" if is_hidden else "".join(c for c, _ in run) for is_hidden, run in runs), LONGEST_MESSAGE
            )

        return replace(self, message=clean(self.message), fix=self.fix and clean(self.fix))


class CheckFailed(Exception):  # noqa: N818 - named for what it reports
    """A step that failed, so that the steps after it cannot run."""

    def __init__(self, code: str, message: str, fix: str, sources: tuple[CredentialSource, ...] = ()) -> None:
        self.result = StepResult(message, "failed", code, fix, sources)
        super().__init__(self.result)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Return an exception and those that it wraps, in the ways of Python, urllib3, requests and docker."""
    seen: list[BaseException] = []
    found: list[object] = [error]
    while found:
        cause = found.pop()
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            found += [cause.__context__, cause.__cause__, getattr(cause, "reason", None), *cause.args]
            yield cause
