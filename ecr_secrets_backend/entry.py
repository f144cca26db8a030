"""A cache entry: the token of one identity, its last failure, the back-off, and the file format."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Final
from zlib import crc32

from ecr_secrets_backend.errors import TokenFailure
from ecr_secrets_backend.token import EcrToken

#: The timeout of a request to AWS, credentials included. Two calls and their retries take less. A renewal counts as
#: running for this time at most, because its process may have ended.
REQUEST_TIMEOUT_SECONDS: Final = 20.0
#: After a failed call, no process of the host calls AWS for this time. It doubles with each further failure.
BACK_OFF_SECONDS: Final = 5.0
#: With this limit, ten thousand hosts make a fifth of the calls that ECR allows.
LONGEST_BACK_OFF_SECONDS: Final = 120.0
#: The back-off is at most this part of the last token's lifetime, so that a short-lived token survives a failure.
BACK_OFF_PART: Final = 0.1
#: The back-off is shorter by up to this part, so that hosts that fail together do not retry together.
BACK_OFF_JITTER_PART: Final = 0.2

#: Return the seconds since this host started, sleep included. Unlike the time of day, it cannot be set.
uptime: Final = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

_FORMAT: Final = 3
_DECODER: Final = json.JSONDecoder(parse_int=float)  # built at import, to keep the first lookup short


@dataclass(frozen=True, slots=True)
class Entry:
    """The last token of an identity, and the result of the calls to AWS since.

    :param key: the identity's key, so that a renamed file does not serve another identity
    :param identity: the identity in words, for readers of the file
    :param failure: why the last call returned no token
    :param failures: how many calls in a row have failed
    :param is_renewing: whether the last call may still be running
    :param recorded_at: when the last call ended, or started if it may be running, in seconds since the epoch
    :param uptime: the same time, in seconds since this host started
    """

    key: str
    identity: str = ""
    token: EcrToken | None = None
    failure: TokenFailure | None = None
    failures: int = 0
    is_renewing: bool = False
    recorded_at: float = -math.inf
    uptime: float = 0.0

    @classmethod
    def of_token(cls, key: str, identity: str, token: EcrToken) -> Entry:
        """Return the entry of a new token."""
        return cls(key, identity, token, recorded_at=token.received_at, uptime=uptime())

    def with_renewal(self) -> Entry:
        """Return the entry with a renewal that starts now."""
        return replace(self, is_renewing=True, recorded_at=self.now(), uptime=uptime())

    def with_failure(self, failure: TokenFailure) -> Entry:
        """Return the entry with one more failed call."""
        failed = replace(self, identity=failure.identity, failure=failure, failures=self.failures + 1)
        return replace(failed, is_renewing=False, recorded_at=self.now(), uptime=uptime())

    def now(self) -> float:
        """Return the time in seconds since the epoch, by the wall clock or by the host's uptime, whichever is later.

        So a clock that is set back does not make the entry younger. A clock that is set forward costs at most one call.
        """
        return max(time.time(), self.recorded_at + uptime() - self.uptime)

    def age(self) -> float:
        """Return the age in seconds; negative if a clock that was ahead recorded the entry before the host started."""
        return self.now() - self.recorded_at

    def fresh_token(self, refresh_before: float) -> EcrToken | None:
        """Return the token if it may be served and is not due for renewal."""
        return self.token if self.token and self.token.is_fresh(self.now(), refresh_before) else None

    def servable_token(self) -> EcrToken | None:
        """Return the token if it may be served."""
        return self.token if self.token and self.token.is_servable(self.now()) else None

    def is_due(self, refresh_before: float) -> bool:
        """Return whether to call AWS: the token is not fresh, and neither a renewal nor a back-off is running."""
        return self.fresh_token(refresh_before) is None and not self.back_off_left()

    def back_off_left(self) -> float:
        """Return the remaining seconds in which no process calls AWS; 0.0 if a process may call AWS now."""
        if self.is_renewing and self.servable_token() is None:  # its process may have ended
            return 0.0
        age, back_off = self.age(), self.back_off
        return back_off - age if 0 <= age < back_off else 0.0

    @property
    def back_off(self) -> float:
        """Return the seconds after the last call in which no process calls AWS. It is the same in all processes."""
        if self.is_renewing:
            seconds = REQUEST_TIMEOUT_SECONDS
        elif self.failure is not None:
            doublings = min(self.failures - 1, 10)  # enough to reach the limit, and no overflow
            seconds = min(BACK_OFF_SECONDS * 2**doublings, LONGEST_BACK_OFF_SECONDS)
        else:
            return 0.0
        if self.token is not None:
            seconds = min(seconds, max(0.0, self.token.lifetime * BACK_OFF_PART))
        jitter = crc32(f"{self.key} {self.recorded_at}".encode()) / 0xFFFFFFFF
        return seconds * (1 - jitter * BACK_OFF_JITTER_PART)

    @property
    def expires_at(self) -> float:
        """Return the time from which neither the token nor the number of failures is used."""
        token_until = -math.inf if self.token is None else self.token.expires_at - self.token.serve_margin
        if self.failure is None:
            return token_until
        return max(token_until, self.recorded_at + self.back_off + LONGEST_BACK_OFF_SECONDS)

    def to_json(self) -> bytes:
        """Return the content of the entry's file on the host."""
        fields = {"format": _FORMAT, **asdict(self)}
        if self.token is not None:
            del fields["token"]["jitter"]  # derived
        return json.dumps(fields).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Entry | None:
        """Read what :meth:`to_json` wrote; return None for any other bytes or another format."""
        try:
            fields = _DECODER.decode(text.decode())
            if fields.pop("format") != _FORMAT:
                return None
            token, failure, failures = fields.pop("token"), fields.pop("failure"), fields.pop("failures")
            entry = cls(
                token=None if token is None else EcrToken(**token),
                failure=None if failure is None else TokenFailure(**failure),
                failures=int(failures),
                is_renewing=bool(fields.pop("is_renewing")),
                **fields,
            )
            return entry if entry._is_valid() else None
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return None

    def _is_valid(self) -> bool:
        """Return whether all times are finite; raise if a text is not Unicode. TokenFailure checks its texts."""
        texts, times = [self.key, self.identity], [self.recorded_at, self.uptime]
        if self.token is not None:
            texts += [self.token.username, "" if self.token.registry is None else self.token.registry]
            times += [self.token.lifetime]  # finite only if both its ends are
        "".join(texts).encode()
        return all(map(math.isfinite, times))
