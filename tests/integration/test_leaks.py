"""No secret is shown: by no log at any level, by no exception, however it is printed, and by no list of processes."""

from __future__ import annotations

import json
import logging
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler
from traceback import TracebackException
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import greenlet  # type: ignore[import-untyped]
import pytest

from ecr_secrets_backend import aws as aws_module
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.sdk import suppress_sdk_logs
from tests.integration.exposed import OUT_OF_TIME, SIGN_OF_DEBUG
from tests.integration.faults import look_up
from tests.stand_ins.aws import PROJECT, Delay, Error, Reply
from tests.stand_ins.faults import FAULTS, PRIVATE_TOKEN, basic, private_answer
from tests.stand_ins.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tests.process_helpers import Processes
    from tests.stand_ins.aws import AwsStandIn, Fault

ROLE = "arn:aws:iam::210987654321:role/pull"
HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
PART_LENGTH = 40
MAIN_FAULTS = ("denied", "reset", "not JSON", "dead")  # enough for all but one of the ways to get credentials
PRIVATE = {PRIVATE_TOKEN, basic(PRIVATE_TOKEN), basic(f"AWS:{PRIVATE_TOKEN}")}


def leaks(text: str, known: Iterable[str]) -> list[str]:
    """Find what is in a text of the beginning and of the end of secrets, as they are and URL-quoted."""
    parts = {part for secret in known for part in (secret[:PART_LENGTH], secret[-PART_LENGTH:])}
    return [part for part in parts | {quote(part, safe="") for part in parts} if part in text]


def new_secret() -> str:
    """Make one that is as long as a session token, and as hard to quote."""
    return f"{secrets.token_hex(16)}/+={secrets.token_urlsafe(400)}/+={secrets.token_hex(16)}"


