"""No secret in a log at any level, in an exception in any form, or in a list of processes."""

from __future__ import annotations

import json
import logging
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import replace
from traceback import TracebackException
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import greenlet  # type: ignore[import-untyped]
import pytest

from ecr_secrets_backend import aws as aws_module
from ecr_secrets_backend.errors import TokenError
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.sdk import suppress_sdk_logs
from tests.integration.exposed import SIGN_OF_DEBUG, TIMEOUT
from tests.stand_ins.aws import PROJECT, Delay, Error, Reply
from tests.stand_ins.credentials import CredentialEndpoint
from tests.stand_ins.faults import FAULTS, PRIVATE_TOKEN, basic, private_answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tests.process_helpers import Host
    from tests.stand_ins.aws import AwsStandIn, Fault

    #: Kwargs for the backend, and the secrets that the process has.
    Credentials = tuple[dict[str, Any], list[str]]

ROLE = "arn:aws:iam::210987654321:role/pull"
PART_LENGTH = 40
MAIN_FAULTS = ("denied", "reset", "not JSON", "expired from the start")  # enough for all sources of credentials but one
PRIVATE = {PRIVATE_TOKEN, basic(PRIVATE_TOKEN), basic(f"AWS:{PRIVATE_TOKEN}")}


def leaks(text: str, known: Iterable[str]) -> list[str]:
    """Return the beginnings and ends of secrets that are in a text, as they are or URL-quoted."""
    parts = {part for secret in known for part in (secret[:PART_LENGTH], secret[-PART_LENGTH:])}
    return [part for part in parts | {quote(part, safe="") for part in parts} if part in text]


def new_secret() -> str:
    """Return one that is as long as a session token, with characters that a URL quotes."""
    return f"{secrets.token_hex(16)}/+={secrets.token_urlsafe(400)}/+={secrets.token_hex(16)}"


@pytest.fixture
def credentials(
    request: pytest.FixtureRequest, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Credentials]:
    """Yield kwargs and secrets for a process with credentials from one of AWS's sources."""
    first, second = new_secret(), new_secret()
    if request.param in {"environment", "role"}:
        monkeypatch.setenv("AWS_SESSION_TOKEN", first)
        role = {"role_arn": ROLE} if request.param == "role" else {}
        yield {**host.kwargs, **role}, [first, host.aws.secret_access_key]
        return
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    if request.param == "web identity":
        (tmp_path / "token").write_text(first)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        yield host.kwargs, [first]
    elif request.param == "program":
        keys = {"AccessKeyId": "ASIAONLOOPBACKSTANDS", "SecretAccessKey": first, "SessionToken": second}
        (tmp_path / "answer").write_text(json.dumps({**keys, "Version": 1}))
        (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path / 'answer'}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        yield host.kwargs, [first, second]
    else:
        (tmp_path / "pod").write_text(first)
        with CredentialEndpoint.running("eks", tmp_path / "pod") as endpoint:
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoint.url)
            monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", first)
            endpoint.secrets.append(first)
            yield host.kwargs, endpoint.secrets


