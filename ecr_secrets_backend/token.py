"""An ECR authorization token, and what "fresh", "stale" and "dead" mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

#: A token is dead this long before AWS says so, because a pull that has logged in must still be able to end.
DYING_SECONDS: Final = 300.0
#: ... but never for more than this part of its life, so that short-lived tokens are of use as well.
DYING_PART: Final = 0.1
#: A token is never renewed before half of its life is over.
RENEWAL_PART: Final = 0.5
#: Hosts that were started together renew apart: by up to this part of ``refresh_before``.
JITTER_PART: Final = 0.1


@dataclass(frozen=True, slots=True)
class EcrToken:
    """A login for every registry that one AWS identity may reach in one region.

    Times are seconds since the epoch by the clock of this host; see :func:`ecr_secrets_backend.aws.mint` for how
    ``expires_at`` comes to be told by that clock.

    :param username: the user name, ``AWS`` today
    :param password: the token itself; in no repr
    :param registry: host of the default registry of the identity's account; None for ECR Public, which does not tell
    :param minted_at: when it was received
    :param expires_at: when AWS will refuse it
    :param jitter: this token's random part of the renewal jitter, from 0 to 1, the same for all processes of a host
    """

    username: str
    password: str = field(repr=False)
    registry: str | None
    minted_at: float
    expires_at: float
    jitter: float

    @property
    def life(self) -> float:
        """How long AWS accepts it, in seconds, from the moment it was received."""
        return self.expires_at - self.minted_at

    def is_alive(self, now: float, kept_for: float = 0.0) -> bool:
        """Tell whether it may still be served: a pull that begins now will not see it die.

        A token from the future was received before the host was started and its clock set back: its end is not known,
        so it is not served.

        :param now: seconds since the epoch
        :param kept_for: seconds for which whoever is served keeps it, to begin further pulls; it is alive for half of
            its life at least, so where this is longer than the other half they may see it die
        """
        life = self.life
        dying = min(DYING_SECONDS, life * DYING_PART)
        kept = min(kept_for, life * RENEWAL_PART - dying)
        return self.minted_at - dying <= now < self.expires_at - dying - kept

    def renewal_at(self, refresh_before: float, kept_for: float = 0.0) -> float:
        """Tell when it is to be renewed, in seconds since the epoch.

        :param refresh_before: seconds before ``expires_at`` at which it is to be renewed; the jitter comes on top
        :param kept_for: as :meth:`is_alive` takes it; it is renewed as much earlier
        """
        early = min(refresh_before * (1 + self.jitter * JITTER_PART) + kept_for, self.life * RENEWAL_PART)
        return self.expires_at - early

    def is_fresh(self, now: float, refresh_before: float, kept_for: float = 0.0) -> bool:
        """Tell whether it may be served without a thought of its renewal.

        :param now: seconds since the epoch
        :param refresh_before: as for :meth:`renewal_at`
        :param kept_for: as for :meth:`renewal_at`
        """
        return self.is_alive(now, kept_for) and now < self.renewal_at(refresh_before, kept_for)
