"""Check a registry through its Distribution API, with the proxy settings and certificates of Docker's engine."""

from __future__ import annotations

import errno
import json
import re
import socket
import ssl
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

from ecr_secrets_backend.cli.check.result import CheckFailed, StepResult, causes
from ecr_secrets_backend.cli.command import suppress_library_logs
from ecr_secrets_backend.cli.docker_config.file import encode_login

if TYPE_CHECKING:
    from urllib3 import PoolManager

CONNECT_TIMEOUT_SECONDS: Final = 5.0
READ_TIMEOUT_SECONDS: Final = 15.0
LARGEST_RESPONSE_BYTES: Final = 4 * 1024 * 1024  # ECR's own limit for a manifest; an image's configuration is smaller
_MAX_REDIRECTS: Final = 5
#: The engine also trusts a registry's CA certificates in this folder.
CERTIFICATES: Final = Path("/etc/docker/certs.d")
DENIED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

MIDDLEBOX_FIX: Final = "Look for a proxy, firewall or login page between this host and the registry."
_NAME_FIX: Final = (
    "Correct the registry in backend_kwargs, or the name server of this host. In a VPC, use ECR's endpoints."
)
_NETWORK_FIX: Final = (
    "Allow TCP from this host to {host}: check the route, firewall, security groups and network ACL; in a VPC, also the"
    " endpoints ecr.api and ecr.dkr. Or set HTTPS_PROXY."
)
_PROXY_FIX: Final = "Correct HTTPS_PROXY, or allow this host to reach that proxy. Add hosts that need none to NO_PROXY."
_REFUSING_PROXY_FIX: Final = (
    "Allow {host} in the proxy, or add it to NO_PROXY. If the proxy requires a login, write its user name and password"
    " into HTTPS_PROXY, before the host and percent-encoded."
)
_TRUST_FIX: Final = (
    "If a proxy inspects TLS, add its CA: for this check to the file of SSL_CERT_FILE, for the Docker engine to"
    " /etc/docker/certs.d/{host}/ca.crt. Check also the clock of this host."
)
_TLS_FIX: Final = f"{MIDDLEBOX_FIX} Docker uses plain HTTP only for 127.0.0.0/8 and insecure-registries."
#: The code, problem and fix for an exception, by its class or error number. The first that matches counts.
_FINDINGS: Final[tuple[tuple[type | int, str, str, str], ...]] = (
    (ssl.SSLCertVerificationError, "tls-untrusted", "has a certificate that is not trusted", _TRUST_FIX),
    (ssl.SSLError, "tls-broken", "does not complete TLS", _TLS_FIX),
    (socket.EAI_AGAIN, "no-name-server", "cannot be looked up: no name server answers", _NAME_FIX),
    (socket.gaierror, "name-not-found", "has no address", _NAME_FIX),
    (TimeoutError, "port-silent", "does not answer in time", _NETWORK_FIX),
    (errno.ECONNREFUSED, "port-closed", "cannot be connected to", _NETWORK_FIX),
    (errno.ENETUNREACH, "no-network", "cannot be connected to", _NETWORK_FIX),
    (errno.EHOSTUNREACH, "no-network", "cannot be connected to", _NETWORK_FIX),
)
_TUNNEL_REFUSED: Final = re.compile("Tunnel connection failed: (...)")  # of http.client, before the proxy's reason
#: If a password has a character that is not percent-encoded, a part of it would be read as host, port or path.
_PROXY_URL: Final = re.compile(
    r"(?:(?P<scheme>https?)://)?(?:(?P<login>[^/?#\s]+)@)?(?P<host>([\w.-]+|\[[\da-f:.]+])(:\d+)?)/?", re.IGNORECASE
)


class Response(NamedTuple):
    """An HTTP response, and the host that sent it: a registry redirects to the storage of its layers."""

    status: int
    content: bytes = b""
    host: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """Return the body's JSON object; an empty one if the body is anything else."""
        try:
            value = json.loads(self.content)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def error(self) -> tuple[str, str]:
        """Return the code and message of the registry's first error."""
        match self.fields.get("errors"):
            case [{"code": str(code), "message": str(message)}, *_]:
                return code, message
            case _:
                return "", ""

    def to_failure(self) -> CheckFailed:
        """Return the finding for an unexpected status."""
        problem = f"{self.host} answers {self.status} {self.error[1]}".rstrip()
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            fix = "Start fewer tasks at a time, or request a higher quota. For public.ecr.aws, map a connection."
            return CheckFailed("rate-limited", problem, fix)
        fix = f"Check the host and AWS's health, and try again. {MIDDLEBOX_FIX}"
        return CheckFailed("registry-error", problem, fix)


