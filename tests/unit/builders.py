"""Values with sane defaults, so that a test names only what it is about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ecr_secrets_backend.cache import Entry, uptime
from ecr_secrets_backend.errors import MintFailure
from ecr_secrets_backend.token import EcrToken

NOW = 1_800_000_000.0
TWELVE_HOURS = 43_200.0


def build_token(*, minted_at: float = NOW, life: float = TWELVE_HOURS, **fields: Any) -> EcrToken:
    token = EcrToken("AWS", "a-token", "123456789012.dkr.ecr.us-east-1.amazonaws.com", minted_at, minted_at + life, 0.0)
    return replace(token, **fields)


def build_entry(*, key: str = "a-key", recorded_at: float = NOW, age: float = 0.0, **fields: Any) -> Entry:
    """Build what was recorded ``age`` seconds ago, by the clock that nobody can set."""
    return Entry(recorded_at=recorded_at, uptime=uptime() - age, key=key, **fields)


def build_failure(**fields: Any) -> MintFailure:
    failure = MintFailure("a role", "us-east-1", "AccessDeniedException", "not allowed", "Allow it.")
    return replace(failure, **fields)
