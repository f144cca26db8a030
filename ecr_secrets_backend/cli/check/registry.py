"""A registry as Docker's engine meets it: a name, a port, TLS, and the Distribution API behind a login."""

from __future__ import annotations

import base64
import json
import socket
import ssl
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from ecr_secrets_backend.bounded import within
from ecr_secrets_backend.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

PORT: Final = 443
PROXY_PORT: Final = 80  # of a proxy's URL that names none
NAME_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 15.0
LONGEST_WORDS: Final = 600  # characters of what a registry or an engine says of an error
LARGEST_ANSWER_BYTES: Final = 4 * 1024 * 1024  # ECR's own bound for a manifest; an image's configuration is smaller

#: Where the engine looks for the certificates of a registry's authority, beside the system's.
CERTIFICATES: Final = Path("/etc/docker/certs.d")

INDEX_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


@dataclass(frozen=True)
class Answer:
    """One HTTP answer.

    :param location: where it redirects to
    """

    status: int
    content: bytes
    location: str | None

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON value
        """Its body as JSON; an empty object if it is none."""
        try:
            return json.loads(self.content)
        except ValueError:
            return {}

    @property
    def error(self) -> tuple[str, str]:
        """The code and the message of the error that the registry tells."""
        try:
            (error, *_) = self.json["errors"]
            return str(error.get("code", "")), one_line(str(error.get("message", "")), LONGEST_WORDS)
        except (TypeError, KeyError, ValueError, AttributeError):
            return "", ""


class RegistryClient:
    """A client that goes the engine's way, one part after the other.

    :param host: the registry, as images name it: with a port if it has one
    """

    def __init__(self, host: str) -> None:
        self.host = host
        name, _, port = host.partition(":")
        self._address = name, int(port or PORT)
        self.proxy = _proxy_for(name)

    @property
    def port(self) -> int:
        """The registry's port."""
        return self._address[1]

    @property
    def first_hop(self) -> tuple[str, int]:
        """The host and port that this process itself connects to: the registry's, or its proxy's."""
        if self.proxy is None:
            return self._address
        return self.proxy.hostname or "", self.proxy.port or PROXY_PORT

    @property
    def way(self) -> str:
        """The first hop in words, without a proxy's own login."""
        name, port = self.first_hop
        return f"{name}:{port}" if self.proxy is None else f"the proxy {name}:{port}"

    def resolve(self) -> list[str]:
        """Look up the addresses of the first hop.

        :raises OSError: there are none
        """
        name, port = self.first_hop
        found = within(NAME_SECONDS, lambda: socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
        return sorted({str(address[0]) for *_, address in found})

    def connect(self) -> None:
        """Open a connection to the first hop, and close it.

        :raises OSError: nobody answers there
        """
        socket.create_connection(self.first_hop, CONNECT_SECONDS).close()

    def handshake(self) -> str:
        """Begin TLS with the registry.

        :return: TLS's version
        :raises OSError: it cannot be begun; :class:`ssl.SSLCertVerificationError`: the certificate is not trusted
        """
        with closing(self._connection(*self._address)) as connection:
            connection.connect()
            encrypted: ssl.SSLSocket = connection.sock
            return encrypted.version() or "TLS"

    def get(self, path: str, login: tuple[str, str], accept: tuple[str, ...] = ()) -> Answer:
        """Ask the registry.

        :param path: such as ``/v2/``
        :param login: user name and password
        :raises OSError: there is no answer
        """
        user = base64.b64encode(":".join(login).encode()).decode()
        headers = {"Authorization": f"Basic {user}", **({"Accept": ", ".join(accept)} if accept else {})}
        return _ask(self._connection(*self._address), path, headers)

    def follow(self, location: str) -> Answer:
        """Get what the registry has redirected to, without the login: the storage of its layers.

        :raises OSError: there is no answer
        """
        url = urlsplit(location)
        connection = self._connection(url.hostname or "", url.port or PORT)
        return _ask(connection, f"{url.path}?{url.query}" if url.query else url.path, {})

    def _connection(self, host: str, port: int) -> HTTPSConnection:
        trust = ssl.create_default_context()
        for certificate in _certificates(self.host):
            with suppress(OSError):  # not ours to read, or none
                trust.load_verify_locations(certificate)
        if self.proxy is None:
            return HTTPSConnection(host, port, timeout=ANSWER_SECONDS, context=trust)
        name, proxy_port = self.first_hop
        connection = HTTPSConnection(name, proxy_port, timeout=ANSWER_SECONDS, context=trust)
        connection.set_tunnel(host, port, _proxy_headers(self.proxy))
        return connection


def _ask(connection: HTTPConnection, path: str, headers: Mapping[str, str]) -> Answer:
    with closing(connection):
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        return Answer(response.status, response.read(LARGEST_ANSWER_BYTES), response.headers.get("Location"))


def _certificates(host: str) -> list[Path]:
    try:
        return sorted((CERTIFICATES / host).glob("*.crt"))
    except OSError:
        return []


def _proxy_for(host: str) -> SplitResult | None:
    url = getproxies().get("https")
    if not url or proxy_bypass(host):
        return None
    return urlsplit(url if "://" in url else f"http://{url}")


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
