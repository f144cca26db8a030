"""What can go wrong between a lookup and AWS, and processes that meet it: shared by the tests of several rooms."""

from __future__ import annotations

import base64
import json
import logging
import socketserver
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from unittest import mock

from ecr_secrets_backend import EcrSecretsBackend, aws
from ecr_secrets_backend.errors import ConnectionUnavailableError
from tests.airflow_version import put_into_task
from tests.stand_ins.aws import Close, Error, Reply, Reset

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.stand_ins.aws import AwsStandIn, Fault


PAUSE_SECONDS = 0.02  # between two lookups of a process
PRIVATE_TOKEN = sha256(b"AWS").hexdigest() * 8  # what the answers hold that are made up here; looks like a real one


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def private_answer(**fields: object) -> Reply:
    data = {
        "authorizationToken": basic(f"AWS:{PRIVATE_TOKEN}"),
        "expiresAt": time.time() + 3600,
        "proxyEndpoint": "https://x",
    }
    return Reply(json.dumps({"authorizationData": [{**data, **fields}]}))


def page(text: str, status: int = 200) -> Reply:
    return Reply(f"<html>{text}: {PRIVATE_TOKEN}</html>", status, "text/html")


#: What AWS does, the code that it is told by, and a part of the remedy.
FAULTS: dict[str, tuple[Fault, str, str]] = {
    "denied": (Error("AccessDeniedException"), "AccessDeniedException", "Allow ecr:GetAuthorizationToken"),
    "expired": (Error("ExpiredTokenException"), "ExpiredTokenException", "Renew the credentials"),
    "unknown key": (Error("UnrecognizedClientException"), "UnrecognizedClientException", "Replace the access key"),
    "wrong secret": (Error("InvalidSignatureException"), "InvalidSignatureException", "secret key"),
    "throttled": (Error("ThrottlingException"), "ThrottlingException", "pause"),
    "server fault": (Error("ServerException", status=500), "ServerException", "health"),
    "unavailable": (page("Service Unavailable", 503), "503", "health"),
    "reset": (Reset(), "ConnectionClosedError", "reach that endpoint"),
    "closed": (Close(), "ConnectionClosedError", "reach that endpoint"),
    "no data": (Reply('{"authorizationData": []}'), "UnusableAnswer", "proxy"),
    "no end": (private_answer(expiresAt=None), "UnusableAnswer", "proxy"),
    "not JSON": (page("Welcome to the hotel"), "UnusableAnswer", "proxy"),
    "not base64": (private_answer(authorizationToken=f"?{PRIVATE_TOKEN}"), "UnusableAnswer", "proxy"),
    "no text": (private_answer(authorizationToken=base64.b64encode(b"\xff:\xff").decode()), "UnusableAnswer", "proxy"),
    "no colon": (private_answer(authorizationToken=basic(PRIVATE_TOKEN)), "UnusableAnswer", "proxy"),
    "no password": (private_answer(authorizationToken=basic("AWS:")), "UnusableAnswer", "proxy"),
    "dead": (private_answer(expiresAt=1420070400), "UnusableAnswer", "proxy"),
}


@contextmanager
def serving(handler: type[socketserver.BaseRequestHandler]) -> Iterator[int]:
    """Serve on a port of the loopback interface until the block ends."""

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Lookup:
    """
    One lookup of `docker_default`.

    :param token: what was served; None: nothing
    :param alive: whether the registry accepted it when it was served
    :param error: what was raised instead
    :param seconds: how long it took
    """

    token: str | None
    alive: bool
    error: str | None
    seconds: float


@dataclass(frozen=True)
class Experience:
    """
    What a process met.

    :param lookups: in order
    :param mints: how often it asked AWS
    :param lines: the level and the text of what the package logged
    """

    lookups: tuple[Lookup, ...]
    mints: int
    lines: tuple[tuple[int, str], ...]


def look_up(
    kwargs: dict[str, Any],
    registry: AwsStandIn,
    times: int = 1,
    until_renewed: float = 0,
    replaced: Mapping[str, object] | None = None,
) -> Experience:
    """
    Look `docker_default` up, as a task does; only what Airflow passes on to the task may be raised.

    :param kwargs: the backend's
    :param registry: judges what is served
    :param times: how often, at least
    :param until_renewed: seconds for which it goes on, unless it is served another token than at first
    :param replaced: names of what this process, which ends with this function, finds replaced
    """
    lines: list[tuple[int, str]] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((record.levelno, record.getMessage()))  # type: ignore[method-assign]
    logger = logging.getLogger("ecr_secrets_backend")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)  # as Airflow has it
    for name, replacement in (replaced or {}).items():
        mock.patch(name, replacement).start()
    mint = mock.patch.object(aws, "mint", wraps=aws.mint).start()
    backend = EcrSecretsBackend(**kwargs)
    put_into_task(backend)
    lookups: list[Lookup] = []
    ends_at = time.monotonic() + until_renewed
    while len(lookups) < times or (time.monotonic() < ends_at and lookups[-1].token == lookups[0].token):
        lookups.append(_lookup(backend, registry))
        time.sleep(PAUSE_SECONDS)
    return Experience(tuple(lookups), mint.call_count, tuple(lines))


def _lookup(backend: EcrSecretsBackend, registry: AwsStandIn) -> Lookup:
    token = error = None
    started_at = time.monotonic()
    try:
        connection = backend.get_connection("docker_default")
    except ConnectionUnavailableError as denied:
        error = str(denied)
    else:
        token = None if connection is None else connection.password
    seconds = time.monotonic() - started_at
    return Lookup(token, token is not None and registry.authorise("AWS", token).alive, error, seconds)
