"""What Docker finds in its configuration."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def passwords(config: Path) -> dict[str, str]:
    """Read the passwords that Docker finds in its configuration, by host."""
    auths: dict[str, Any] = json.loads(config.read_text())["auths"]
    logins = {host: base64.b64decode(entry["auth"]).decode() for host, entry in auths.items()}
    return {host: login.removeprefix("AWS:") for host, login in logins.items()}
