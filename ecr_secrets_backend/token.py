"""An ECR authorization token: when it is due for renewal, and until when it is served."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

#: A token is not served just before it expires: a pull may be in progress, the host's clock may be off by the 5 minutes
#: that AWS tolerates, and Airflow's own cache keeps it for ``[secrets] cache_ttl_seconds``, 900 s by default.
SERVE_MARGIN_SECONDS: Final = 900.0
#: ... but never for more than this part of its lifetime, so that short-lived tokens are of use as well.
SERVE_MARGIN_PART: Final = 0.1
#: A token is never renewed before this part of its lifetime has passed.
EARLIEST_RENEWAL_PART: Final = 0.5
#: Hosts that were started together renew apart: earlier by up to this part of ``refresh_before``.
JITTER_PART: Final = 0.1


@dataclass(frozen=True, slots=True)
class EcrToken:
    """A login for every registry that one AWS identity may reach in one region.

    Times are seconds since the epoch, by the clock of the host that received it.

    :param registry: host of the default registry of the identity's account; None for ECR Public, which names none
    """

    username: str
    password: str = field(repr=False)
    registry: str | None
    received_at: float
    expires_at: float
    #: Derived from the token, from 0 to 1, so that all processes of a host agree on it.
    jitter: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "jitter", crc32(self.password.encode()) / 0xFFFFFFFF)

    @property
    def lifetime(self) -> float:
        """Return for how many seconds AWS accepts it, from the moment it was received."""
        return self.expires_at - self.received_at

    @property
    def serve_margin(self) -> float:
        """Return for how many seconds before it expires it is not served."""
        return min(SERVE_MARGIN_SECONDS, self.lifetime * SERVE_MARGIN_PART)

    def is_servable(self, now: float) -> bool:
        """Return whether it may be served.

        One from the future was received before the host restarted and its clock was set back. Its age cannot be known,
        so it is served within the margin only, where it cannot have expired.
        """
        return self.received_at <= now + self.serve_margin < self.expires_at

    def renewal_at(self, refresh_before: float) -> float:
        """Return the moment from which it is due for renewal."""
        early = min(refresh_before * (1 + self.jitter * JITTER_PART), self.lifetime * EARLIEST_RENEWAL_PART)
        return self.expires_at - early

    def is_fresh(self, now: float, refresh_before: float) -> bool:
        """Return whether it may be served and is not due for renewal."""
        return self.is_servable(now) and now < self.renewal_at(refresh_before)
