"""Servers on loopback, in a thread of this process."""

from __future__ import annotations

import socketserver
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Server(socketserver.ThreadingTCPServer):
    """A server on a free port; its connections end with the process."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, handler: type[socketserver.BaseRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)


@contextmanager
def serving(server: socketserver.TCPServer | type[socketserver.BaseRequestHandler]) -> Iterator[Any]:
    """Serve until the block ends; yield the port, or the second character of a Unix socket's path."""
    if isinstance(server, type):
        server = Server(server)
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
