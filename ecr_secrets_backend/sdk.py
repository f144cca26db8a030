"""The AWS libraries in this process: imported at the first request, and silent while a token is requested."""

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

#: Held while boto3 is imported and OpenSSL starts, and while a process forks. A child that is forked in the middle of
#: either finds half of a module, or a lock of OpenSSL that nothing releases.
_importing: Final = threading.Lock()
os.register_at_fork(before=_importing.acquire, after_in_parent=_importing.release, after_in_child=_importing.release)


def import_sdk(*names: str) -> None:
    """Import boto3 and more modules, and what Python's sockets import at their first use."""
    with _importing:
        for name in ("boto3.session", "encodings.idna", *names):
            import_module(name)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ssl.RAND_bytes(1)


#: Loggers that write what AWS was sent or has answered, tokens included: at DEBUG as text, and at WARNING in the local
#: variables of a traceback.
_LOGGERS: Final = ("boto3", "botocore", "urllib3")
_is_requesting: Final = ContextVar("ecr_secrets_backend_is_requesting", default=False)


@contextmanager
def suppress_sdk_logs() -> Iterator[None]:
    """Keep every line of the AWS libraries out of every log, whatever its level, within this context.

    A filter on each logger does so, and not a level, because other threads and greenlets may want their lines. The
    filter stays: logging does not support removing one while another thread's line passes it.
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
    """The level at which a connection of botocore prints its traffic, looked up at each use."""

    def __get__(self, connection: object, owner: type) -> int:
        return 0 if _is_requesting.get() else HTTPConnection.debuglevel
