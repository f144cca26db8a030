"""Answers of AWS, or of a proxy in its place, to a request for a token, and the code and fix that users read."""

from __future__ import annotations

import base64
import json
import time
from hashlib import sha256

from tests.stand_ins.aws import Close, Error, Fault, Reply, Reset

PRIVATE_TOKEN = sha256(b"AWS").hexdigest() * 8  # in the answers of this module; as long as a real one


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


#: The fault, its code, and a part of its fix.
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
    "expired from the start": (private_answer(expiresAt=1420070400), "UnusableAnswer", "proxy"),
}
