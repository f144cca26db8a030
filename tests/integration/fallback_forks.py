"""A process that looks up by other backends, forks, and has threads: ``python -m tests.integration.fallback_forks``."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

from airflow.sdk import Connection

from ecr_secrets_backend import EcrSecretsBackend
from tests.integration import programs

CHILDREN = 3
THREADS = 8


def main() -> None:
    order = programs.order()
    backend = EcrSecretsBackend(**order["kwargs"])
    backend._set_connection_class(Connection)

    def look_up() -> list[str]:
        return [backend.get_connection(conn_id).host for conn_id in order["conn_ids"]]

    def look_up_in_a_child() -> list[str]:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, json.dumps(look_up()).encode())
            os._exit(0)  # without the tidy exit of the libraries
        os.close(writer)
        with os.fdopen(reader) as answer:
            return list(json.load(answer))

    found = [look_up()]  # so that the backends have their clients and open connections when the children are forked
    for _ in range(CHILDREN):
        found += [look_up_in_a_child(), look_up()]
    with ThreadPoolExecutor(THREADS) as threads:
        found += threads.map(lambda _: look_up(), range(THREADS))
    programs.report(found)


if __name__ == "__main__":
    main()
