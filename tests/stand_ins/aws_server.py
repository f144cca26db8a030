"""
The server behind `tests.stand_ins.aws`: a WSGI application around moto's.

The ECR tokens of moto expired in 2015, and it has none of ECR Public, so this module makes both. All other calls that
the script does not break are moto's. The handle calls the public methods of `Aws` under `ADMIN_PATH`.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import secrets
import sys
import threading
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from moto.iam.models import get_account_id_from
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.http import http_date
from werkzeug.wrappers import Request, Response

from tests.stand_ins.aws import ADMIN_PATH, JSON, TOKEN_LIFETIME_SECONDS, Call, Delay, Fault, Verdict
from tests.stand_ins.serving import http_server, serving

if TYPE_CHECKING:
    from collections.abc import Iterable


class Token(NamedTuple):
    """The registries that a token opens, and its end by the host's clock."""

    service: str
    region: str
    expires_at: float


class Aws:
    """The application: records each call, plays the script, makes tokens, and leaves the rest to moto."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._tokens: dict[str, Token] = {}
        self._secrets: set[str] = set()
        self._faults: list[Fault] = []
        self.reset()

    def reset(self) -> None:
        self._calls: list[Call] = []
        self._token_lifetime, self._clock_offset = TOKEN_LIFETIME_SECONDS, 0.0
        self.drop_faults()

    def answer(self, request: Request) -> Response:
        body = request.get_data()
        if request.path == ADMIN_PATH:
            method, arguments = pickle.loads(body)  # noqa: S301 - of the handle
            with self._lock:
                return Response(pickle.dumps(getattr(self, method)(*arguments)))
        response = self._serve(request, body)
        response.headers["Date"] = http_date(time.time() + self._clock_offset)
        return response

    def list_calls(self) -> list[Call]:
        return self._calls

    def list_secrets(self) -> set[str]:
        return self._secrets

    def add_faults(self, faults: Iterable[Fault]) -> None:
        self._faults += faults

    def drop_faults(self) -> None:
        self._faults = []

    def change(self, token_lifetime: float | None, clock_offset: float | None) -> None:
        self._token_lifetime = self._token_lifetime if token_lifetime is None else token_lifetime
        self._clock_offset = self._clock_offset if clock_offset is None else clock_offset

    def authorise(self, username: str, password: str, region: str | None, service: str | None) -> Verdict:
        token = self._tokens.get(password)
        if not token or username != "AWS" or region not in (None, token.region) or service not in (None, token.service):
            return Verdict(valid=False, reason="unknown")
        return Verdict(valid=True) if time.time() < token.expires_at else Verdict(valid=False, reason="expired")

    def _serve(self, request: Request, body: bytes) -> Response:
        call = _parse(request)
        with self._lock:
            self._calls.append(call)
            faults = self._due(call)
        for fault in faults:
            if response := fault.play(call, request.environ["werkzeug.socket"]):
                return response
        if call.operation == "GetAuthorizationToken" and call.access_key_id:
            return Response(json.dumps({"authorizationData": self._authorize(call)}), content_type=JSON)
        response = Response.from_app(self._moto, {**request.environ, "wsgi.input": BytesIO(body)})
        sent = re.findall("<(?:SecretAccessKey|SessionToken)>([^<]+)<", response.get_data(as_text=True))
        with self._lock:
            self._secrets.update(sent)
        return response

    def _due(self, call: Call) -> list[Fault]:
        """Use up the rules that apply to this call: any delays, and the first other rule."""
        due: list[Fault] = []
        for fault in self._faults:
            if fault.matches(call):
                fault.times = fault.times and fault.times - 1
                due.append(fault)
                if not isinstance(fault, Delay):
                    break
        return due

    def _authorize(self, call: Call) -> object:
        size = 1725 + secrets.randbelow(450)  # bytes; 2,300 to 2,900 characters
        password = base64.b64encode(secrets.token_bytes(size)).decode()
        authorization_token = base64.b64encode(f"AWS:{password}".encode()).decode()
        expires_at = time.time() + self._token_lifetime
        with self._lock:
            self._tokens[password] = Token(call.service, call.region, expires_at)
            self._secrets.update((password, authorization_token))
        data = {"authorizationToken": authorization_token, "expiresAt": expires_at + self._clock_offset}
        if call.service == "ecr-public":
            return data
        suffix = "amazonaws.com.cn" if call.region.startswith("cn-") else "amazonaws.com"
        return [{**data, "proxyEndpoint": f"https://{call.account}.dkr.ecr.{call.region}.{suffix}"}]


def _parse(request: Request) -> Call:
    """Return what a request asks for, in the JSON protocol or in the query protocol of AWS."""
    scope = re.search(r"Credential=(\w+)/\d+/([\w-]+)/([\w-]+)/", request.headers.get("Authorization", ""))
    access_key_id, region, service = scope.groups() if scope else ("", "", "sts")
    parameters: dict[str, Any]
    if target := request.headers.get("X-Amz-Target"):
        parameters = request.get_json(force=True)
        operation = target.rpartition(".")[2]
    else:
        parameters = request.form.to_dict()
        parameters.pop("Version", None)
        operation = parameters.pop("Action", f"{request.method} {request.path}")
    return Call(
        operation=operation,
        service=service,
        region=region,
        access_key_id=access_key_id,
        account=get_account_id_from(access_key_id),
        user_agent=request.headers.get("User-Agent", ""),
        time=time.time(),
        parameters=parameters,
    )


def main() -> None:
    """Print the port on 127.0.0.1, and serve until standard input ends, with its owner, even a killed one."""
    with serving(http_server(Aws().answer)) as port:
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        sys.stdin.read()
        os._exit(0)  # without exit handlers, which take moto 0.3 s


if __name__ == "__main__":
    main()
