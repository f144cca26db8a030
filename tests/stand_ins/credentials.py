"""
The endpoints of temporary keys for a host, a task or a pod: instance metadata and the agents of ECS and EKS.

Real boto3 calls them through the variables of :meth:`CredentialEndpoint.environment`. Each answer holds new keys.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import threading
from configparser import RawConfigParser
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from werkzeug.wrappers import Response

from tests.stand_ins.serving import http_server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from werkzeug.wrappers import Request

ROLE_NAME = "the-hosts-role"
CREDENTIALS_PATH = "/latest/meta-data/iam/security-credentials/"
AGENT_PATH = "/v1/credentials"
SESSION_TOKEN = secrets.token_urlsafe()  # of IMDSv2


@dataclass
class CredentialEndpoint:
    """
    One of the three.

    :param kind: ``ec2`` answers to IMDSv2 alone, ``ecs`` to all clients, ``eks`` to clients with the pod's token
    :param pod_token: a file with the token that EKS's agent requires
    :param given: the access keys that it has sent
    :param secrets: the secret keys and session tokens that it has sent
    :param is_silent: whether it accepts requests and never answers, as IMDS does beyond its hop limit
    :param has_role: whether the host, task or pod has a role
    """

    kind: Literal["ec2", "ecs", "eks"]
    pod_token: Path
    url: str = ""
    given: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    is_silent: bool = False
    has_role: bool = True
    _may_end: threading.Event = field(default_factory=threading.Event)

    @classmethod
    @contextmanager
    def running(cls, kind: Literal["ec2", "ecs", "eks"], pod_token: Path) -> Iterator[CredentialEndpoint]:
        """Answer until the block ends."""
        endpoint = cls(kind, pod_token)
        with serving(http_server(endpoint.answer)) as port:
            endpoint.url = f"http://127.0.0.1:{port}" + ("" if kind == "ec2" else AGENT_PATH)
            try:
                yield endpoint
            finally:
                endpoint._may_end.set()

    def environment(self) -> dict[str, str]:
        """Return the variables with which AWS leads a process here."""
        if self.kind == "ec2":
            return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": self.url, "AWS_EC2_METADATA_DISABLED": "false"}
        variables = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": self.url}
        if self.kind == "eks":
            variables["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = str(self.pod_token)
        return variables

    def answer(self, request: Request) -> Response:
        if self.is_silent:
            self._may_end.wait()
        text = self._answer_on_a_host(request) if self.kind == "ec2" else self._answer_in_a_container(request)
        return Response(text or "", 401 if text is None else 200)

    def _answer_on_a_host(self, request: Request) -> str | None:
        if (request.method, request.path) == ("PUT", "/latest/api/token"):
            return SESSION_TOKEN
        if request.headers.get("X-aws-ec2-metadata-token") != SESSION_TOKEN or not self.has_role:
            return None
        return {CREDENTIALS_PATH: ROLE_NAME, CREDENTIALS_PATH + ROLE_NAME: self._keys()}.get(request.path)

    def _answer_in_a_container(self, request: Request) -> str | None:
        wanted = self.pod_token.read_text() if self.kind == "eks" else None
        if request.path != AGENT_PATH or request.headers.get("Authorization") != wanted:
            return None
        return self._keys() if self.has_role else json.dumps({"Message": "there is no role"})

    def _keys(self) -> str:
        key_id, secret = f"ASIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30)
        token = secrets.token_urlsafe(300)
        self.given.append(key_id)
        self.secrets += [secret, token]
        end = (datetime.now(timezone.utc) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = {"AccessKeyId": key_id, "SecretAccessKey": secret, "Token": token}
        return json.dumps({"Code": "Success", **keys, "Expiration": end})


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


def write_keys(key_id: str, profile: str = "default") -> None:
    """Write the credentials file with the keys of one profile."""
    keys = {"aws_access_key_id": key_id, "aws_secret_access_key": "a-secret"}
    write(os.environ["AWS_SHARED_CREDENTIALS_FILE"], **{profile: keys})
