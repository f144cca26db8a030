"""A registry, reached as Docker's engine does: by its proxy settings and certificates, over the Distribution API."""

from __future__ import annotations

import base64
import errno
import json
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
from ecr_secrets_backend.registry import Registry

if TYPE_CHECKING:
    from urllib3 import PoolManager
    from urllib3.util import Url


CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 15.0
LARGEST_ANSWER_BYTES: Final = 4 * 1024 * 1024  # ECR's own limit for a manifest; an image's configuration is smaller
_MOST_REDIRECTS: Final = 5
#: Where the engine reads the certificates of a registry's authority, beside the system's.
CERTIFICATES: Final = Path("/etc/docker/certs.d")
DENIED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)

_TUNNEL_REFUSED: Final = "Tunnel connection failed: "  # of http.client, before the proxy's answer
_NETWORK: Final = (
    "Allow this host TCP to {hop}: its route, firewall, security group and network ACL{group}. Or set HTTPS_PROXY."
)
_PROXY: Final = "Correct HTTPS_PROXY, or let this host reach {hop}. Hosts that need no proxy belong in NO_PROXY."
_NAMES: Final = "Give this host a network and a name server that knows {hop}{endpoints}."
#: How to fix each finding of :func:`_recognize`.
_FIXES: Final = {
    "proxy-refused": (
        "Allow {host} in the proxy, or add it to NO_PROXY. If the proxy requires a login, write its user name and"
        " password into HTTPS_PROXY, before the host and percent-encoded."
    ),
    "name-not-found": "Correct {setting}. " + _NAMES,
    "no-name-server": _NAMES,
    "port-closed": _NETWORK,
    "port-silent": _NETWORK,
    "no-network": _NETWORK,
    "tls-untrusted": (
        "Add the CA of the proxy that inspects TLS: for this check by SSL_CERT_FILE, for the Docker engine in"
        " /etc/docker/certs.d/{host}/ca.crt. Check also the clock of this host."
    ),
    "tls-broken": "Look for a proxy or firewall between this host and the registry that breaks TLS.{plain}",
    "registry-error": "Try again. If it lasts, look for a proxy or firewall between this host and the registry.",
}


class Answer(NamedTuple):
    """An HTTP answer, and the host that gave it: a registry redirects to the storage of its layers."""

    status: int
    content: bytes = b""
    host: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """The body's JSON object; an empty one if it is anything else."""
        try:
            value = json.loads(self.content)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def error(self) -> tuple[str, str]:
        """The code and message of the registry's first error."""
        match self.fields.get("errors"):
            case [{"code": str(code), "message": str(message)}, *_]:
                return code, message
            case _:
                return "", ""


