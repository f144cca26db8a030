"""
A process that shows its values in every form: ``python -m tests.integration.exposed``, with JSON as its argument.

It meets one fault of AWS after another, without a token, and with one that is due for renewal. All libraries log at
DEBUG: once as Airflow configures a task, and once to a plain file, with the local variables of each traceback. Each
exception and value is printed in every form that Python and the libraries of Airflow know.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import pickle
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from unittest import mock

import botocore.loaders
import botocore.session
from airflow.sdk import Connection
from airflow.sdk.log import configure_logging
from rich.console import Console
from rich.pretty import pprint
from rich.traceback import Traceback
from structlog.tracebacks import ExceptionDictTransformer

from ecr_secrets_backend import EcrSecretsBackend, aws, cache
from ecr_secrets_backend.host_store import HostStore
from tests.stand_ins.aws import AwsStandIn, Hang
from tests.stand_ins.faults import FAULTS
from tests.unit.builders import HOUR, build_entry

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGN_OF_DEBUG = "lines at DEBUG are kept"
TIMEOUT = "timeout"  # a hang that is longer than the bound of a request
PAGE_WIDTH = 500  # characters, because a secret that rich breaks into lines is not found


class Formatter(logging.Formatter):
    """Shows the local variables of tracebacks, as the logs of Airflow 3.0 do."""

    def formatException(self, exc_info: Any) -> str:  # noqa: N802 - logging's name for it
        return "".join(traceback.TracebackException(*exc_info, capture_locals=True).format())


def log_everything(folder: Path) -> None:
    log = (folder / "task.log").open("wb", buffering=0)
    configure_logging(json_output=True, log_level="DEBUG", output=log, sending_to_supervisor=True)
    handler = logging.FileHandler(folder / "plain.log")
    handler.setFormatter(Formatter("%(levelname)s %(name)s %(message)s"))
    logging.root.addHandler(handler)
    logging.getLogger("botocore.parsers").debug(SIGN_OF_DEBUG)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    if error is not None:
        yield error
        yield from chain(error.__cause__)
        yield from chain(error.__context__)


def show_error(error: BaseException, shown: TextIO) -> None:
    page = Console(file=shown, width=PAGE_WIDTH)
    for one in chain(error):
        print(repr(one), one, one.args, vars(one), getattr(one, "__notes__", None), pickle.dumps(one), file=shown)
        print(*traceback.TracebackException.from_exception(one, capture_locals=True).format(), file=shown)
        info = (type(one), one, one.__traceback__)
        page.print(Traceback.from_exception(*info, show_locals=True, locals_max_string=10_000))
        print(ExceptionDictTransformer(show_locals=True, locals_max_string=10_000)(info), file=shown)


def show_values(backend: EcrSecretsBackend, shown: TextIO) -> None:
    memory = cache._memory
    entries = memory._entries.values()
    for value in (backend, backend._logins._cache, memory, *entries, *(entry.token for entry in entries)):
        print(repr(value), value, getattr(value, "__dict__", None), file=shown)
        pprint(value, console=Console(file=shown, width=PAGE_WIDTH), expand_all=True)


def look_up(backend: EcrSecretsBackend, shown: TextIO) -> None:
    try:
        backend.get_connection("docker_default")
    except PermissionError as error:
        show_error(error, shown)


def keep_stale_token(backend: EcrSecretsBackend, cache_dir: str) -> None:
    """Put a token into the host's cache that is valid, and due for renewal."""
    identity = backend._connections["docker_default"].identity.in_environment(os.environ)
    token = aws.request_token(identity)
    end = time.time() + HOUR / 2
    token = replace(token, received_at=end - token.lifetime, expires_at=end)
    entry = build_entry(token=token, recorded_at=token.received_at, key=identity.key)
    HostStore(cache_dir).write(f"{identity.key}.json", entry.to_json(), entry.expires_at)


def main() -> None:
    order = json.loads(sys.argv[1])
    kwargs = order["kwargs"]
    log_everything(Path(order["folder"]))
    loader = botocore.loaders.create_loader()
    mock.patch("botocore.session.create_loader", return_value=loader).start()  # it keeps the files that it has read
    mock.patch("ecr_secrets_backend.aws.ATTEMPTS", 1).start()
    mock.patch("ecr_secrets_backend.aws.READ_TIMEOUT_SECONDS", 0.5).start()
    stand_in = AwsStandIn(os.environ["AWS_ENDPOINT_URL"])
    with Path(order["folder"], "shown.txt").open("w") as shown:
        for name, is_stale in itertools.product((None, *order["faults"]), (False, True)):
            os.environ["HOME"] = f"/home/{name}/{is_stale}"  # makes another identity, without a back-off
            backend = EcrSecretsBackend(**kwargs)
            backend._set_connection_class(Connection)  # as Airflow does in a task
            if is_stale:
                keep_stale_token(backend, kwargs["cache_dir"])
            if name is not None:
                fault = Hang(1) if name == TIMEOUT else FAULTS[name][0]
                # If a role is assumed, the first of two calls fails, and then the second.
                stand_in.script(replace(fault, operation="GetAuthorizationToken" if is_stale else None))
            with mock.patch("ecr_secrets_backend.cache.REQUEST_TIMEOUT_SECONDS", 0.2 if name == TIMEOUT else 20.0):
                look_up(backend, shown)
            stand_in.settle()
        show_values(EcrSecretsBackend(**kwargs), shown)


if __name__ == "__main__":
    main()
