"""Values with defaults, so that a test names only the relevant fields."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ecr_secrets_backend.entry import Entry, uptime
from ecr_secrets_backend.errors import TokenFailure
from ecr_secrets_backend.token import EcrToken

NOW = 1_800_000_000.0
HOUR = 3600.0
TWELVE_HOURS = 12 * HOUR


def build_token(*, received_at: float = NOW, lifetime: float = TWELVE_HOURS, **fields: Any) -> EcrToken:
    host = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    return replace(EcrToken("AWS", "a-token", host, received_at, received_at + lifetime), **fields)


def build_entry(*, key: str = "a-key", recorded_at: float = NOW, age: float = 0.0, **fields: Any) -> Entry:
    """Build an entry that was recorded ``age`` seconds of uptime ago."""
    return Entry(recorded_at=recorded_at, uptime=uptime() - age, key=key, **fields)


def build_failure(**fields: Any) -> TokenFailure:
    failure = TokenFailure("a role", "us-east-1", "AccessDeniedException", "not allowed", "Allow it.")
    return replace(failure, **fields)
