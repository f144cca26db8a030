"""No secret in a log at any level, in an exception in any form, or in a list of processes."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import pickle
import secrets
import subprocess
import sys
import traceback
from contextlib import redirect_stdout
from dataclasses import replace
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any, TextIO
from unittest import mock

import boto3
import greenlet  # type: ignore[import-untyped]
import pytest
from airflow.sdk.log import configure_logging
from structlog.tracebacks import ExceptionDictTransformer

from ecr_secrets_backend import EcrSecretsBackend
from ecr_secrets_backend import aws as aws_module
from ecr_secrets_backend import cache as cache_module
from ecr_secrets_backend.cli.check.aws import identify
from ecr_secrets_backend.errors import ConnectionUnavailableError, TokenError
from ecr_secrets_backend.identity import AwsIdentity
from ecr_secrets_backend.sdk import suppress_sdk_logs
from examples.demo.leaks import find_leaks, read_files
from tests.airflow_version import put_into_task
from tests.process_helpers import keep_token
from tests.stand_ins.aws import TOKEN_LIFETIME_SECONDS, Error, Hang, Reply
from tests.stand_ins.credentials import CredentialEndpoint
from tests.stand_ins.faults import FAULTS, PRIVATE_TOKEN, basic, private_answer
from tests.unit.builders import HOUR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.process_helpers import Host
    from tests.stand_ins.aws import AwsStandIn, Fault

    #: Kwargs for the backend, and the secrets that the process has.
    Credentials = tuple[dict[str, Any], list[str]]

ROLE = "arn:aws:iam::210987654321:role/pull"
PRIVATE = {PRIVATE_TOKEN, basic(PRIVATE_TOKEN), basic(f"AWS:{PRIVATE_TOKEN}")}
SIGN_OF_DEBUG = "lines at DEBUG are kept"

TIMEOUT = Hang(1)  # longer than the bound of a request
#: Enough for all sources of credentials but one.
MAIN_FAULTS = [*(FAULTS[name][0] for name in ("denied", "reset", "not JSON", "expired from the start")), TIMEOUT]


def all_faults(session_token: str) -> list[Fault]:
    """Return all faults, with answers that repeat what was sent or what AWS has answered."""
    return [
        *(fault for fault, *_ in FAULTS.values()),
        Error("SignatureDoesNotMatch", f"It does not match.\n\nThe String was\nx-amz-security-token:{session_token}"),
        Reply(f"You sent {session_token}", 403, "text/plain"),
        private_answer(expiresAt=PRIVATE_TOKEN),
        replace(private_answer(), status=500, body=private_answer().body[:-1]),
        TIMEOUT,
    ]


def new_secret() -> str:
    """Return one that is as long as a session token, with characters that a URL quotes."""
    return f"{secrets.token_hex(16)}/+={secrets.token_urlsafe(400)}/+={secrets.token_hex(16)}"


@pytest.fixture
def credentials(
    request: pytest.FixtureRequest, host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Credentials]:
    """Yield kwargs and secrets for a process with credentials from one of AWS's sources."""
    first, second = new_secret(), new_secret()
    file = tmp_path / "file"
    file.write_text(first)
    if request.param in {"environment", "role"}:
        monkeypatch.setenv("AWS_SESSION_TOKEN", first)
        role = {"role_arn": ROLE} if request.param == "role" else {}
        yield {**host.kwargs, **role}, [first, host.aws.secret_access_key]
        return
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    if request.param == "web identity":
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(file))
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        yield host.kwargs, [first]
    elif request.param == "program":
        keys = {"AccessKeyId": "ASIAONLOOPBACKSTANDS", "SecretAccessKey": first, "SessionToken": second}
        file.write_text(json.dumps({**keys, "Version": 1}))
        (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {file}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        yield host.kwargs, [first, second]
    else:
        with CredentialEndpoint.running("eks", file) as endpoint:
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoint.url)
            monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", first)
            endpoint.secrets.append(first)
            yield host.kwargs, endpoint.secrets


class Formatter(logging.Formatter):
    """Shows the local variables of tracebacks, as the logs of Airflow 3.0 do."""

    def formatException(self, exc_info: Any) -> str:  # noqa: N802 - logging's name for it
        return "".join(traceback.TracebackException(*exc_info, capture_locals=True).format())


def log_everything(folder: Path) -> None:
    """Log at DEBUG, once as Airflow configures a task, and once to a plain file; write all other output to a third."""
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), stream.fileno())
    log = (folder / "task.log").open("wb", buffering=0)
    configure_logging(json_output=True, log_level="DEBUG", output=log, sending_to_supervisor=True)
    handler = logging.FileHandler(folder / "plain.log")
    handler.setFormatter(Formatter("%(levelname)s %(name)s %(message)s"))
    logging.root.addHandler(handler)
    logging.getLogger("botocore.parsers").debug(SIGN_OF_DEBUG)


