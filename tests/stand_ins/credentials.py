"""
The endpoints of temporary keys for a host, a task or a pod: instance metadata and the agents of ECS and EKS.

Real boto3 calls them through the variables of :meth:`CredentialEndpoint.environment`. Each answer holds new keys.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import socketserver
import threading
from configparser import RawConfigParser
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.stand_ins.serving import Server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

ROLE_NAME = "the-hosts-role"
CREDENTIALS_PATH = "/latest/meta-data/iam/security-credentials/"
AGENT_PATH = "/v1/credentials"


class CredentialEndpoint(ThreadingHTTPServer):
    """
    One of the three.

    :param kind: ``ec2`` answers to IMDSv2 alone, ``ecs`` to all clients, ``eks`` to clients with the pod's token
    :param pod_token: a file with the token that EKS's agent requires
    :ivar given: the access keys that it has sent
    :ivar secrets: the secret keys and session tokens that it has sent
    :ivar is_silent: whether it accepts requests and never answers, as IMDS does beyond its hop limit
    :ivar has_role: whether the host, task or pod has a role
    """

    daemon_threads = True

    def __init__(self, kind: Literal["ec2", "ecs", "eks"], pod_token: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kind = kind
        self.pod_token = pod_token
        self.session_token = secrets.token_urlsafe()
        self.given: list[str] = []
        self.secrets: list[str] = []
        self.is_silent = False
        self.has_role = True
        self.may_end = threading.Event()

    @classmethod
    @contextmanager
    def running(cls, kind: Literal["ec2", "ecs", "eks"], pod_token: Path) -> Iterator[CredentialEndpoint]:
        """Answer until the block ends."""
        server = cls(kind, pod_token)
        with serving(server):
            try:
                yield server
            finally:
                server.may_end.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}" + ("" if self.kind == "ec2" else AGENT_PATH)

    def environment(self) -> dict[str, str]:
        """Return the variables with which AWS leads a process here."""
        if self.kind == "ec2":
            return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": self.url, "AWS_EC2_METADATA_DISABLED": "false"}
        variables = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": self.url}
        if self.kind == "eks":
            variables["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = str(self.pod_token)
        return variables

    def answer(self, method: str, path: str, headers: Any) -> str | None:
        """Return the answer; None: refused."""
        if self.kind != "ec2":
            shown = headers.get("Authorization")
            wanted = self.pod_token.read_text() if self.kind == "eks" else None
            if path != AGENT_PATH or shown != wanted:
                return None
            return self._keys() if self.has_role else json.dumps({"Message": "there is no role"})
        if (method, path) == ("PUT", "/latest/api/token"):
            return self.session_token
        if headers.get("X-aws-ec2-metadata-token") != self.session_token:
            return None
        if not self.has_role:
            return None
        return {CREDENTIALS_PATH: ROLE_NAME, CREDENTIALS_PATH + ROLE_NAME: self._keys()}.get(path)

    def _keys(self) -> str:
        key_id = "ASIA" + secrets.token_hex(8).upper()
        self.given.append(key_id)
        secret, token = secrets.token_urlsafe(30), secrets.token_urlsafe(300)
        self.secrets += [secret, token]
        end = (datetime.now(timezone.utc) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = {"AccessKeyId": key_id, "SecretAccessKey": secret, "Token": token}
        return json.dumps({"Code": "Success", **keys, "Expiration": end})


class _Handler(BaseHTTPRequestHandler):
    server: CredentialEndpoint

    def do_GET(self) -> None:
        if self.server.is_silent:
            self.server.may_end.wait()
            return
        text = self.server.answer(self.command, self.path, self.headers)
        self.send_response(HTTPStatus.UNAUTHORIZED if text is None else HTTPStatus.OK)
        self.end_headers()
        self.wfile.write((text or "").encode())

    do_PUT = do_GET  # noqa: N815 - the base class's name for it

    def log_message(self, *_: object) -> None:
        pass


class Proxy(Server):
    """
    A proxy that reaches nothing, and records its requests.

    :ivar asked: the targets of the requests, such as ``http://169.254.169.254/latest/api/token``
    """

    def __init__(self) -> None:
        super().__init__(_ProxyHandler)
        self.asked: list[str] = []

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Proxy]:
        """Answer until the block ends."""
        with serving(proxy := cls()):
            yield proxy

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _ProxyHandler(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        words = self.rfile.readline().split()
        self.server.asked += [words[1].decode()] if len(words) > 1 else []
        self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def pod_token(service_account: str) -> str:
    """Return a new token in the form that Kubernetes projects into a pod, with a signature that is not valid."""
    claims = {"iss": "https://oidc.example", "sub": f"system:serviceaccount:{service_account}"}
    parts = (json.dumps({"alg": "RS256"}), json.dumps({**claims, "jti": secrets.token_hex()}), secrets.token_urlsafe())
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)


def write(path: str, **sections: dict[str, str]) -> None:
    """Write one of AWS's files."""
    parser = RawConfigParser()
    parser.read_dict(sections)
    with Path(path).open("w") as file:
        parser.write(file)


def write_keys(key_id: str, session_token: str | None = None, profile: str = "default") -> None:
    """Write the credentials file with the keys of one profile."""
    keys = {"aws_access_key_id": key_id, "aws_secret_access_key": "a-secret"}
    if session_token:
        keys["aws_session_token"] = session_token
    write(os.environ["AWS_SHARED_CREDENTIALS_FILE"], **{profile: keys})
