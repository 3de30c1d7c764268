"""The same work at the same moment is done once, and nothing is remembered of it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from server import images
from server.images import Decoding, ImageError, ImageFault, ImageLimits, decode_image
from server.in_flight import InFlight
from tests.server.examples import encoded

WIDE = (10**9, 10**9)


class Slow:
    """Work that waits until it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = threading.Event()

    def __call__(self) -> int:
        self.begun += 1
        assert self.go.wait(10)
        return self.begun


def test_those_who_come_meanwhile_get_the_same_result() -> None:
    flight: InFlight[str, int] = InFlight()
    work = Slow()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(flight.result, "picture", work) for _ in range(4)]
        time.sleep(0.05)
        work.go.set()
        assert [each.result() for each in waiting] == [1] * 4
    assert work.begun == 1
    assert flight.result("picture", work) == 2, "nothing is kept"


def test_other_work_does_not_wait() -> None:
    flight: InFlight[str, int] = InFlight()
    work = Slow()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(flight.result, "one", work)
        assert flight.result("other", lambda: 7) == 7
        work.go.set()
        assert waiting.result() == 1


def test_a_failure_is_everybodys_and_is_not_kept() -> None:
    flight: InFlight[str, int] = InFlight()
    go = threading.Event()

    def fail() -> int:
        assert go.wait(10)
        raise ValueError("no picture")

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(flight.result, "key", fail) for _ in range(2)]
        time.sleep(0.05)
        go.set()
        for each in waiting:
            with pytest.raises(ValueError, match="no picture"):
                each.result()
    assert flight.result("key", lambda: 1) == 1


def decoded_at_once(monkeypatch: pytest.MonkeyPatch, *asked: bytes) -> int:
    """How many decodes it takes to answer all of ``asked`` at the same time."""
    decoding, read, count = Decoding(), images._read, 0

    def slow(opened: Image.Image) -> Image.Image:
        nonlocal count
        count += 1
        time.sleep(0.2)
        return read(opened)

    monkeypatch.setattr(images, "_read", slow)
    with ThreadPoolExecutor(len(asked)) as pool:
        waiting = [pool.submit(decode_image, data, ImageLimits(*WIDE), decoding) for data in asked]
        for each in waiting:
            assert each.result().mode == "RGB"
    return count


def test_identical_images_in_flight_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    red = encoded(Image.new("RGB", (600, 600), "red"))
    assert decoded_at_once(monkeypatch, red, red, red) == 1


def test_images_that_differ_in_a_byte_are_not_confused(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2025-46722: a hash over the pixels alone took two different pictures for one."""
    red = encoded(Image.new("RGB", (600, 600), "red"))
    blue = encoded(Image.new("RGB", (600, 600), "blue"))
    flat = encoded(Image.new("RGB", (1200, 300), "red"))
    assert decoded_at_once(monkeypatch, red, blue, flat) == 3


def test_a_shared_picture_counts_in_every_request_s_budget() -> None:
    data, decoding = encoded(Image.new("RGB", (8, 8))), Decoding()
    decode_image(data, ImageLimits(*WIDE), decoding=decoding)
    with pytest.raises(ImageError) as caught:
        decode_image(data, ImageLimits(10**9, 10**9, pixels_left=63), decoding=decoding)
    assert caught.value.fault is ImageFault.TOO_MANY_PIXELS