def show_failure(call: Callable[[], object], shown: TextIO) -> None:
    """Print the exception of a call, and those behind it, in every form that Python and Airflow's libraries know."""
    try:
        call()
    except (ConnectionUnavailableError, TokenError) as error:
        errors: list[BaseException | None] = [error]
    else:
        return
    for one in errors:
        if one is not None:
            errors += [one.__cause__, one.__context__]
            print(repr(one), one, one.args, vars(one), pickle.dumps(one), file=shown)
            print(*traceback.TracebackException.from_exception(one, capture_locals=True).format(), file=shown)
            transform = ExceptionDictTransformer(show_locals=True, locals_max_string=10_000)
            print(transform((type(one), one, one.__traceback__)), file=shown)


def show_values(backend: EcrSecretsBackend, shown: TextIO) -> None:
    memory = cache_module._memory
    entries = memory._entries.values()
    for value in (backend, backend._logins._cache, memory, *entries, *(entry.token for entry in entries)):
        print(repr(value), value, getattr(value, "__dict__", None), file=shown)


def meet_faults(aws: AwsStandIn, kwargs: dict[str, Any], faults: list[Fault], folder: Path) -> None:
    """Meet one fault of AWS after another, without a token, and with one that is due for renewal. Show everything."""
    log_everything(folder)
    mock.patch.multiple(aws_module, ATTEMPTS=1, READ_TIMEOUT_SECONDS=0.5).start()
    with (folder / "shown.txt").open("w") as shown:
        for (number, fault), is_stale in itertools.product(enumerate([None, *faults]), (False, True)):
            os.environ["HOME"] = f"/home/{number}/{is_stale}"  # makes another identity, without a back-off
            backend = EcrSecretsBackend(**kwargs)
            put_into_task(backend)
            identity = backend._connections["docker_default"].identity.in_environment(os.environ)
            if is_stale:
                keep_token(identity, kwargs["cache_dir"], age=TOKEN_LIFETIME_SECONDS - HOUR / 2)
            if fault is not None:
                # If a role is assumed, the first of two calls fails, and then the second.
                aws.script(replace(fault, operation="GetAuthorizationToken" if is_stale else None))
            with mock.patch.object(cache_module, "REQUEST_TIMEOUT_SECONDS", 0.2 if fault == TIMEOUT else 20.0):
                show_failure(lambda: backend.get_connection("docker_default"), shown)  # noqa: B023 - called at once
            if not is_stale:
                show_failure(lambda: aws_module.request_token(identity), shown)  # noqa: B023 - as above
            aws.settle()
        show_values(EcrSecretsBackend(**kwargs), shown)
        subprocess.run(["ps", "-A", "-w", "-w", "-o", "pid,args"], check=True, stdout=shown)


@pytest.mark.parametrize("credentials", ["environment", "role", "web identity", "container", "program"], indirect=True)
def test_no_secret_is_shown_by_any_lookup(
    request: pytest.FixtureRequest, host: Host, credentials: Credentials, tmp_path: Path
) -> None:
    """Not in logs at DEBUG, exceptions, local variables, reprs or command lines, with and without a failure."""
    kwargs, known = credentials
    faults = all_faults(known[0]) if request.node.callspec.id == "environment" else MAIN_FAULTS
    folder = tmp_path / "shown"
    folder.mkdir()
    before = host.aws.secrets()

    host.processes.run(meet_faults, host.aws, kwargs, faults, folder)

    received = host.aws.secrets() - before
    assert len(received) > 2 * len(faults)
    assert find_leaks({*known, *received, *PRIVATE}, read_files(folder)) == []
    for name in ("task.log", "plain.log"):
        log = (folder / name).read_text()
        assert SIGN_OF_DEBUG in log
        assert log.count("Cannot get an ECR token") == log.count("Cannot renew an ECR token") == len(faults)
    shown = (folder / "shown.txt").read_text()
    assert shown.count("most recent call last") == 2 * len(faults)  # two exceptions of each, without a cause
    assert shown.count("EcrToken(") > len(faults)


def test_a_secret_with_a_line_break_is_not_shown(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's HTTP client quotes it in its exception."""
    lines = new_secret(), new_secret()
    monkeypatch.setenv("AWS_SESSION_TOKEN", "\n".join(lines))

    process = host.run()

    assert process.lookups[0].error is not None
    assert find_leaks(lines, [("", f"{process.lookups} {process.lines}")]) == []


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
    logger.debug("a line of other code")
    first.switch()  # it ends while the second waits for AWS
    second.switch()
    logger.debug("a line of other code")

    assert caplog.messages == ["a line of other code"] * 2


def request_with_debug_level() -> tuple[str, str]:
    """Return what requests for tokens print, and then another request of boto3."""
    HTTPConnection.debuglevel = 1
    identity = AwsIdentity("ecr", "us-east-1", role_arn=ROLE)
    ours, others = io.StringIO(), io.StringIO()
    with redirect_stdout(ours):
        aws_module.call_aws(identify, identity)
        aws_module.request_token(identity)
    with redirect_stdout(others):
        boto3.client("sts", region_name="us-east-1").get_caller_identity()
    return ours.getvalue(), others.getvalue()


def test_the_debug_level_of_pythons_http_client_prints_no_request_for_a_token(host: Host) -> None:
    """It prints headers, session tokens among them; it still prints other requests of boto3."""
    ours, others = host.processes.run(request_with_debug_level)

    assert ours == ""
    assert "send:" in others
