"""The work of the deployments' DAGs: look up a connection, and log the result without the token."""

from __future__ import annotations

import asyncio
import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import structlog
from airflow.sdk import BaseHook, BaseOperator, Connection
from airflow.triggers.base import BaseTrigger, TriggerEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow.sdk import Context


def digest_of(password: str | None) -> str:
    """Return a digest that identifies a token and does not reveal it."""
    return sha256(str(password).encode()).hexdigest()[:16]


def log_lookup(**facts: object) -> None:
    """Log a line in the log of the running task."""
    structlog.get_logger().info("Looked up", pid=os.getpid(), parent=os.getppid(), **facts)


class LookupTrigger(BaseTrigger):
    """Looks up a connection with every method that a trigger has, asynchronous or in a thread."""

    def __init__(self, conn_id: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments, from which the triggerer builds the trigger."""
        return f"{__name__}.{type(self).__name__}", {"conn_id": self.conn_id}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        connections = {
            "aget_connection": await BaseHook.aget_connection(self.conn_id),
            "async_get": await Connection.async_get(self.conn_id),
            "thread": await asyncio.to_thread(BaseHook.get_connection, self.conn_id),
        }
        digests = {method: digest_of(connection.password) for method, connection in connections.items()}
        yield TriggerEvent({"digests": digests, "triggerer": os.getpid()})  # type: ignore[no-untyped-call]


class DeferredLookup(BaseOperator):
    """Defers to a trigger, and looks up again when it has fired."""

    def __init__(self, conn_id: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.conn_id = conn_id

    def execute(self, context: Context) -> None:
        del context
        self.defer(trigger=LookupTrigger(self.conn_id), method_name="resume")

    def resume(self, context: Context, event: dict[str, Any]) -> None:
        """Log the trigger's results, and look up in the task."""
        del context
        log_lookup(**event, digest=digest_of(BaseHook.get_connection(self.conn_id).password))
