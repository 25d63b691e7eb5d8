"""Where a request's media may come from: the request itself, and, where that is allowed, one folder or public servers.

A request is never a reason to read another file, or to reach an address of this machine or of its networks.
"""

from __future__ import annotations

import dataclasses
import http.client
import ipaddress
import socket
import ssl
import time
import urllib.parse

from pixel_reasoner_jax.errors import UserError
from pixel_reasoner_jax.processing.items import media_source
from pixel_reasoner_jax.processing.sources import MediaError, media_settings, open_media
from pixel_reasoner_jax.serve.errors import ApiError, refused

PORTS = {"http": 80, "https": 443}
_TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
_BLOCK = 2**16


@dataclasses.dataclass(frozen=True)
class MediaSources:
    """What may be read for a request.

    Attributes:
      allow_files: paths within `MediaSettings.root`, which must be set.
      allow_urls: http and https addresses of public servers.
      most_bytes: of a file.
      seconds: in which a download must end.
    """

    allow_files: bool = False
    allow_urls: bool = False
    most_bytes: int = 32 * 2**20
    seconds: float = 20.0

    def read(self, url: str) -> bytes:
        """The bytes of the medium that a request names.

        Raises:
          ApiError: it may not be read, or cannot.
        """
        scheme = url[:8].lower()
        try:
            if scheme.startswith("data:"):
                return media_source(url)
            if scheme.startswith(("http://", "https://")):
                if not self.allow_urls:
                    raise refused("this server downloads nothing: send the medium as a data: URL", "messages")
                return self._download(url)
            if "://" in url and not scheme.startswith("file://"):
                raise refused("media are data: URLs", "messages")
            if not self.allow_files or media_settings().root is None:
                raise refused("this server reads no files: send the medium as a data: URL", "messages")
            return self._read_file(url.removeprefix("file://"))
        except MediaError as error:
            raise refused(str(error), "messages") from None

    def _read_file(self, path: str) -> bytes:
        try:
            with open_media(path) as file:
                data = file.read(self.most_bytes + 1)
        except (UserError, OSError, ValueError):  # which files there are is not told
            raise refused("there is no such file in the folder that media are read from", "messages") from None
        return self._bounded(data)

    def _bounded(self, data: bytes) -> bytes:
        if len(data) > self.most_bytes:
            raise ApiError(413, f"a medium has more than {self.most_bytes:,} bytes", "messages")
        return data

    def _download(self, url: str) -> bytes:
        """Downloads from a public address, in one step: a redirect could lead elsewhere."""
        end = time.monotonic() + self.seconds
        try:
            parts = urllib.parse.urlsplit(url)
            host, port = parts.hostname, parts.port or PORTS[parts.scheme.lower()]
            if not host or port != PORTS[parts.scheme.lower()] or parts.username or parts.password:
                raise refused("a URL of a medium has a host, no user and the usual port", "messages")
            address = public_address(host, port)
            target = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
            target += f"?{urllib.parse.quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else ""
            connection = _Pinned(host, address, port, parts.scheme.lower() == "https", self.seconds)
            try:
                connection.request("GET", target, headers={"Accept-Encoding": "identity"})
                response = connection.getresponse()
                if response.status != 200:
                    moved = ": redirects are not followed" if 300 <= response.status < 400 else ""
                    raise refused(f"a URL of a medium was answered with {response.status}{moved}", "messages")
                data = b""
                while piece := response.read1(_BLOCK):
                    data += piece
                    self._bounded(data)
                    if time.monotonic() > end:
                        raise TimeoutError
                return data
            finally:
                connection.close()
        except (OSError, ValueError, http.client.HTTPException):
            raise refused("a URL of a medium could not be read", "messages") from None


def public_address(host: str, port: int) -> str:
    """The address of a host, all of whose addresses are public.

    Raises:
      ApiError: one of them is this machine's or a private network's.
      OSError, ValueError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [entry[4][0] for entry in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise refused("a URL of a medium leads to an address that is not public", "messages")
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public network, and stands for no other one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if any(ip in network for network in _TRANSLATED):
            return False
        if ip.ipv4_mapped or ip.sixtofour or ip.teredo:
            return False
    special = ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback or ip.is_link_local
    return ip.is_global and not special


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that was checked, whatever the name means by now."""

    def __init__(self, host: str, address: str, port: int, secure: bool, seconds: float):
        super().__init__(host, port, timeout=seconds)
        self._address, self._secure = address, secure
        self.default_port = port  # so that `Host` has no port

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
