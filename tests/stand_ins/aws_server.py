"""
The server behind `tests.stand_ins.aws`: a WSGI application around moto's.

The ECR tokens of moto expired in 2015, and it has none of ECR Public, so this module makes both. All other calls that
the script does not break are moto's. The handle calls the stand-in itself under `ADMIN_PATH`, with JSON:

=====================  =====================================================================================
``GET calls``          every call, as `Call`
``GET secrets``        every password, authorization token, secret key and session token that was sent
``POST settings``      ``token_lifetime``, ``clock_offset`` (seconds); ``faults`` (a new script), ``add_faults``
``POST authorise``     ``username``, ``password``, ``region``, ``service`` of a login; answers with a `Verdict`
``POST reset``         forget calls and script, restore the settings
=====================  =====================================================================================
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import secrets
import signal
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from email.utils import formatdate
from functools import cache
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from botocore.loaders import Loader
from moto.iam.models import get_account_id_from
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from tests.stand_ins.aws import ADMIN_PATH, FAULTS, TOKEN_LIFETIME_SECONDS, Answer, Call, Delay, Fault, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


@dataclass(frozen=True)
class Settings:
    """Settings that can change at any time, in seconds."""

    token_lifetime: float
    clock_offset: float


@dataclass(frozen=True)
class Token:
    """The registries that a token opens, and its end by the host's clock."""

    service: str
    region: str
    expires_at: float


