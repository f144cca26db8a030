"""What a check finds: a value for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from ecr_secrets_backend.errors import EcrSecretsBackendError, one_line

if TYPE_CHECKING:
    from ecr_secrets_backend.credentials import Source

State = Literal["good", "skipped", "warning", "failed"]

#: Characters of a message. A registry, an engine or a file may have written most of it.
LONGEST_MESSAGE: Final = 2000


@dataclass(frozen=True)
class Finding:
    """What a step has found.

    :param connection: whose way it is; None: the way of all
    :param step: the step's name
    :param code: a word for the finding that programs can rely on; ``ok`` where all is well
    :param remedy: what to do about it
    :param seconds: how long the step took
    :param sources: what each source of AWS credentials said, if this is the step that asks them
    """

    connection: str | None
    step: str
    state: State
    code: str
    message: str
    remedy: str | None
    seconds: float
    sources: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", one_line(self.message, LONGEST_MESSAGE))
        if self.remedy is not None:
            object.__setattr__(self, "remedy", one_line(self.remedy, LONGEST_MESSAGE))


@dataclass(frozen=True)
class Told:
    """What a step tells, in good weather or bad."""

    message: str
    state: State = "good"
    code: str = "ok"
    remedy: str | None = None
    sources: tuple[Source, ...] = ()


class Fault(EcrSecretsBackendError):  # noqa: N818 - it ends a way, and is what a check is for
    """Why the way ends here.

    :param code: as of a :class:`Finding`
    :param sources: as of a :class:`Finding`
    """

    def __init__(self, code: str, message: str, remedy: str, sources: tuple[Source, ...] = ()) -> None:
        super().__init__(code, message, remedy)
        self.code = code
        self.message = message
        self.remedy = remedy
        self.sources = sources
