"""StatsD on loopback: a UDP server that keeps the lines that it receives."""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass
from socketserver import BaseRequestHandler, UDPServer
from typing import TYPE_CHECKING

from tests.stand_ins.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class StatsD:
    """A server that keeps lines such as ``airflow.scheduler_heartbeat:1|c``."""

    _port: int
    _lines: list[str]

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[StatsD]:
        """Listen at a free port until the block ends."""
        lines: list[str] = []

        class Handler(BaseRequestHandler):
            def handle(self) -> None:
                lines.extend(self.request[0].decode().splitlines())

        with serving(UDPServer(("127.0.0.1", 0), Handler)) as port:
            yield cls(port, lines)

    def environment(self) -> dict[str, str]:
        """Return the variables with which Airflow sends its metrics here."""
        return {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(self._port),
        }

    def lines(self, prefix: str) -> list[str]:
        """Return the lines with this prefix that were sent before this call."""
        fence = f"fence {time.monotonic_ns()}"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(fence.encode(), ("127.0.0.1", self._port))
        while fence not in self._lines:
            time.sleep(0.001)
        return [line for line in self._lines if line.startswith(prefix)]