class RegistryClient:
    """A client of one registry, with a user name and password."""

    def __init__(self, host: str, login: tuple[str, str]) -> None:
        self.host = host
        self._authorization = f"Basic {encode_login(*login)}"

    def get(self, path: str, accept: tuple[str, ...] = ()) -> Response:
        """Request a path, such as ``/v2/``, and follow redirects, to other hosts without the login."""
        import urllib3

        # No content encoding: a small response could become a large one.
        headers = {"Authorization": self._authorization, "Accept-Encoding": "identity", "Accept": ", ".join(accept)}
        tries: dict[str, Any] = {"connect": 0, "read": 0, "other": 0, "redirect": _MAX_REDIRECTS}
        retries = urllib3.Retry(**tries, raise_on_redirect=False, respect_retry_after_header=False)
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=READ_TIMEOUT_SECONDS)
        url, proxy = f"https://{self.host}{path}", _find_proxy(self.host)
        try:
            with (
                suppress_library_logs(),
                _open_pool(self.host, proxy) as pool,
                pool.request(
                    "GET", url, headers=headers, preload_content=False, retries=retries, timeout=timeout
                ) as response,
            ):
                content = response.read(LARGEST_RESPONSE_BYTES, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _explain(error, self.host, proxy) from None
        return Response(response.status, content, urllib3.util.parse_url(response.url or url).netloc or self.host)

    def check_login(self) -> StepResult:
        """Check that the registry accepts the login."""
        response = self.get("/v2/")
        if response.host != self.host:
            raise CheckFailed("registry-error", f"{self.host} redirects to {response.host}", MIDDLEBOX_FIX)
        if response.status in DENIED:
            problem = f"{self.host} refuses the token: {response.error[1] or response.status}"
            fix = "Run ecr-secrets-backend clear. If a new token is also refused, check the policy of the VPC endpoint."
            raise CheckFailed("token-refused", problem, fix)
        if response.status != HTTPStatus.OK:
            raise response.to_failure()
        return StepResult(f"{self.host} accepts the token")


def _open_pool(host: str, proxy: re.Match[str] | None) -> PoolManager:
    import urllib3

    trust = ssl.create_default_context()
    with suppress(OSError):  # this user may not read the folder
        for certificate in (CERTIFICATES / host).glob("*.crt"):
            with suppress(OSError):  # this user may not read the file, or it has no certificate
                trust.load_verify_locations(certificate)
    if proxy is None:
        return urllib3.PoolManager(ssl_context=trust)
    login = urllib3.make_headers(proxy_basic_auth=unquote(proxy["login"])) if proxy["login"] else None
    url = f"{proxy['scheme'] or 'http'}://{proxy['host']}"
    return urllib3.ProxyManager(url, proxy_headers=login, ssl_context=trust, proxy_ssl_context=trust)


def _find_proxy(host: str) -> re.Match[str] | None:
    """Return the URL of the proxy that the environment sets for a registry; None if it sets none."""
    url = getproxies().get("https")
    if not url or proxy_bypass(host):
        return None
    if proxy := _PROXY_URL.fullmatch(url):
        return proxy
    fix = "Write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, with user name and password percent-encoded."
    raise CheckFailed("proxy-invalid", "HTTPS_PROXY is not the URL of a proxy for HTTP or HTTPS", fix)


def _explain(error: Exception, host: str, proxy: re.Match[str] | None) -> CheckFailed:
    """Return the finding for an exception of urllib3, from the first known cause in it."""
    found = list(causes(error))
    last = type(found[-1]).__name__
    if not (proxy and proxy["login"]):  # a proxy may repeat its login
        last = next(filter(None, map(str, reversed(found))), last)
    code, problem, fix = next(filter(None, map(_recognize, found)), ("registry-error", f"does not answer: {last}", ""))
    pool: Any = next(filter(None, (getattr(cause, "pool", None) for cause in found)), None)
    target = f"{pool.host}:{pool.port}".removesuffix(":443") if pool else host
    if target != host.removesuffix(":443"):
        return storage_failure(target, problem)
    peer = f"the proxy {proxy['host']}" if proxy and not code.startswith("tls-") else host
    fix = _PROXY_FIX if peer != host and fix in (_NAME_FIX, _NETWORK_FIX) else fix or f"Try again. {MIDDLEBOX_FIX}"
    return CheckFailed(code, f"{peer} {problem}", fix.format(host=host))


def _recognize(cause: BaseException) -> tuple[str, str, str] | None:
    if refusal := _TUNNEL_REFUSED.match(str(cause)):
        return "proxy-refused", f"refuses to connect to the registry: {refusal[1]}", _REFUSING_PROXY_FIX
    for kind, code, problem, fix in _FINDINGS:
        if isinstance(cause, kind) if isinstance(kind, type) else getattr(cause, "errno", None) == kind:
            return code, f"{problem}: {cause}", fix
    return None


def storage_failure(host: str, problem: str) -> CheckFailed:
    """Return the finding for a host to which the registry redirects a request, such as one for a layer."""
    fix = f"Allow TCP from this host to {host}; in a VPC, add a route or a gateway endpoint for S3."
    return CheckFailed("storage-unreachable", f"the registry redirects to {host}, which {problem}", fix)