@pytest.mark.parametrize("credentials", ["environment", "role", "web identity", "container", "program"], indirect=True)
def test_no_secret_is_shown_by_any_lookup(
    request: pytest.FixtureRequest, aws: AwsStandIn, credentials: Credentials, tmp_path: Path
) -> None:
    """Not in logs at DEBUG, exceptions, tracebacks with local variables, or reprs, with and without a failure."""
    kwargs, known = credentials
    faults = [*(FAULTS if request.node.callspec.id == "environment" else MAIN_FAULTS), TIMEOUT]
    folder = tmp_path / "shown"
    folder.mkdir()
    command = [sys.executable, "-m", "tests.integration.exposed"]
    order = {"folder": str(folder), "kwargs": kwargs, "faults": faults}
    before = aws.secrets()

    with (folder / "output").open("w") as output:
        subprocess.run([*command, json.dumps(order)], check=True, cwd=PROJECT, stdout=output, stderr=output)

    received = aws.secrets() - before
    assert len(received) > 2 * len(faults)
    for file in folder.iterdir():
        assert leaks(file.read_text(), {*known, *received, *PRIVATE}) == [], file.name
    for name in ("task.log", "plain.log"):
        log = (folder / name).read_text()
        assert SIGN_OF_DEBUG in log
        assert log.count("Cannot get an ECR token") == log.count("Cannot renew an ECR token") == len(faults)
    shown = (folder / "shown.txt").read_text()
    assert shown.count("most recent call last") == 2 * len(faults)  # one exception of each, without a cause
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
def test_a_secret_in_an_answer_is_not_repeated(
    host: Host, monkeypatch: pytest.MonkeyPatch, fault: Fault | None
) -> None:
    """Neither from AWS, nor from a proxy, nor from the exceptions of Python's HTTP client."""
    token = new_secret()
    if isinstance(fault, Error):
        fault = replace(fault, message=fault.message.format(token=token))
    elif isinstance(fault, Reply):
        fault = replace(fault, body=fault.body.replace("{token}", token))
    if fault is None:
        token = f"{new_secret()}\n{new_secret()}"
    else:
        host.aws.script(fault)
    monkeypatch.setenv("AWS_SESSION_TOKEN", token)

    process = host.run()

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
def test_an_error_of_aws_is_one_short_line(host: Host, error: Error) -> None:
    """It forges no line of a log, controls no terminal, and fits into the host's cache."""
    host.aws.script(error)
    first, second = host.run(), host.run()

    ((_, line),) = first.lines
    assert line.isprintable()
    assert len(line) < 2000
    assert second.token_requests == 0
    assert second.lookups[0].error == first.lookups[0].error


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "HTTPS_PROXY"])
def test_a_password_in_a_url_is_not_shown(host: Host, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """The URL of an endpoint or a proxy that cannot be reached."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://ecr.example")
    monkeypatch.setenv(variable, "http://user:s3cret@127.0.0.1:9")

    process = host.run()

    assert "127.0.0.1:9" in process.lines[0][1]
    assert "s3cret" not in f"{process.lines} {process.lookups}"
    assert not [path for path in host.cache_dir.rglob("*.json") if "s3cret" in path.read_text()]


@pytest.mark.parametrize("name", [*MAIN_FAULTS, "no colon"])
def test_no_frame_of_a_failed_request_holds_a_secret(
    aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The exception has no cause and no context, and no local variable of its traceback holds what was sent."""
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


def test_a_request_that_ends_does_not_show_the_logs_of_another_thread(caplog: pytest.LogCaptureFixture) -> None:
    """The logs of each thread are suppressed until its own request has ended."""
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger("botocore.parsers")
    has_begun, may_end = threading.Event(), threading.Event()

    def request() -> None:
        with suppress_sdk_logs():
            has_begun.set()
            assert may_end.wait(10)

    other = threading.Thread(target=request)
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
            logger.handle(record)  # the other request may end while logging runs the filters of this line ...
            let_the_other_end(record)  # ... or before the next
            logger.handle(record)
    finally:
        logger.removeFilter(let_the_other_end)

    assert caplog.messages == []


def test_a_request_that_ends_does_not_show_the_logs_of_another_greenlet(caplog: pytest.LogCaptureFixture) -> None:
    """Greenlets share their thread's local variables if gevent patches them after our import."""
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger("botocore.parsers")

    def request() -> None:
        with suppress_sdk_logs():
            greenlet.getcurrent().parent.switch()
            logger.debug("a token")

    first, second = greenlet.greenlet(request), greenlet.greenlet(request)
    first.switch()
    second.switch()
    first.switch()  # it ends while the second waits for AWS
    second.switch()
    logger.debug("a line of other code")

    assert caplog.messages == ["a line of other code"]


@pytest.mark.parametrize("role_arn", [None, ROLE])
def test_the_debug_level_of_pythons_http_client_prints_no_request_for_a_token(
    aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch, role_arn: str | None
) -> None:
    """It prints headers, session tokens among them; it still prints other requests of boto3."""
    program = f"""if True:
        import boto3, http.client
        http.client.HTTPConnection.debuglevel = 1
        from ecr_secrets_backend.aws import call_aws, request_token
        from ecr_secrets_backend.cli.check.aws import identify
        from ecr_secrets_backend.identity import AwsIdentity
        identity = AwsIdentity("ecr", "us-east-1", role_arn={role_arn!r})
        print(call_aws(identify, identity), request_token(identity), "END")
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
def test_a_list_of_processes_shows_no_secret(host: Host, credentials: Credentials) -> None:
    """While a lookup waits for AWS, and after it, no command line holds a secret."""
    kwargs, known = credentials
    host.aws.script(Delay(0.5))
    before = host.aws.secrets()

    with host.start(**kwargs) as process:
        while not host.aws.calls():
            time.sleep(0.01)
        lists = [list_processes()]
        assert process.result().lookups[0].valid
        lists.append(list_processes())

    assert all(str(process.pid) in text for text in lists)
    assert leaks("".join(lists), {*known, *(host.aws.secrets() - before)}) == []


def list_processes() -> str:
    command = ["ps", "-A", "-w", "-w", "-o", "pid,args"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
