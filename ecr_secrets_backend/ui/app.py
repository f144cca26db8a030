"""The page in Airflow's UI, its JSON, and the button *Check*: for those who may see Airflow's own connections."""

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

from ecr_secrets_backend.cli.check import ConnectionCheck, run_step
from ecr_secrets_backend.cli.check.engine import Engine
from ecr_secrets_backend.cli.command import on_server
from ecr_secrets_backend.cli.output import duration, iso_time
from ecr_secrets_backend.ui.overview import STATES, Sections

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from fastapi import Response

PAGE_ROWS: Final = 100
#: The check ends with it: the steps after it are about a Docker engine, which an API server does not use.
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
_sections: Final = cache(Sections.read)  # Airflow reads its configuration once, too
_checking: Final = threading.Lock()

app: Final = FastAPI(title="ECR connections", openapi_url=None)
MAY_LOOK: Final = Depends(requires_access_connection("GET"))
MAY_CHECK: Final = Depends(requires_access_connection("POST"))  # as Airflow's own test of a connection requires


@app.middleware("http")
async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Let no browser keep, frame or guess at what is answered."""
    response = await call_next(request)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


@app.get("/", dependencies=[MAY_LOOK])
def show_page(user: GetUserDep, q: str = "", state: str = "", page: Annotated[int, Query(ge=1)] = 1) -> HTMLResponse:
    """Show the connections whose ID, registry, region or identity has a text in it, a page at a time."""
    sections, rows = _sections(), _visible_rows(user)
    found = list(_filter(rows, q, state))
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
        sections=sections,
        q=q,
        state=state,
        page=page,
        pages=pages,
        link=lambda **changes: f"?{urlencode({'q': q, 'state': state, 'page': page, **changes})}",
        may_check=_allows_checks() and get_auth_manager().is_authorized_connection(method="POST", user=user),
        host=gethostname(),
        docs=_documentation(),
        now=iso_time(time.time()),
        nonce=nonce,
    )
    return HTMLResponse(content, headers={"Content-Security-Policy": _PAGE_POLICY.format(nonce)})


@app.get("/api/connections", dependencies=[MAY_LOOK])
def list_connections(user: GetUserDep, q: str = "", state: str = "") -> JSONResponse:
    """Return the same for programs, all pages at once."""
    sections = _sections()
    return JSONResponse(
        {
            "host": gethostname(),
            "problems": list(sections.problems),
            "other_backends": list(sections.other_backends),
            "connections": list(_filter(_visible_rows(user), q, state)),
        }
    )


@app.post("/api/connections/{connection_id:path}/check", dependencies=[MAY_LOOK, MAY_CHECK])
def check(connection_id: str, request: Request, section: str = "secrets") -> JSONResponse:
    """Run the steps of ``check`` up to the registry's login, one connection at a time."""
    if not _is_same_origin(request):
        raise HTTPException(status.HTTP_403_FORBIDDEN, "The request comes from another site.")
    if not _allows_checks():
        raise HTTPException(status.HTTP_403_FORBIDDEN, "[core] test_connection is not Enabled.")
    configured = _sections().configured.get(section)
    mapped = configured.settings.connections.get(connection_id) if configured else None
    if configured is None or mapped is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "The backend does not map this connection.")
    if not _checking.acquire(blocking=False):
        raise HTTPException(status.HTTP_409_CONFLICT, "Another check is running. Try again when it has ended.")
    try:
        tokens: list[str] = []
        findings = []
        with on_server():
            for name, step in ConnectionCheck(configured, mapped, None, Engine(), tokens).steps():
                findings += run_step(tokens, connection_id, name, step)
                if name == LAST_STEP or findings[-1].result.state == "failed":
                    break
    finally:
        _checking.release()
    is_ok = all(finding.result.state != "failed" for finding in findings)
    return JSONResponse({"ok": is_ok, "findings": [{"sources": [], **finding.to_json()} for finding in findings]})


def _visible_rows(user: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - of the auth manager's class
    """Return the rows that Airflow would let a user see, as connections of no team."""
    rows = _sections().look()
    # Before Airflow 3.2, it is all or none.
    choose = getattr(get_auth_manager(), "filter_authorized_connections", None)
    if choose is None:
        return rows
    visible = choose(conn_ids={row["conn_id"] for row in rows}, user=user, method="GET")
    return [row for row in rows if row["conn_id"] in visible]


def _filter(rows: list[dict[str, Any]], text: str, state: str) -> Iterator[dict[str, Any]]:
    wanted = text.strip().casefold()
    for row in rows:
        words = (row["conn_id"], row["registry"], row["region"], row["identity"])
        if state in ("", row["state"]) and any(wanted in (word or "").casefold() for word in words):
            yield row


def _allows_checks() -> bool:
    return bool(conf.get("core", "test_connection", fallback="Disabled").strip().lower() == "enabled")


def _is_same_origin(request: Request) -> bool:
    """Return whether no other site's page sent a request. What is not a browser sends neither header."""
    if site := request.headers.get("Sec-Fetch-Site"):
        return site == "same-origin"
    origin = request.headers.get("Origin")
    # Behind a proxy the host may be another, and Airflow knows its own URL.
    own = {request.headers.get("Host"), urlsplit(conf.get("api", "base_url", fallback="")).netloc}
    return origin is None or urlsplit(origin).netloc in own - {""}


@cache
def _documentation() -> str | None:
    """Return where the package's metadata says that its documentation is."""
    urls = metadata("airflow-ecr-secrets-backend").get_all("Project-URL") or []
    return next((url.partition(", ")[2] for url in urls if url.startswith("Documentation, ")), None)
