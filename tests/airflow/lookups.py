"""The work of the tasks in the DAG folder: look up a connection and write the result to a file."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from tests.airflow_version import BaseHook, BaseOperator, task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RESULTS = "ECR_TEST_RESULTS"  # the variable that names the folder
AIRFLOWS_OWN = "airflows_own"  # a connection that an environment variable holds


@task
def look_up(conn_id: str, times: int = 1) -> None:
    """Look up in this process and record the warnings, without those that Airflow's own lookups raise too."""
    _, of_airflow = look_up_and_warn(AIRFLOWS_OWN)
    rounds = [look_up_and_warn(conn_id) for _ in range(times)]
    warned = {warning for _, warnings_ in rounds for warning in warnings_}
    write_result(conn_id, [fields for fields, _ in rounds], warned - of_airflow)


def write_result(conn_id: str, connections: list[dict[str, str | None]], warned: set[str]) -> None:
    """Write the results of this process or trigger to a new file, which the tests read."""
    result = {"connections": connections, "warnings": sorted(warned)}
    Path(os.environ[RESULTS], f"{conn_id}-{uuid4().hex}.json").write_text(json.dumps(result))


def look_up_and_warn(conn_id: str) -> tuple[dict[str, str | None], set[str]]:
    gc.collect()  # the connections of Airflow's supervisor, of which this process is a fork
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        connection = BaseHook.get_connection(conn_id)  # as the hook of DockerOperator does
        gc.collect()  # what the lookup has left open
    return fields_of(connection), {f"{warning.category.__name__}: {warning.message}" for warning in warned}


def fields_of(connection: Any) -> dict[str, str | None]:
    fields = {name: getattr(connection, name) for name in ("conn_type", "host", "login", "password")}
    return {**fields, "class": f"{type(connection).__module__}.{type(connection).__name__}"}


class LookupTrigger(BaseTrigger):
    """Looks a connection up several times at once, on the event loop of the triggerer."""

    def __init__(self, conn_id: str, times: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.times = times

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments, from which the triggerer builds the trigger."""
        return f"{__name__}.{type(self).__name__}", {"conn_id": self.conn_id, "times": self.times}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look up as a hook in a trigger does: from 3.1 on with Airflow's asynchronous method."""
        look_up = getattr(BaseHook, "aget_connection", None) or sync_to_async(BaseHook.get_connection)
        lookups = (look_up(self.conn_id) for _ in range(self.times))
        found = await asyncio.gather(*lookups, return_exceptions=True)
        errors = {repr(error) for error in found if isinstance(error, BaseException)}
        write_result(self.conn_id, [] if errors else [fields_of(connection) for connection in found], errors)
        yield TriggerEvent({})  # type: ignore[no-untyped-call]


class DeferredLookup(BaseOperator):
    """Defers to a trigger, which looks up the connection."""

    def __init__(self, conn_id: str, times: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.conn_id = conn_id
        self.times = times

    def execute(self, context: Any) -> None:
        """Defer."""
        del context
        self.defer(trigger=LookupTrigger(self.conn_id, self.times), method_name="end")

    def end(self, context: Any, event: Any) -> None:
        """End when the trigger has fired."""
