"""What a check finds: a value for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ecr_secrets_backend.errors import EcrSecretsBackendError

State = Literal["good", "skipped", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """What a step has found.

    :param connection: whose way it is; None: the way of all
    :param step: the step's name
    :param code: a word for the finding that programs can rely on; ``ok`` where all is well
    :param remedy: what to do about it
    :param seconds: how long the step took
    """

    connection: str | None
    step: str
    state: State
    code: str
    message: str
    remedy: str | None
    seconds: float


@dataclass(frozen=True)
class Told:
    """What a step tells, in good weather or bad."""

    message: str
    state: State = "good"
    code: str = "ok"
    remedy: str | None = None


class Fault(EcrSecretsBackendError):  # noqa: N818 - it ends a way, and is what a check is for
    """Why the way ends here.

    :param code: as of a :class:`Finding`
    :param exit_code: what the process is to end with
    """

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(code, message, remedy)
        self.code = code
        self.message = message
        self.remedy = remedy
