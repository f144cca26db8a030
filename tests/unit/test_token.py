from __future__ import annotations

import pytest

from tests.unit.builders import HOUR, NOW, TWELVE_HOURS, build_token

JITTER = 0.1 * HOUR  # the most that jitter adds to refresh_before


@pytest.mark.parametrize(
    ("lifetime", "age", "refresh_before", "fresh", "servable"),
    [
        # A token of 12 hours is renewed an hour before it expires, and served until 900 s before.
        (TWELVE_HOURS, 11 * HOUR - JITTER - 1, HOUR, True, True),
        (TWELVE_HOURS, 11 * HOUR, HOUR, False, True),
        (TWELVE_HOURS, 11.75 * HOUR - 1, HOUR, False, True),
        (TWELVE_HOURS, 11.75 * HOUR, HOUR, False, False),
        # Without renewal ahead, it is fresh for as long as it is served.
        (TWELVE_HOURS, TWELVE_HOURS - 901, 0, True, True),
        (TWELVE_HOURS, TWELVE_HOURS - 900, 0, False, False),
        # A token is fresh for half of its lifetime with any refresh_before.
        (TWELVE_HOURS, 6 * HOUR - 1, 1e9, True, True),
        (TWELVE_HOURS, 6 * HOUR, 1e9, False, True),
        # A token of 30 s is fresh for half of its lifetime, and served for all but the last tenth.
        (30, 14.9, HOUR, True, True),
        (30, 15, HOUR, False, True),
        (30, 26.9, HOUR, False, True),
        (30, 27, HOUR, False, False),
        # A token that expired at or before the moment it was received is not served.
        (0, 0, HOUR, False, False),
        (-30, 0, HOUR, False, False),
        # After the clock is set back, a token is served if it cannot have expired.
        (TWELVE_HOURS, -900, HOUR, True, True),
        (TWELVE_HOURS, -901, HOUR, False, False),
    ],
)
def test_a_token_is_fresh_then_due_for_renewal_then_not_served(
    lifetime: float, age: float, refresh_before: float, fresh: bool, servable: bool
) -> None:
    token = build_token(lifetime=lifetime)

    assert (token.is_fresh(NOW + age, refresh_before), token.is_servable(NOW + age)) == (fresh, servable)


def test_jitter_renews_earlier_by_up_to_a_tenth_of_refresh_before() -> None:
    """Hosts that start together renew apart. All processes of a host agree, as the token alone determines it."""
    early = [NOW + TWELVE_HOURS - build_token(password=f"{n}").renewal_at(HOUR) - HOUR for n in range(100)]

    assert 0 <= min(early) < 0.1 * JITTER
    assert 0.9 * JITTER < max(early) <= JITTER
    assert build_token().jitter == build_token(registry=None, received_at=NOW - 1).jitter


def test_a_repr_does_not_show_the_password() -> None:
    assert "s3cret" not in repr(build_token(password="s3cret"))
