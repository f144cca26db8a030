"""StatsD on loopback: a UDP server that keeps the lines that it receives."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST_PACKET_BYTES = 65_536


class StatsD:
    """A server that keeps lines such as ``airflow.scheduler_heartbeat:1|c``."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._lines: list[str] = []

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[StatsD]:
        """Listen at a free port until the block ends."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
            listener.bind(("127.0.0.1", 0))
            server = cls(listener)
            thread = threading.Thread(target=server._listen, daemon=True)
            thread.start()
            try:
                yield server
            finally:
                server._send(b"end")
                thread.join()

    def environment(self) -> dict[str, str]:
        """Return the variables with which Airflow sends its metrics here."""
        host, port = self._listener.getsockname()
        return {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": host,
            "AIRFLOW__METRICS__STATSD_PORT": str(port),
        }

    def lines(self, prefix: str) -> list[str]:
        """Return the lines with this prefix that were sent before this call."""
        fence = f"fence {time.monotonic_ns()}"
        self._send(fence.encode())
        while fence not in self._lines:
            time.sleep(0.001)
        return [line for line in self._lines if line.startswith(prefix)]

    def _listen(self) -> None:
        while (packet := self._listener.recv(LARGEST_PACKET_BYTES)) != b"end":
            self._lines += packet.decode().splitlines()

    def _send(self, packet: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(packet, self._listener.getsockname())
