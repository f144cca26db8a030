"""What is known of one identity's token: the token, the last failure, and for how long each is of use."""

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

#: How long a request to AWS may take, credentials included, before it is abandoned: two calls and their retries take
#: less. A recorded renewal is believed to be running for as long, because its process may have ended.
REQUEST_TIMEOUT_SECONDS: Final = 20.0
#: After a failed call, no process of the host calls AWS for this long, ...
BACK_OFF_SECONDS: Final = 5.0
#: ... doubled with each further one, up to this: ten thousand hosts make a fifth of the calls that ECR allows, ...
LONGEST_BACK_OFF_SECONDS: Final = 120.0
#: ... and never more than this part of the last token's lifetime, so that short-lived tokens survive a failure.
BACK_OFF_PART: Final = 0.1
#: Hosts that failed together retry apart: sooner by up to this part of the back-off.
BACK_OFF_JITTER_PART: Final = 0.2

#: Seconds since this host was started, asleep or not: a clock that nobody can set.
uptime: Final = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

_FORMAT: Final = 3
_DECODER: Final = json.JSONDecoder(parse_int=float)  # built once, because a first lookup has no time for it


@dataclass(frozen=True, slots=True)
class Entry:
    """What one call to AWS, or the last calls in a row, came to.

    :param key: the identity's key, so that a file that was renamed is not another identity's
    :param identity: the identity in words, for people who look into the cache
    :param failure: why the last call returned no token
    :param failures: how many calls in a row have failed
    :param is_renewing: whether the last call is still running, for all that is known
    :param recorded_at: when the last call ended or began, in seconds since the epoch
    :param uptime: the same moment in seconds since this host was started
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
        """Return the entry of a token that was received just now."""
        return cls(key, identity, token, recorded_at=token.received_at, uptime=uptime())

    def with_renewal(self) -> Entry:
        """Return the entry while its token is renewed."""
        return replace(self, is_renewing=True, recorded_at=self.now(), uptime=uptime())

    def with_failure(self, failure: TokenFailure) -> Entry:
        """Return the entry after one more call, which failed just now."""
        failed = replace(self, identity=failure.identity, failure=failure, failures=self.failures + 1)
        return replace(failed, is_renewing=False, recorded_at=self.now(), uptime=uptime())

    def now(self) -> float:
        """Return the time in seconds since the epoch.

        A clock that was set forward since is believed, which costs one call at most. One that was set back is not: at
        least as much time has passed as the host has been up.
        """
        return max(time.time(), self.recorded_at + uptime() - self.uptime)

    def age(self) -> float:
        """Return for how many seconds it has been recorded; negative if by a later clock, before the host started."""
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
        """Return for how many seconds more AWS is not called; 0.0 if it may be called now."""
        if self.is_renewing and self.servable_token() is None:  # the renewal is late, so it is not waited for
            return 0.0
        age, back_off = self.age(), self.back_off
        return back_off - age if 0 <= age < back_off else 0.0

    @property
    def back_off(self) -> float:
        """Return for how many seconds after the last call AWS is not called again: the same in all processes."""
        if self.is_renewing:
            seconds = REQUEST_TIMEOUT_SECONDS
        elif self.failure is not None:
            doublings = min(self.failures - 1, 10)  # far above the limit, far below an overflow
            seconds = min(BACK_OFF_SECONDS * 2**doublings, LONGEST_BACK_OFF_SECONDS)
        else:
            return 0.0
        if self.token is not None:
            seconds = min(seconds, max(0.0, self.token.lifetime * BACK_OFF_PART))
        jitter = crc32(f"{self.key} {self.recorded_at}".encode()) / 0xFFFFFFFF
        return seconds * (1 - jitter * BACK_OFF_JITTER_PART)

    @property
    def useful_until(self) -> float:
        """Return the moment from which it is of no use: its token is too old, and no failure is one in a row."""
        token_until = -math.inf if self.token is None else self.token.expires_at - self.token.serve_margin
        if self.failure is None:
            return token_until
        return max(token_until, self.recorded_at + self.back_off + LONGEST_BACK_OFF_SECONDS)

    def to_json(self) -> bytes:
        """Return it as the file of the host's cache holds it."""
        fields = {"format": _FORMAT, **asdict(self)}
        if self.token is not None:
            del fields["token"]["jitter"]  # derived
        return json.dumps(fields).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Entry | None:
        """Read what :meth:`to_json` wrote; None for any other bytes, another format included."""
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
            return entry if entry._is_sound() else None
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            return None

    def _is_sound(self) -> bool:
        """Return whether its times can be compared; raise if a text is not text. Its failure is, once it is built."""
        texts, times = [self.key, self.identity], [self.recorded_at, self.uptime]
        if self.token is not None:
            texts += [self.token.username, "" if self.token.registry is None else self.token.registry]
            times += [self.token.lifetime]  # finite only if both its ends are
        "".join(texts).encode()
        return all(map(math.isfinite, times))
