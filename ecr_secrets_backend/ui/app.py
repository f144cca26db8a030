"""The page in Airflow's UI, its JSON, and the button *Check*. Airflow decides which connections a user may see."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from functools import cache
from importlib.metadata import metadata
from importlib.resources import files
from socket import gethostname
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlencode, urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_connection
from airflow.configuration import conf
from fastapi import Depends, FastAPI, HTTPException, Query, Request, status
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, StrictUndefined

from ecr_secrets_backend.cli.check import connection_steps, run_step
from ecr_secrets_backend.cli.check.engine import Engine
from ecr_secrets_backend.cli.command import keeps_library_logs
from ecr_secrets_backend.cli.output import duration, iso_time
from ecr_secrets_backend.ui.overview import STATES, Overview

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import Response

PAGE_ROWS: Final = 100
#: The last step of a check. The next steps need a Docker engine, which an API server does not use.
LAST_STEP: Final = "registry: login"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}
_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'self'"
)
_environment: Final = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_environment.filters["duration"] = duration
_template: Final = _environment.from_string(files(__package__).joinpath("page.html").read_text("utf-8"))
_read_overview: Final = cache(Overview.read)  # Airflow reads its configuration once, too
_check_lock: Final = threading.Lock()

app: Final = FastAPI(title="ECR connections", openapi_url=None)
CAN_READ: Final = Depends(requires_access_connection("GET"))
CAN_TEST: Final = Depends(requires_access_connection("POST"))  # what Airflow requires to test a connection


@app.middleware("http")
async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Forbid browsers to store the response, to frame it on other sites and to guess its type."""
    response = await call_next(request)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


@app.get("/", dependencies=[CAN_READ])
def show_page(user: GetUserDep, q: str = "", state: str = "", page: Annotated[int, Query(ge=1)] = 1) -> HTMLResponse:
    """Show the connections with a text in their ID, registry, region or identity, in pages."""
    rows = _authorized_rows(user)
    found = _filter(rows, q, state)
    pages = max(1, -(-len(found) // PAGE_ROWS))
    page = min(page, pages)
    nonce = secrets.token_urlsafe(16)
    content = _template.render(
        rows=found[(page - 1) * PAGE_ROWS : page * PAGE_ROWS],
        total=len(rows),
        found=len(found),
        counts=Counter(row["state"] for row in rows),
        failing=sum(row["failure"] is not None for row in rows),
        states=STATES,
        overview=_read_overview(),
        q=q,
        state=state,
        page=page,
        pages=pages,
        link=lambda **changes: f"?{urlencode({'q': q, 'state': state, 'page': page, **changes})}",
        can_check=_allows_checks() and get_auth_manager().is_authorized_connection(method="POST", user=user),
        host=gethostname(),
        docs=_find_documentation(),
        now=iso_time(time.time()),
        nonce=nonce,
    )
    return HTMLResponse(content, headers={"Content-Security-Policy": _PAGE_POLICY.format(nonce)})


@app.get("/api/connections", dependencies=[CAN_READ])
def list_connections(user: GetUserDep, q: str = "", state: str = "") -> JSONResponse:
    """Return the connections of all pages as JSON."""
    overview = _read_overview()
    return JSONResponse(
        {
            "host": gethostname(),
            "problems": overview.problems,
            "other_backends": overview.other_backends,
            "connections": _filter(_authorized_rows(user), q, state),
        }
    )


@app.post("/api/connections/{connection_id:path}/check", dependencies=[CAN_READ, CAN_TEST])
def check(connection_id: str, request: Request, section: str = "secrets") -> JSONResponse:
    """Run the steps of ``check`` up to the registry's login, for one connection at a time."""
    if not _is_same_origin(request):
        raise HTTPException(status.HTTP_403_FORBIDDEN, "Another site sent this request. Start the check on this page.")
    if not _allows_checks():
        fix = "Set [core] test_connection = Enabled."
        raise HTTPException(status.HTTP_403_FORBIDDEN, f"Airflow does not allow tests of connections. {fix}")
    config = _read_overview().configurations.get(section)
    mapped = config.settings.connections.get(connection_id) if config else None
    if config is None or mapped is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"Connection {connection_id!r} is not mapped in [{section}].")
    if not _check_lock.acquire(blocking=False):
        raise HTTPException(status.HTTP_409_CONFLICT, "Another check is running. Try again when it has ended.")
    try:
        keeps_library_logs.set(True)  # in the context of this request
        tokens: list[str] = []
        findings = []
        for name, step in connection_steps(config, mapped, None, Engine(), tokens):
            findings += run_step(tokens, connection_id, name, step)
            if name == LAST_STEP or findings[-1].state == "failed":
                break
    finally:
        _check_lock.release()
    is_ok = all(finding.state != "failed" for finding in findings)
    return JSONResponse({"ok": is_ok, "findings": [{"sources": [], **finding.to_json()} for finding in findings]})


def _authorized_rows(user: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - of the auth manager's class
    """Return the rows of the connections that Airflow lets a user see, as connections of no team."""
    rows = _read_overview().rows()
    # Before Airflow 3.2, a user may see all connections or none.
    filter_ids = getattr(get_auth_manager(), "filter_authorized_connections", None)
    if filter_ids is None:
        return rows
    authorized = filter_ids(conn_ids={row["conn_id"] for row in rows}, user=user, method="GET")
    return [row for row in rows if row["conn_id"] in authorized]


def _filter(rows: list[dict[str, Any]], text: str, state: str) -> list[dict[str, Any]]:
    text = text.strip().casefold()
    fields = ("conn_id", "registry", "region", "identity")
    return [
        row
        for row in rows
        if state in ("", row["state"]) and any(text in (row[field] or "").casefold() for field in fields)
    ]


def _allows_checks() -> bool:
    return bool(conf.get("core", "test_connection", fallback="Disabled").strip().lower() == "enabled")


def _is_same_origin(request: Request) -> bool:
    """Return whether this page sent a request, or a client that is not a browser: it sends neither header."""
    if site := request.headers.get("Sec-Fetch-Site"):
        return site == "same-origin"
    origin = request.headers.get("Origin")
    # A proxy may change the host. Airflow knows its own URL.
    own = {request.headers.get("Host"), urlsplit(conf.get("api", "base_url", fallback="")).netloc}
    return origin is None or urlsplit(origin).netloc in own - {""}


@cache
def _find_documentation() -> str | None:
    """Return the URL of the documentation from the package's metadata."""
    urls = metadata("airflow-ecr-secrets-backend").get_all("Project-URL") or []
    return next((url.partition(", ")[2] for url in urls if url.startswith("Documentation, ")), None)
