"""Import the AWS libraries at the first request, and suppress their logs during requests, which contain secrets."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import HTTPConnection
from importlib import import_module
from typing import Any, Final

#: Keeps forks apart from the import of boto3 and the start of OpenSSL. A child that is forked in the middle would have
#: a module in part, or a lock of OpenSSL that no thread releases.
_lock: Final = threading.Lock()
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def import_sdk(*names: str) -> None:
    """Import boto3, the named modules, and the parts that Python's sockets import at their first use."""
    with _lock:
        for name in ("boto3.session", "encodings.idna", *names):
            import_module(name)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ssl.RAND_bytes(1)


#: These loggers write requests and responses, tokens included: at DEBUG as text, and at WARNING in the local variables
#: of a traceback.
_LOGGERS: Final = ("boto3", "botocore", "urllib3")
_is_requesting: Final = ContextVar("ecr_secrets_backend_is_requesting", default=False)


@contextmanager
def suppress_sdk_logs() -> Iterator[None]:
    """Suppress the logs of the AWS libraries within this context, at every level.

    A level would also suppress the lines of other threads and greenlets, so a filter is used. The filter stays:
    logging cannot remove a filter safely while another thread logs.
    """
    from botocore.awsrequest import AWSHTTPConnection, AWSHTTPSConnection

    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in _LOGGERS:
            logger.addFilter(_is_wanted)
    level: Any = _DebugLevel()
    AWSHTTPConnection.debuglevel = AWSHTTPSConnection.debuglevel = level
    token = _is_requesting.set(True)
    try:
        yield
    finally:
        _is_requesting.reset(token)


def _is_wanted(_record: logging.LogRecord) -> bool:
    return not _is_requesting.get()


class _DebugLevel:
    """The ``debuglevel`` of botocore's connections, which print their traffic if it is above 0."""

    def __get__(self, connection: object, owner: type) -> int:
        return 0 if _is_requesting.get() else HTTPConnection.debuglevel
