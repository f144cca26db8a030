"""An ECR authorization token: when it is due for renewal, and until when it is served."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

#: A token is not served during the last part of its lifetime, for three reasons: a pull may be in progress, the host's
#: clock may be off by the 5 minutes that AWS tolerates, and Airflow caches connections for ``[secrets]
#: cache_ttl_seconds``, 900 s by default.
SERVE_MARGIN_SECONDS: Final = 900.0
#: The margin is at most this part of the lifetime, so that short-lived tokens are served, too.
SERVE_MARGIN_PART: Final = 0.1
#: A token is never renewed before this part of its lifetime has passed.
EARLIEST_RENEWAL_PART: Final = 0.5
#: A token is renewed earlier by up to this part of ``refresh_before``, so that hosts that start together renew apart.
JITTER_PART: Final = 0.1


@dataclass(frozen=True, slots=True)
class EcrToken:
    """A login for every registry that one AWS identity may use in one region.

    Times are seconds since the epoch, by the clock of the host that received the token.

    :param registry: host of the default registry of the identity's account; None for ECR Public, which has none
    """

    username: str
    password: str = field(repr=False)
    registry: str | None
    received_at: float
    expires_at: float
    #: From 0 to 1. It is derived from the token, so that all processes of a host agree.
    jitter: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "jitter", crc32(self.password.encode()) / 0xFFFFFFFF)

    @property
    def lifetime(self) -> float:
        """Return the seconds from when the token was received until it expires."""
        return self.expires_at - self.received_at

    @property
    def serve_margin(self) -> float:
        """Return how many seconds before it expires the token is no longer served."""
        return min(SERVE_MARGIN_SECONDS, self.lifetime * SERVE_MARGIN_PART)

    def is_servable(self, now: float) -> bool:
        """Return whether the token may be served.

        If the token was received in the future, the clock was set back and the token's age is unknown. If the token is
        ahead by no more than the margin, it cannot have expired.
        """
        return self.received_at <= now + self.serve_margin < self.expires_at

    def renewal_at(self, refresh_before: float) -> float:
        """Return the time from which the token is due for renewal."""
        early = min(refresh_before * (1 + self.jitter * JITTER_PART), self.lifetime * EARLIEST_RENEWAL_PART)
        return self.expires_at - early

    def is_fresh(self, now: float, refresh_before: float) -> bool:
        """Return whether the token may be served and is not due for renewal."""
        return self.is_servable(now) and now < self.renewal_at(refresh_before)
