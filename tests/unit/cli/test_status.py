from __future__ import annotations

import pytest

from ecr_secrets_backend.cli.status import state_of
from tests.unit.builders import NOW, TWELVE_HOURS, build_token


@pytest.mark.parametrize(
    ("age", "state"),
    [
        (0, "fresh"),
        (TWELVE_HOURS - 4000, "fresh"),
        (TWELVE_HOURS - 3600, "renewing"),
        (TWELVE_HOURS - 901, "renewing"),
        (TWELVE_HOURS - 900, "dying"),
        (TWELVE_HOURS - 1, "dying"),
        (TWELVE_HOURS, "dead"),
    ],
)
def test_a_token_goes_through_its_states(age: float, state: str) -> None:
    """What each means to whoever asks for the token."""
    assert state_of(build_token(), NOW + age, 3600) == state


def test_without_a_token_there_is_none() -> None:
    """AWS has given none."""
    assert state_of(None, NOW, 3600) == "none"
