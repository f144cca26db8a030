"""Docker's configuration: what others have left there, and what Docker finds."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


OTHERS: dict[str, Any] = {
    "HttpHeaders": {"User-Agent": "Dörte"},
    "auths": {"ghcr.io": {"auth": "dXNlcjpwYXNz", "email": "a@b.c"}, "https://index.docker.io/v1/": {}},
    "plugins": {"z": {"a": 1.5}, "a": [None, True]},
    "detachKeys": "ctrl-e,e",
}


def write(config: Path, content: object) -> None:
    """Write it as Docker does."""
    config.parent.mkdir()
    config.write_text(json.dumps(content, indent="\t", ensure_ascii=False))


def passwords(config: Path) -> dict[str, str]:
    """Read the passwords that Docker finds in its configuration, by host."""
    auths: dict[str, Any] = json.loads(config.read_text())["auths"]
    logins = {host: base64.b64decode(entry["auth"]).decode() for host, entry in auths.items()}
    return {host: login.removeprefix("AWS:") for host, login in logins.items()}
