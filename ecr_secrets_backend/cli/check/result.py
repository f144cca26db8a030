"""What a check reports: a value for people and for programs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from ecr_secrets_backend.credentials import Source
from ecr_secrets_backend.errors import one_line

#: Characters of a message. A registry, an engine or a file may have written most of it.
LONGEST_MESSAGE: Final = 2000
#: A run of characters that may be a part of a token, or of its base64: shorter ones reveal too little to matter.
_PART_OF_TOKEN: Final = re.compile(r"[A-Za-z0-9+/=_-]{20,}")


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
    sources: tuple[Source, ...] = ()

    def without(self, secrets: Collection[str]) -> StepResult:
        """Return it in bounded lines, without any part of a secret, which a registry or engine may echo."""

        def mask(found: re.Match[str]) -> str:
            return "***" if any(found[0] in secret or secret in found[0] for secret in secrets) else found[0]

        def clean(text: str) -> str:
            return one_line(_PART_OF_TOKEN.sub(mask, text), LONGEST_MESSAGE)

        return replace(self, message=clean(self.message), fix=self.fix and clean(self.fix))


class CheckFailed(Exception):  # noqa: N818 - named for what it reports
    """A step that failed, so that the steps after it cannot run."""

    def __init__(self, code: str, message: str, fix: str, sources: tuple[Source, ...] = ()) -> None:
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
