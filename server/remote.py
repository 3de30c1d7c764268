"""An ``https:`` image URL of a host that the operator named → its bytes, under limits.

A URL is parsed once, and what was parsed is what is fetched. The address that a name resolves to
is checked where it is dialled (httpx-secure), so that no second look-up can point elsewhere. No
redirect is followed, no cookie kept, no proxy of the environment asked, no encoding undone:
nothing but the bytes of one file comes back. What the host says about them (type, length) is not
believed; decoding finds out.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Address, IPv6Address

import httpx
from httpx_secure import httpx_ssrf_protection

from server.images import ImageError, ImageFault

HTTPS = 443
MAX_URL = 8192
MAX_CONNECTIONS = 64
HEADERS = {"Accept": "image/jpeg, image/png, image/webp, image/gif", "Accept-Encoding": "identity"}

Protect = Callable[[httpx.AsyncClient], httpx.AsyncClient]


def is_remote(url: str) -> bool:
    """True for what would have to be fetched; everything else is for ``read_data_url``."""
    return url[:6].lower() == "https:"


def may_dial(host: str, address: IPv4Address | IPv6Address, port: int) -> bool:
    """False for what ``is_global`` lets pass although it may lead inside.

    Addresses that carry another one in them (6to4, Teredo, v4-mapped), and groups.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return may_dial(host, address.ipv4_mapped, port)
        if address.sixtofour is not None or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


def protect(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Let ``client`` connect to public addresses only."""
    return httpx_ssrf_protection(client, custom_validator=may_dial)


class Budget:
    """Bytes that one request may still fetch, over all of its images."""

    def __init__(self, total: int, each: int) -> None:
        self._left = total
        self.each = each

    def take(self, size: int) -> None:
        """Count bytes that arrived. Raises ImageError."""
        self._left -= size
        if self._left < 0:
            raise _too_large("the images of this request have too many bytes")


class RemoteImages:
    """Fetches from ``hosts``: ``name``, ``name:port`` or ``*.name``. One client, made when needed.

    ``verify`` and ``protect`` are there for tests, whose hosts are neither public nor certified.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        timeout_s: float,
        verify: ssl.SSLContext | bool = True,
        protect: Protect = protect,
    ) -> None:
        self._hosts = frozenset(_with_port(host.lower()) for host in hosts)
        self._timeout_s = timeout_s
        self._verify = verify
        self._protect = protect
        self._client: httpx.AsyncClient | None = None

    async def fetch(self, url: str, budget: Budget) -> bytes:
        """The file behind ``url``. Raises ImageError, in time."""
        parsed = self.parse(url)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._download(parsed, budget)
        except TimeoutError:
            reason = f"the image did not arrive within {self._timeout_s:g} seconds"
        except (httpx.HTTPError, httpx.StreamError, OSError, ValueError):
            reason = "the image could not be fetched from its host"
        raise ImageError(ImageFault.FETCH, reason)

    def parse(self, url: str) -> httpx.URL:
        """``url``, if it is one that may be fetched. Raises ImageError."""
        if not self._hosts:
            raise _refused("remote images are off until the operator names hosts; send a data: URL")
        if len(url) > MAX_URL or "\\" in url or not url.isascii() or not url.isprintable():
            raise _refused("must be a plain https: URL in ASCII")
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            raise _refused("is not a URL") from None
        if parsed.scheme != "https" or parsed.userinfo:
            raise _refused("must be an https: URL without user and password")
        if not self._named(parsed.raw_host.decode("ascii"), parsed.port or HTTPS):
            raise _refused("its host is not among those that the operator named")
        return parsed

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    def _named(self, host: str, port: int) -> bool:
        parents = host.split(".")[1:]
        names = [host, *(f"*.{'.'.join(parents[at:])}" for at in range(len(parents)))]
        return any((name, port) in self._hosts for name in names)

    async def _download(self, url: httpx.URL, budget: Budget) -> bytes:
        chunks: list[bytes] = []
        size = 0
        async with self._opened().stream("GET", url) as response:
            if response.status_code != 200:
                reason = f"the image's host answered with status {response.status_code}"
                raise ImageError(ImageFault.FETCH, reason)
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise ImageError(ImageFault.FETCH, "the image's host sent it compressed")
            async for chunk in response.aiter_raw():
                size += len(chunk)
                if size > budget.each:
                    raise _too_large(f"the image file is larger than {budget.each} bytes")
                budget.take(len(chunk))
                chunks.append(chunk)
        return b"".join(chunks)

    def _opened(self) -> httpx.AsyncClient:
        """The client: of this event loop, so not made before it is needed."""
        if self._client is None:
            client = httpx.AsyncClient(
                headers=HEADERS,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                verify=self._verify,
                follow_redirects=False,
                trust_env=False,
                timeout=self._timeout_s,
                limits=httpx.Limits(max_connections=MAX_CONNECTIONS),
            )
            self._client = self._protect(client)
        return self._client


def _with_port(host: str) -> tuple[str, int]:
    name, _, port = host.partition(":")
    return name, int(port or HTTPS)


def _refused(reason: str) -> ImageError:
    return ImageError(ImageFault.URL, reason)


def _too_large(reason: str) -> ImageError:
    return ImageError(ImageFault.TOO_MANY_BYTES, reason)
