"""Images by URL: named hosts only, public addresses only, and never more than was allowed."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from ipaddress import ip_address
from typing import Any

import pytest
from PIL import Image

from server import preprocess
from server.images import ImageError, ImageFault
from server.remote import Budget, RemoteImages, may_dial
from tests.server.conftest import Connect
from tests.server.examples import CHAT, encoded, with_images
from tests.server.fake_engine import FakeEngine
from tests.server.image_host import ImageHost, answer, anywhere, dripping, image_host

pytestmark = pytest.mark.anyio

PICTURE = encoded(Image.new("RGB", (8, 6), "red"))


async def refusal(remote: RemoteImages, url: str, most: int = 10**6) -> ImageError:
    with pytest.raises(ImageError) as caught:
        await remote.fetch(url, Budget(2 * most, most))
    await remote.close()
    return caught.value


async def test_a_picture_of_a_named_host_is_fetched_whatever_it_is_called() -> None:
    async with image_host(a=answer(PICTURE, content_type="text/html")) as host:
        remote = host.client()
        assert await remote.fetch(host.url(), Budget(10**6, 10**6)) == PICTURE
        await remote.close()
    [head] = host.asked
    assert "accept-encoding: identity" in head.lower()


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/a.png",
        "https://good.example.evil.example/a.png",
        "https://evilgood.example/a.png",
        "https://good.example@evil.example/a.png",
        "https://good.example:443@evil.example/a.png",
        "https://user:pass@good.example/a.png",
        "https://evil.example#@good.example/a.png",
        "https://evil.example?@good.example/a.png",
        "https://evil.example\\@good.example/a.png",
        "https://good.example\\.evil.example/a.png",
        "https://good.example:8443/a.png",
        "https://good.example./a.png",
        "https://good\u3002example/a.png",
        "https://g\u043eod.example/a.png",
        "https://good.example/a\npng",
        "https://good.example/a b\x00",
        "https://good.example:99999/a.png",
        "https://[::1]/a.png",
        "https://0x7f000001/a.png",
        "https:///a.png",
        "https:good.example",
        "https://good.example/" + "a" * 9000,
    ],
)
async def test_two_parsers_cannot_disagree_about_the_host(url: str) -> None:
    """CVE-2026-24779: one parser saw an allowed host, another connected elsewhere."""
    remote = RemoteImages(["good.example"], 1.0)
    assert (await refusal(remote, url)).fault is ImageFault.URL


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("HTTPS://Good.Example/a.png", True),
        ("https://good.example:443/a.png#part", True),
        ("https://cdn.pictures.example:8443/x", True),
        ("https://a.b.pictures.example:8443/x", True),
        ("https://pictures.example:8443/x", False),
        ("https://cdn.pictures.example/x", False),
    ],
)
def test_hosts_are_named_whole_or_by_their_parent(url: str, named: bool) -> None:
    remote = RemoteImages(["good.example", "*.pictures.example:8443"], 1.0)
    if named:
        assert remote.parse(url).scheme == "https"
    else:
        with pytest.raises(ImageError, match="not among those"):
            remote.parse(url)


INSIDE = """127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1
::1 :: fe80::1 fc00::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 2002:7f00:1:: 2001:0:a::1
255.255.255.255 198.18.0.1""".split()


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_that_leads_inside_is_not_dialled(address: str) -> None:
    assert not may_dial("good.example", ip_address(address), 443)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_a_public_address_is_dialled(address: str) -> None:
    assert may_dial("good.example", ip_address(address), 443)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "169.254.169.254", "10.0.0.1", "0x7f000001", "2130706433"]
)
async def test_a_named_host_inside_is_refused_all_the_same(host: str) -> None:
    async with image_host(a=answer(PICTURE)) as inside:
        named = f"{host}:{inside.port}"
        remote = RemoteImages([named], 2.0, verify=inside.trusted)
        assert (await refusal(remote, f"https://{named}/a.png")).fault is ImageFault.FETCH
    assert inside.asked == []


async def test_a_name_is_judged_by_the_address_that_is_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rebinding: a public name that resolves to a private address."""
    async with image_host(a=answer(PICTURE)) as inside:
        inward = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", inside.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: inward)
        named = f"pictures.example:{inside.port}"
        remote = RemoteImages([named], 2.0, verify=inside.trusted)
        assert (await refusal(remote, f"https://{named}/a.png")).fault is ImageFault.FETCH
    assert inside.asked == []