class Aws:
    """
    The application: records each call, plays the script, makes tokens, and leaves the rest to moto.

    :param settings: in force at first and after a reset
    """

    def __init__(self, settings: Settings) -> None:
        self._moto: WSGIApplication = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._first_settings = self._settings = settings
        self._faults: list[Fault] = []
        self._calls: list[Call] = []
        self._tokens: dict[str, Token] = {}
        self._secrets: set[str] = set()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if environ["PATH_INFO"].startswith(ADMIN_PATH):
            answer = Answer(json.dumps(self._administer(environ, json.loads(body))).encode())
        else:
            answer = self._serve(environ, body)
        headers = {
            "X-Amzn-Requestid": str(uuid.uuid4()),
            **{name.title(): value for name, value in answer.headers},
            "Date": formatdate(time.time() + self._settings.clock_offset, usegmt=True),
            "Content-Length": str(len(answer.body)),
        }
        start_response(f"{answer.status:d} {HTTPStatus(answer.status).phrase}", list(headers.items()))
        return [answer.body]

    def _serve(self, environ: WSGIEnvironment, body: bytes) -> Answer:
        call = self._record(environ, body)
        for fault in self._due(call):
            answer = fault.play(call, environ["stand_in.connection"])
            if answer:
                return answer
        if call.operation == "GetAuthorizationToken" and call.access_key_id:
            return self._authorize(call)
        return self._forward({**environ, "wsgi.input": BytesIO(body)})

    def _record(self, environ: WSGIEnvironment, body: bytes) -> Call:
        scope = re.search(r"Credential=(\w+)/\d+/([\w-]+)/([\w-]+)/", environ.get("HTTP_AUTHORIZATION", ""))
        access_key_id, region, service = scope.groups() if scope else ("", "", "sts")
        if target := environ.get("HTTP_X_AMZ_TARGET"):
            parameters = json.loads(body)
            operation = target.rpartition(".")[2]
        else:
            parameters = dict(parse_qsl(body.decode(errors="replace")))
            parameters.pop("Version", None)
            operation = parameters.pop("Action", f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        call = Call(
            operation=operation,
            service=service,
            region=region,
            access_key_id=access_key_id,
            account=get_account_id_from(access_key_id),
            user_agent=environ.get("HTTP_USER_AGENT", ""),
            host=environ.get("HTTP_HOST", ""),
            time=time.time(),
            parameters=parameters,
        )
        with self._lock:
            self._calls.append(call)
        return call

    def _due(self, call: Call) -> list[Fault]:
        """Use up the rules that apply to this call: any delays, and the first other rule."""
        due: list[Fault] = []
        left: list[Fault] = []
        with self._lock:
            for fault in self._faults:
                decided = bool(due) and not isinstance(due[-1], Delay)
                if decided or not fault.matches(call):
                    left.append(fault)
                else:
                    due.append(fault)
                    left += fault.used()
            self._faults = left
        return due

    def _authorize(self, call: Call) -> Answer:
        size = 1725 + secrets.randbelow(450)  # bytes; 2,300 to 2,900 characters
        password = base64.b64encode(secrets.token_bytes(size)).decode()
        authorization_token = base64.b64encode(f"AWS:{password}".encode()).decode()
        settings = self._settings
        expires_at = time.time() + settings.token_lifetime
        with self._lock:
            self._tokens[password] = Token(call.service, call.region, expires_at)
            self._secrets.update((password, authorization_token))
        data = {"authorizationToken": authorization_token, "expiresAt": expires_at + settings.clock_offset}
        if call.service == "ecr-public":
            return Answer(json.dumps({"authorizationData": data}).encode())
        endpoint = f"https://{call.account}.dkr.ecr.{call.region}.{dns_suffix(call.region)}"
        return Answer(json.dumps({"authorizationData": [{**data, "proxyEndpoint": endpoint}]}).encode())

    def _forward(self, environ: WSGIEnvironment) -> Answer:
        head: list[Any] = []

        def start_response(*status_and_headers: Any) -> Callable[[bytes], object]:
            head[:] = status_and_headers
            return lambda _: None

        body = b"".join(self._moto(environ, start_response))
        credentials = re.findall(rb"<(?:SecretAccessKey|SessionToken)>([^<]+)<", body)
        with self._lock:
            self._secrets.update(secret.decode() for secret in credentials)
        status, headers, *_ = head
        return Answer(body, int(status.split()[0]), tuple(headers))

    def _administer(self, environ: WSGIEnvironment, body: Any) -> object:
        question = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO'].removeprefix(ADMIN_PATH)}"
        with self._lock:
            match question:
                case "GET calls":
                    return [asdict(call) for call in self._calls]
                case "GET secrets":
                    return sorted(self._secrets)
                case "POST settings":
                    return self._set(**body)
                case "POST authorise":
                    return asdict(self._authorise(**body))
                case "POST reset":
                    self._calls, self._faults, self._settings = [], [], self._first_settings
                    return {}
                case _:
                    raise LookupError(question)

    def _set(
        self,
        faults: list[dict[str, Any]] | None = None,
        add_faults: list[dict[str, Any]] | None = None,
        **settings: float,
    ) -> object:
        self._settings = replace(self._settings, **settings)
        if faults is not None:
            self._faults = []
        self._faults += [FAULTS[rule.pop("kind")](**rule) for rule in [*(faults or []), *(add_faults or [])]]
        return asdict(self._settings)

    def _authorise(
        self, username: str, password: str, region: str | None = None, service: str | None = None
    ) -> Verdict:
        token = self._tokens.get(password)
        if not token or username != "AWS" or region not in (None, token.region) or service not in (None, token.service):
            return Verdict(valid=False, reason="unknown")
        return Verdict(valid=True) if time.time() < token.expires_at else Verdict(valid=False, reason="expired")


@cache
def dns_suffix(region: str) -> str:
    """Return the DNS suffix of a region's partition, from botocore's own table."""
    for partition in Loader().load_data("partitions")["partitions"]:
        if re.match(partition["regionRegex"], region):
            return str(partition["outputs"]["dnsSuffix"])
    return "amazonaws.com"


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, and a backlog that is long enough for a crowd."""

    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing of clients that close their connection, which some tests do."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(WSGIRequestHandler):
    """Logs nothing, and passes the connection to the application, because some faults need it."""

    def get_environ(self) -> WSGIEnvironment:
        return {**super().get_environ(), "stand_in.connection": self.connection}

    def log_message(self, *_: object) -> None:
        pass


def end_with_stdin() -> None:
    """End when the other end is closed: no owner, not even a killed one, leaves a server behind."""
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    """Serve until SIGTERM; when the server is ready, print a line of JSON with its URL."""
    parser = argparse.ArgumentParser(prog="python -m tests.stand_ins.aws", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0, the default, takes a free one")
    parser.add_argument("--port-file", type=Path, help="a file to write the port to")
    parser.add_argument("--token-lifetime", type=float, default=TOKEN_LIFETIME_SECONDS, help="seconds (%(default)s)")
    parser.add_argument("--clock-offset", type=float, default=0.0, help="seconds AWS's clock is ahead (%(default)s)")
    parser.add_argument("--until-stdin-ends", action="store_true", help="end with the process that holds our stdin")
    options = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # without exit handlers, which take moto 0.3 s
    if options.until_stdin_ends:
        threading.Thread(target=end_with_stdin, daemon=True).start()

    with Server(("127.0.0.1", options.port), Handler) as server:
        server.set_app(Aws(Settings(options.token_lifetime, options.clock_offset)))
        if options.port_file:
            options.port_file.write_text(str(server.server_port))
        sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}) + "\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()
