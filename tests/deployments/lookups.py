"""What the DAGs of the deployments do: look a connection up, and tell what they got, but for the token."""

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
    """Give what tells one token from another without giving it away."""
    return sha256(str(password).encode()).hexdigest()[:16]


def tell(**facts: object) -> None:
    """Write a line into the log of the task that runs."""
    structlog.get_logger().info("Looked up", pid=os.getpid(), parent=os.getppid(), **facts)


class LookupTrigger(BaseTrigger):
    """Looks a connection up in every way that is open to a trigger: asynchronously, and synchronously in a thread."""

    def __init__(self, conn_id: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Tell the triggerer how to build it anew."""
        return f"{__name__}.{type(self).__name__}", {"conn_id": self.conn_id}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look up, and fire."""
        connections = {
            "aget_connection": await BaseHook.aget_connection(self.conn_id),
            "async_get": await Connection.async_get(self.conn_id),
            "thread": await asyncio.to_thread(BaseHook.get_connection, self.conn_id),
        }
        digests = {way: digest_of(connection.password) for way, connection in connections.items()}
        yield TriggerEvent({"digests": digests, "triggerer": os.getpid()})  # type: ignore[no-untyped-call]


class DeferredLookup(BaseOperator):
    """Leaves the lookup to a trigger, and goes on when it has fired."""

    def __init__(self, conn_id: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.conn_id = conn_id

    def execute(self, context: Context) -> None:
        """Defer."""
        del context
        self.defer(trigger=LookupTrigger(self.conn_id), method_name="go_on")

    def go_on(self, context: Context, event: dict[str, Any]) -> None:
        """Tell what the trigger got, and look up as well."""
        del context
        tell(**event, digest=digest_of(BaseHook.get_connection(self.conn_id).password))