async def test_redirects_are_not_followed() -> None:
    async with image_host(b=answer(PICTURE)) as host:
        away = answer(b"", 302, location=host.url("/b.png"))
        host.scripts = {**host.scripts, "/a.png": away}
        error = await refusal(host.client(), host.url())
    assert error.message == "the image's host answered with status 302"
    assert len(host.asked) == 1


async def test_cookies_of_one_fetch_are_not_sent_with_the_next() -> None:
    async with image_host(a=answer(PICTURE, set_cookie="who=alice; Path=/")) as host:
        remote = host.client()
        for _ in range(2):
            await remote.fetch(host.url(), Budget(10**6, 10**6))
        await remote.close()
    assert len(host.asked) == 2
    assert "cookie" not in "".join(host.asked).lower()


@pytest.mark.parametrize("declared", [False, True])
async def test_a_download_without_end_is_cut_at_the_cap(declared: bool) -> None:
    """CVE-2026-0599: a host that never stops sending filled the memory."""
    head = b"HTTP/1.1 200 X\r\n" + b"Content-Length: 99999999999\r\n" * declared + b"\r\n"
    async with image_host(a=dripping(b"x" * 65536, 0, head)) as host:
        error = await refusal(host.client(), host.url(), most=200_000)
    assert error.fault is ImageFault.TOO_MANY_BYTES


async def test_the_cap_also_holds_over_all_images_of_a_request() -> None:
    async with image_host(a=answer(b"x" * 900), b=answer(b"y" * 900)) as host:
        remote, budget = host.client(), Budget(1000, 1000)
        await remote.fetch(host.url(), budget)
        with pytest.raises(ImageError, match="too many bytes"):
            await remote.fetch(host.url("/b.png"), budget)
        await remote.close()


async def test_a_slow_drip_ends_at_the_deadline() -> None:
    async with image_host(a=dripping(b"x", 0.02)) as host:
        began = asyncio.get_running_loop().time()
        error = await refusal(host.client(timeout_s=0.3), host.url())
        took = asyncio.get_running_loop().time() - began
    assert error.fault is ImageFault.FETCH
    assert "within 0.3 seconds" in error.message
    assert took < 5


@pytest.mark.parametrize(
    "script",
    [
        answer(PICTURE, 404),
        answer(PICTURE, 500),
        answer(b"\x1f\x8b", content_encoding="gzip"),
        answer(b"", content_length="5"),
        answer(PICTURE, content_length="no number"),
    ],
    ids=["404", "500", "compressed", "cut short", "no http"],
)
async def test_whatever_else_a_host_answers_is_the_images_fault(script: Any) -> None:
    async with image_host(a=script) as host:
        error = await refusal(host.client(), host.url())
    assert error.fault is ImageFault.FETCH


async def test_a_host_must_prove_its_name() -> None:
    async with image_host(a=answer(PICTURE)) as host:
        remote = RemoteImages([f"localhost:{host.port}"], 2.0, protect=anywhere)
        assert (await refusal(remote, host.url())).fault is ImageFault.FETCH
    assert host.asked == []


def patched(monkeypatch: pytest.MonkeyPatch, host: ImageHost) -> None:
    """Let the app's own fetching reach the loopback host."""
    loosened = partial(RemoteImages, verify=host.trusted, protect=anywhere)
    monkeypatch.setattr(preprocess, "RemoteImages", loosened)


async def test_a_request_shows_a_picture_by_its_url(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    async with image_host(a=answer(PICTURE), b=answer(b"<html>")) as host:
        patched(monkeypatch, host)
        async with connect(engine, image_hosts=f"localhost:{host.port}") as client:
            shown = await client.post(CHAT, json=with_images(host.url(), host.url()))
            page = await client.post(CHAT, json=with_images(host.url(), host.url("/b.png")))
            metrics = (await client.get("/metrics")).text
    assert (shown.status_code, page.status_code) == (200, 400)
    assert page.json()["error"]["param"] == "messages[0].content[1].image_url"
    assert len(host.asked) == 3, "the same URL twice in a request is fetched once"
    parts = engine.messages[0][0]["content"]
    assert [part["image"].size for part in parts[:2]] == [(8, 6)] * 2
    assert 'dyvte_media_seconds_count{model_name="demo",stage="fetch"} 3.0' in metrics
    assert 'dyvte_media_errors_total{model_name="demo",reason="unreadable"} 1.0' in metrics


async def test_an_http_url_is_never_fetched(connect: Connect) -> None:
    async with connect(image_hosts="localhost") as client:
        reply = await client.post(CHAT, json=with_images("http://localhost/a.png"))
    assert reply.status_code == 400
    assert "http: images are not fetched" in reply.json()["error"]["message"]