@pytest.fixture
def credentials(
    request: pytest.FixtureRequest, aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Let a process get its credentials in one of the ways that AWS knows; gives kwargs, and the secrets in play."""
    kwargs: dict[str, Any] = {"connections": {"docker_default": HOST}, "cache_dir": str(tmp_path / "cache")}
    first, second, third = new_secret(), new_secret(), new_secret()
    if request.param in {"environment", "role"}:
        monkeypatch.setenv("AWS_SESSION_TOKEN", first)
        yield {**kwargs, "role_arn": ROLE} if request.param == "role" else kwargs, [first, aws.secret_access_key]
        return
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    end = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
    answer = {"AccessKeyId": "ASIAONLOOPBACKSTANDS", "SecretAccessKey": first, "Expiration": end}
    if request.param == "web identity":
        (tmp_path / "token").write_text(first)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        yield kwargs, [first]
    elif request.param == "program":
        (tmp_path / "answer").write_text(json.dumps({**answer, "Version": 1, "SessionToken": second}))
        (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path / 'answer'}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        yield kwargs, [first, second]
    else:

        class Container(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.headers["Authorization"] == third else 403)
                self.end_headers()
                self.wfile.write(json.dumps({**answer, "Token": second}).encode())

            def log_message(self, *_: object) -> None:
                pass

        with serving(Container) as port:
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{port}/")
            monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", third)
            yield kwargs, [first, second, third]


@pytest.mark.parametrize("credentials", ["environment", "role", "web identity", "container", "program"], indirect=True)
def test_nothing_is_shown_whatever_happens(
    request: pytest.FixtureRequest, aws: AwsStandIn, credentials: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    """By logs at DEBUG, exceptions, tracebacks with local variables, and reprs: in success, and in all failures."""
    kwargs, known = credentials
    faults = [*(FAULTS if request.node.callspec.id == "environment" else MAIN_FAULTS), OUT_OF_TIME]
    folder = tmp_path / "shown"
    folder.mkdir()
    command = [sys.executable, "-m", "tests.integration.exposed"]
    order = {"folder": str(folder), "kwargs": kwargs, "faults": faults}
    before = aws.secrets()

    with (folder / "output").open("w") as output:
        subprocess.run([*command, json.dumps(order)], check=True, cwd=PROJECT, stdout=output, stderr=output)

    minted = aws.secrets() - before
    assert len(minted) > 2 * len(faults)
    for file in folder.iterdir():
        assert leaks(file.read_text(), {*known, *minted, *PRIVATE}) == [], file.name
    for name in ("task.log", "plain.log"):
        log = (folder / name).read_text()
        assert SIGN_OF_DEBUG in log
        assert log.count("has no ECR token") == log.count("was not renewed") == len(faults)
    shown = (folder / "shown.txt").read_text()
    assert shown.count("most recent call last") == 2 * len(faults)  # no more than one exception from each
    assert shown.count("EcrToken(") > len(faults)


@pytest.mark.parametrize(
    "fault",
    [
        Error("SignatureDoesNotMatch", "It does not match.\n\nThe String was\nx-amz-security-token:{token}"),
        Reply("You sent {token}", 403, "text/plain"),
        private_answer(expiresAt=PRIVATE_TOKEN),
        replace(private_answer(), status=500, body=private_answer().body[:-1]),
        None,
    ],
    ids=["canonical string", "page", "end", "cut short", "line break in the session token"],
)
def test_what_quotes_a_secret_is_not_repeated(
    aws: AwsStandIn, processes: Processes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: Fault | None
) -> None:
    """Neither what AWS says is taken for harmless, nor a proxy's words, nor those of Python's HTTP client."""
    token = new_secret()
    if isinstance(fault, Error):
        fault = replace(fault, message=fault.message.format(token=token))
    elif isinstance(fault, Reply):
        fault = replace(fault, body=fault.body.replace("{token}", token))
    if fault is None:
        token = f"{new_secret()}\n{new_secret()}"
    else:
        aws.script(fault)
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)

    kwargs = {"connections": {"docker_default": HOST}, "cache_dir": str(tmp_path)}
    process = processes.run(look_up, kwargs, aws)

    assert process.lookups[0].error is not None
    assert leaks(f"{process.lookups} {process.lines}", [*token.splitlines(), *PRIVATE]) == []


@pytest.mark.parametrize(
    "error",
    [
        Error("Foo\n2026-11-27 CRITICAL forged", "\x1b]0;forged\x07\n2026-11-27 CRITICAL forged"),
        Error("A" * 200_000, "B" * 200_000),
    ],
    ids=["forged", "long"],
)
def test_what_aws_says_is_one_bounded_line_for_the_whole_host(
    aws: AwsStandIn, processes: Processes, tmp_path: Path, error: Error
) -> None:
    """It forges no line of a log, controls no terminal, and is small enough for the host's cache."""
    aws.script(error)
    kwargs = {"connections": {"docker_default": HOST}, "cache_dir": str(tmp_path)}
    first, second = processes.run(look_up, kwargs, aws), processes.run(look_up, kwargs, aws)

    ((_, line),) = first.lines
    assert line.isprintable()
    assert len(line) < 2000
    assert second.token_requests == 0
    assert second.lookups[0].error == first.lookups[0].error


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "HTTPS_PROXY"])
def test_a_password_in_a_url_is_not_shown(
    aws: AwsStandIn, processes: Processes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    """Of an endpoint or of a proxy that cannot be reached."""
    if variable == "HTTPS_PROXY":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "https://ecr.example")
    monkeypatch.setenv(variable, "http://user:s3cret@127.0.0.1:9")
    kwargs = {"connections": {"docker_default": HOST}, "cache_dir": str(tmp_path)}
    process = processes.run(look_up, kwargs, aws)

    assert "127.0.0.1:9" in process.lines[0][1]
    assert "s3cret" not in f"{process.lines} {process.lookups}"
    assert not [path for path in tmp_path.rglob("*.json") if "s3cret" in path.read_text()]


