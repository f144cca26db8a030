"""Servers on loopback, in a thread of this process."""

from __future__ import annotations

import socketserver
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from werkzeug.serving import BaseWSGIServer, ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wrappers import Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BACKLOG = 1024  # long enough for a crowd


class Server(socketserver.ThreadingTCPServer):
    """A server on a free port; its connections end with the process."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, handler: type[socketserver.BaseRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)


class HttpHandler(WSGIRequestHandler):
    """Serves one request of each connection."""

    protocol_version = "HTTP/1.0"
    send_response = WSGIRequestHandler.send_response_only  # logs nothing, and adds no header


def http_server(answer: Callable[[Request], Response], address: str = "127.0.0.1", port: int = 0) -> BaseWSGIServer:
    """
    Return a server with a thread for each request.

    :param port: where it listens; 0: a free one
    """
    server = ThreadedWSGIServer(address, port, Request.application(answer), handler=HttpHandler)
    server.socket.listen(BACKLOG)
    return server


@contextmanager
def serving(server: socketserver.TCPServer | type[socketserver.BaseRequestHandler]) -> Iterator[int]:
    """Serve until the block ends; yield the port."""
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
