"""The plugin that Airflow loads in every process, tasks included. It imports the page at the first request."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from airflow.plugins_manager import AirflowPlugin
    from starlette.types import Receive, Scope, Send
else:
    # Airflow accepts the class of either module. One of them loads this plugin, and importing the other one is slow.
    _loader = sys.modules.get("airflow.sdk.plugins_manager") or import_module("airflow.plugins_manager")
    AirflowPlugin = _loader.AirflowPlugin

NAME: Final = "ecr-secrets-backend"


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request for the page."""
    from ecr_secrets_backend.ui.app import app

    await app(scope, receive, send)


class EcrConnectionsPlugin(AirflowPlugin):
    """Adds the page to the menu Admin, from Airflow 3.1 on."""

    name = NAME
    fastapi_apps: list[Any] = [{"name": "ECR connections", "app": serve, "url_prefix": f"/{NAME}"}]  # noqa: RUF012
    external_views: list[Any] = [  # noqa: RUF012 - Airflow declares both as lists
        {
            "name": "ECR connections",
            "href": f"{NAME}/",  # relative, because Airflow's UI may be below a path
            "url_route": "ecr-connections",
            "destination": "nav",
            "category": "admin",
        }
    ]