class RegistryClient:
    """A client of one registry, with one login.

    :param host: as images name it: with a port if it has one
    :param login: user name and password
    """

    def __init__(self, host: str, login: tuple[str, str]) -> None:
        self.host = host
        self.name = host.partition(":")[0]
        self._authorization = f"Basic {base64.b64encode(':'.join(login).encode()).decode()}"

    def get(self, path: str, accept: tuple[str, ...] = ()) -> Answer:
        """Request a path, such as ``/v2/``, and follow redirects, to other hosts without the login.

        :raises CheckFailed: there is no answer
        """
        import urllib3

        # No content encoding: a small answer could become a large one.
        headers = {"Authorization": self._authorization, "Accept-Encoding": "identity", "Accept": ", ".join(accept)}
        retries = urllib3.Retry(connect=0, read=0, status=0, other=0, redirect=_MOST_REDIRECTS, raise_on_redirect=False)
        limits: Any = {"retries": retries, "timeout": urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)}
        url, proxy = f"https://{self.host}{path}", _find_proxy(self.host)
        try:
            with (
                suppress_library_logs(),
                self._open_pool(proxy) as pool,
                pool.request("GET", url, headers=headers, preload_content=False, **limits) as answer,
            ):
                content = answer.read(LARGEST_ANSWER_BYTES, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._explain(error, proxy) from None
        return Answer(answer.status, content, urllib3.util.parse_url(answer.url or url).netloc or self.host)

    def check_login(self) -> StepResult:
        """Check that the registry accepts the login."""
        answer = self.get("/v2/")
        if answer.host != self.host:
            fix = "Look for a proxy or a login page between this host and the registry."
            raise CheckFailed("registry-error", f"{self.host} redirects to {answer.host}", fix)
        if answer.status == HTTPStatus.OK:
            return StepResult(f"{self.host} accepts the token")
        if answer.status in DENIED:
            problem = f"{self.host} refuses the token: {answer.error[1] or answer.status}"
            fix = (
                "Remove it with ecr-secrets-backend clear, and try again. If the next one is refused as well, the"
                " identity is of another partition or region, or the policy of a VPC endpoint denies it."
            )
            raise CheckFailed("token-refused", problem, fix)
        raise reject(answer)

    def _open_pool(self, proxy: Url | None) -> PoolManager:
        import urllib3

        trust = ssl.create_default_context()
        with suppress(OSError):  # there is no such folder, or it is not readable for this user
            for certificate in sorted((CERTIFICATES / self.host).glob("*.crt")):
                with suppress(OSError):
                    trust.load_verify_locations(certificate)
        if proxy is None:
            return urllib3.PoolManager(ssl_context=trust)
        login = urllib3.make_headers(proxy_basic_auth=unquote(proxy.auth)) if proxy.auth else None
        url = proxy._replace(auth=None).url
        return urllib3.ProxyManager(url, proxy_headers=login, ssl_context=trust, proxy_ssl_context=trust)

    def _explain(self, error: Exception, proxy: Url | None) -> CheckFailed:
        """Return the finding for an exception, by the causes that urllib3 wraps."""
        found = list(causes(error))
        last = next(filter(None, map(str, reversed(found))), type(error).__name__)
        code, words = next(
            filter(None, map(_recognize, found)), ("registry-error", f"does not answer as expected: {last}")
        )
        pool: Any = next(filter(None, (getattr(cause, "pool", None) for cause in found)), None)
        asked = f"{pool.host}:{pool.port}" if pool else ""
        if asked and asked != f"{self.name}:{self.host.partition(':')[2] or 443}":
            return storage_failure(asked.removesuffix(":443"), words)
        registry, hop = Registry.find(self.host), f"the proxy {proxy.netloc}" if proxy else self.host
        endpoint = f"com.amazonaws.{registry.region}.ecr" if registry else ""
        part = "account and region" if registry else "host"
        fix = _PROXY if proxy and _FIXES[code] == _NETWORK else _FIXES[code]
        fix = fix.format(
            host=self.host,
            hop=hop,
            setting="HTTPS_PROXY" if proxy else f"the {part} of the registry in backend_kwargs",
            group=f", and the security group of the VPC endpoint {endpoint}.dkr" if registry else "",
            endpoints=f"; in a VPC, use the endpoints {endpoint}.api and {endpoint}.dkr"
            if registry and not proxy
            else "",
            plain=""
            if registry
            else " Docker's engine uses plain HTTP only for 127.0.0.0/8 and its insecure-registries.",
        )
        return CheckFailed(code, f"{self.host if code.startswith('tls-') else hop} {words}", fix)


def _recognize(cause: BaseException) -> tuple[str, str] | None:
    """Return the code of a finding for an exception, and what the host does, in words; None if it says neither."""
    words = str(cause)
    if words.startswith(_TUNNEL_REFUSED):  # without its reason, which may echo the proxy's login
        return "proxy-refused", f"refuses to connect to the registry: {words.removeprefix(_TUNNEL_REFUSED)[:3]}"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "tls-untrusted", f"has a certificate that is not trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return "tls-broken", f"does not complete TLS: {cause.reason or words}"
    if isinstance(cause, socket.gaierror):
        is_silent = cause.errno == socket.EAI_AGAIN
        return (
            ("no-name-server", "cannot be looked up: no name server answers")
            if is_silent
            else ("name-not-found", "has no address")
        )
    if isinstance(cause, TimeoutError):
        return "port-silent", "does not answer in time"
    codes = {errno.ECONNREFUSED: "port-closed", errno.ENETUNREACH: "no-network", errno.EHOSTUNREACH: "no-network"}
    code = codes.get(getattr(cause, "errno", None) or 0)
    return (code, f"cannot be connected to: {getattr(cause, 'strerror', words)}") if code else None


def reject(answer: Answer) -> CheckFailed:
    """Return the finding for an answer that has nothing to do with a login or permission."""
    problem = f"{answer.host} answers {answer.status} {answer.error[1]}".rstrip()
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        fix = "Spread the tasks, or request a higher quota. For public.ecr.aws, map a connection: a login has its own."
        return CheckFailed("rate-limited", problem, fix)
    fix = "Try again. If it lasts, check AWS's health for that region, and any proxy between."
    if answer.status == HTTPStatus.NOT_FOUND:
        fix = "Correct the host, or the proxy between: what answers is not this registry."
    return CheckFailed("registry-error", problem, fix)


def storage_failure(host: str, words: str) -> CheckFailed:
    """Return the finding for a host to which the registry redirects, as it does for layers."""
    fix = f"Allow this host TCP to {host}, and check any proxy that may have sent the redirect."
    if ".s3" in host or host.startswith("s3"):
        fix = "Allow this host to reach Amazon S3 in the registry's region: by a route, or a gateway endpoint for S3."
    return CheckFailed("storage-unreachable", f"the registry redirects to {host}, which {words}", fix)


def _find_proxy(host: str) -> Url | None:
    """Return the URL of the proxy that the environment sets for a registry; None if there is none."""
    url = getproxies().get("https")
    if not url or proxy_bypass(host):
        return None
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    with suppress(LocationParseError):
        proxy = parse_url(url if "://" in url else f"http://{url}")
        # With more after the port, a part of the password may be in the place of host or port.
        rest = (proxy.path or "").strip("/") or proxy.query or proxy.fragment
        if proxy.host and proxy.scheme in ("http", "https") and not rest:
            return proxy
    fix = "Write http://HOST:PORT, with the characters of a user name and password percent-encoded."
    raise CheckFailed("proxy-invalid", "HTTPS_PROXY is not the URL of a proxy for HTTP or HTTPS", fix)