@pytest.mark.parametrize("name", [*MAIN_FAULTS, "no colon"])
def test_a_failed_mint_drags_nothing_along(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Its exception has no other behind it, and was raised where no local variable holds what was sent or answered."""
    token = new_secret()
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    monkeypatch.setattr(aws_module, "ATTEMPTS", 1)
    aws.script(FAULTS[name][0])

    with pytest.raises(TokenError) as caught:
        aws_module.request_token(AwsIdentity("ecr", "us-east-1"))

    shown = "".join(TracebackException.from_exception(caught.value, capture_locals=True).format())
    _, _, shown = shown.partition("in request_token\n")  # without the local variables of this test
    assert shown
    assert leaks(shown, [token, aws.secret_access_key, *PRIVATE]) == []
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_mint_that_ends_does_not_bare_another(caplog: pytest.LogCaptureFixture) -> None:
    """Two threads may talk with AWS at the same time, and each is kept out of the logs until it has ended itself."""
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger("botocore.parsers")
    has_begun, may_end = threading.Event(), threading.Event()

    def talk() -> None:
        with suppress_sdk_logs():
            has_begun.set()
            assert may_end.wait(10)

    other = threading.Thread(target=talk)
    other.start()
    assert has_begun.wait(10)

    def let_the_other_end(_: logging.LogRecord) -> bool:
        may_end.set()
        other.join()
        return True

    record = logging.makeLogRecord({"msg": "a token"})
    logger.addFilter(let_the_other_end)
    try:
        with suppress_sdk_logs():
            logger.handle(record)  # the other may end while logging goes through the filters for this line ...
            let_the_other_end(record)  # ... or before the next
            logger.handle(record)
    finally:
        logger.removeFilter(let_the_other_end)

    assert caplog.messages == []


def test_a_request_that_ends_does_not_bare_another_greenlet(caplog: pytest.LogCaptureFixture) -> None:
    """Greenlets share their thread's local variables where gevent patches them after our import."""
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger("botocore.parsers")

    def request() -> None:
        with suppress_sdk_logs():
            greenlet.getcurrent().parent.switch()
            logger.debug("a token")

    first, second = greenlet.greenlet(request), greenlet.greenlet(request)
    first.switch()
    second.switch()
    first.switch()  # it ends, while the other one waits for AWS
    second.switch()
    logger.debug("a line of others")

    assert caplog.messages == ["a line of others"]


@pytest.mark.parametrize("role_arn", [None, ROLE])
def test_the_debug_level_of_pythons_http_client_prints_no_request_for_a_token(
    aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, role_arn: str | None
) -> None:
    """It prints headers, session tokens among them; other requests of boto3 are printed as ever."""
    program = f"""if True:
        import boto3, http.client
        http.client.HTTPConnection.debuglevel = 1
        from ecr_secrets_backend.aws import request_token
        from ecr_secrets_backend.cli.check.aws import identify
        from ecr_secrets_backend.identity import AwsIdentity
        identity = AwsIdentity("ecr", "us-east-1", role_arn={role_arn!r})
        print(identify(identity), request_token(identity), "END")
        boto3.client("sts", region_name="us-east-1").get_caller_identity()
    """
    monkeypatch.setenv("AWS_SESSION_TOKEN", new_secret())
    done = subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT, capture_output=True, text=True)
    printed, _, others = done.stdout.partition("END")

    assert "EcrToken(" in printed
    assert "send:" not in printed
    assert "send:" in others
    assert len(aws.calls()) == (5 if role_arn else 3)


@pytest.mark.parametrize("credentials", ["role", "program"], indirect=True)
def test_a_list_of_processes_shows_nothing(
    aws: AwsStandIn, processes: Processes, credentials: tuple[dict[str, Any], list[str]]
) -> None:
    """While a lookup waits for AWS, no command line holds what it was started with, sent or got."""
    kwargs, known = credentials
    aws.script(Delay(0.5))
    before = aws.secrets()

    with processes.start(look_up, kwargs, aws) as process:
        while not aws.calls():
            time.sleep(0.01)
        lists = [commands()]
        assert process.result().lookups[0].valid
        lists.append(commands())

    assert all(str(process.pid) in text for text in lists)
    assert leaks("".join(lists), {*known, *(aws.secrets() - before)}) == []


def commands() -> str:
    return subprocess.run(
        ["ps", "-A", "-w", "-w", "-o", "pid,args"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
