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
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Request, Response

from tests.stand_ins.serving import http_server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOUNT_POINT = "secret"


@dataclass
class VaultStandIn:
    """
    A server that runs in threads of this process.

    :param data: the secrets, by their path below the mount point
    :param url: where it listens
    :param token: random, so that a leak of it can be recognised
    :param sealed: whether it refuses all requests
    """

    data: Mapping[str, Mapping[str, str]]
    url: str = ""
    token: str = field(default_factory=lambda: f"hvs.{secrets.token_urlsafe(72)}", repr=False)
    sealed: bool = False

    @classmethod
    @contextmanager
    def running(cls, data: Mapping[str, Mapping[str, str]]) -> Iterator[VaultStandIn]:
        """Serve on a free port of 127.0.0.1 until the block ends."""
        vault = cls(data)
        with serving(http_server(vault.answer)) as port:
            vault.url = f"http://127.0.0.1:{port}"
            yield vault

    def answer(self, request: Request) -> Response:
        status, answer = self._read(request.path, request.headers.get("X-Vault-Token"))
        return Response(json.dumps(answer), status, content_type="application/json")

    def _read(self, path: str, token: str | None) -> tuple[int, Mapping[str, Any]]:
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if token != self.token:
            return 403, {"errors": ["permission denied"]}
        if path == "/v1/auth/token/lookup-self":
            return 200, {"data": {"policies": ["default"], "ttl": 3600}}
        data = self.data.get(path.removeprefix(f"/v1/{MOUNT_POINT}/data/"))
        if data is None:
            return 404, {"errors": []}
        return 200, {"data": {"data": data, "metadata": {"version": 1, "destroyed": False, "deletion_time": ""}}}
