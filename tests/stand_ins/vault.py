"""
Vault on loopback: the part of its HTTP API that reads a key-value engine of version 2.

Source: Vault's API documentation, "KV - version 2" (read secret version), "Tokens" (lookup a token, self), and the
introduction's table of status codes. OpenBao's API is the same.
"""

from __future__ import annotations

import json
import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from tests.stand_ins.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOUNT_POINT = "secret"


@dataclass
class VaultStandIn:
    """
    A server that runs as a thread of this process.

    :param url: where it listens
    :param data: the secrets, by their path below the mount point
    :param token: random, so that a leak of it can be recognised
    :param sealed: whether it refuses all requests
    """

    url: str
    data: Mapping[str, Mapping[str, str]]
    token: str = field(default_factory=lambda: f"hvs.{secrets.token_urlsafe(72)}", repr=False)
    sealed: bool = False

    @classmethod
    @contextmanager
    def running(cls, data: Mapping[str, Mapping[str, str]]) -> Iterator[VaultStandIn]:
        """Serve on a free port of 127.0.0.1 until the block ends."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, answer = vault.answer(self.path, self.headers["X-Vault-Token"])
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with serving(Handler) as port:
            vault = cls(f"http://127.0.0.1:{port}", data)
            yield vault

    def answer(self, path: str, token: str | None) -> tuple[int, Mapping[str, Any]]:
        """Return the status and the body of an answer."""
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if token != self.token:
            return 403, {"errors": ["permission denied"]}
        if path == "/v1/auth/token/lookup-self":
            return 200, {"data": {"policies": ["default"], "ttl": 3600}}
        data = self.data.get(path.partition("?")[0].removeprefix(f"/v1/{MOUNT_POINT}/data/"))
        if data is None:
            return 404, {"errors": []}
        return 200, {"data": {"data": data, "metadata": {"version": 1, "destroyed": False, "deletion_time": ""}}}
