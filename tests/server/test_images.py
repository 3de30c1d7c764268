"""A user's picture becomes RGB, or a 400 with a fixed sentence that names its place."""

from __future__ import annotations

import base64
import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image, ImageOps

from server.images import FORMATS, ImageError, ImageFault, ImageLimits, decode_image, read_data_url
from tests.server.conftest import Connect
from tests.server.examples import CHAT, RED, body, data_url, encoded, with_images
from tests.server.fake_engine import FakeEngine

LIMITS = (10**7, 10**6)


def decoded(data: bytes) -> Image.Image:
    return decode_image(data, ImageLimits(*LIMITS))


def fault(data: bytes) -> ImageFault:
    with pytest.raises(ImageError) as caught:
        decoded(data)
    return caught.value.fault


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + head))
    begun = struct.pack(">I", 99) + b"IDAT"
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head + crc + begun


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_is_read(form: str) -> None:
    picture = decoded(encoded(Image.new("RGB", (8, 6), "red"), form))
    assert (picture.mode, picture.size) == ("RGB", (8, 6))
    red, green, blue = picture.getpixel((4, 3))  # type: ignore[misc]
    assert red > 240 > 15 > max(green, blue)


@pytest.mark.parametrize("form", ["BMP", "TIFF", "ICO", "PPM"])
def test_other_formats_are_not_even_tried(form: str) -> None:
    assert fault(encoded(Image.new("RGB", (8, 8)), form)) is ImageFault.UNREADABLE


def test_transparency_lies_over_white() -> None:
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    for image in (clear, clear.convert("LA"), clear.quantize(4)):
        assert decoded(encoded(image)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_keeps_its_tone() -> None:
    deep = Image.new("I;16", (2, 2), 0x8080)
    assert decoded(encoded(deep)).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (4, 4), "white").convert(mode)
    picture = decoded(encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert picture.mode == "RGB"
    assert picture.getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_exif_orientation_is_applied(orientation: int, form: str) -> None:
    """As Pillow's own transposition does; 9 means nothing."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = Image.effect_noise((8, 4), 90).convert("RGB")
    file = encoded(plain, form, exif=exif)
    with Image.open(BytesIO(file)) as opened:
        expected = ImageOps.exif_transpose(opened).convert("RGB")
    turned = decoded(file)
    assert turned.size == ((4, 8) if 5 <= orientation <= 8 else (8, 4))
    assert turned.tobytes() == expected.tobytes()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Possibly corrupt EXIF")
@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*" + b"\1" * 90, b"Exif\0\0none"],
    ids=["offset", "ones", "no header"],
)
def test_a_broken_exif_block_says_nothing(exif: bytes) -> None:
    assert decoded(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)).size == (8, 4)


def png_of(depth: int, colour: int, row: bytes, rows: int = 2) -> bytes:
    """A PNG of one repeated row, two pixels wide, in forms that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", 2, rows, depth, colour, 0, 0, 0)
    data = zlib.compress((b"\0" + row) * rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("colour", "pixel", "expected"),
    [
        (2, "ffff80000000", (255, 128, 0)),
        (6, "ffff80000000ffff", (255, 128, 0)),
        (6, "ffff800000000000", (255, 255, 255)),
        (4, "8000ffff", (128, 128, 128)),
        (4, "80000000", (255, 255, 255)),
        (0, "8080", (128, 128, 128)),
    ],
    ids=["RGB", "RGBA opaque", "RGBA clear", "grey opaque", "grey clear", "grey"],
)
def test_sixteen_bits_a_channel_keep_their_tone(
    colour: int, pixel: str, expected: tuple[int, int, int]
) -> None:
    assert decoded(png_of(16, colour, bytes.fromhex(pixel) * 2)).getpixel((1, 1)) == expected


def test_cmyk_of_print_becomes_the_same_colours() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    red, green, blue = decoded(encoded(cyan, "JPEG")).getpixel((8, 8))  # type: ignore[misc]
    assert red < 10 < 240 < min(green, blue)


def test_a_colour_of_a_palette_can_be_clear() -> None:
    drawn = Image.new("P", (2, 1))
    drawn.putpalette([255, 0, 0, 0, 0, 255])
    drawn.putpixel((1, 0), 1)
    picture = decoded(encoded(drawn, transparency=0))
    assert [picture.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (0, 0, 255)]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "MPO"])
def test_the_first_frame_of_an_animation_counts(form: str) -> None:
    """MPO is what some phones write: several JPEGs in a file that calls itself one."""
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    red, _, blue = decoded(data).getpixel((0, 0))  # type: ignore[misc]
    assert red > 240 > 15 > blue


def test_pixels_are_counted_before_decoding() -> None:
    assert fault(png_header(30_000, 30_000)) is ImageFault.TOO_MANY_PIXELS
    assert fault(png_header(1001, 1000)) is ImageFault.TOO_MANY_PIXELS


def test_the_budget_of_pixels_is_the_requests() -> None:
    limits = ImageLimits(10**7, 10**6, pixels_left=100)
    data = encoded(Image.new("RGB", (8, 8)))
    decode_image(data, limits)
    with pytest.raises(ImageError, match="of this request"):
        decode_image(data, limits)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        encoded(Image.new("RGB", (64, 64)), "JPEG")[:-200],
        b"GIF89a<script>alert(1)</script>",
        b"%PDF-1.4" + encoded(Image.new("RGB", (4, 4))),
        png_header(4, 4),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
    ],
    ids=["empty", "magic only", "truncated", "gif and html", "pdf and png", "no data", "eps"],
)
def test_a_broken_file_is_refused_with_a_fixed_sentence(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        decoded(data)
    assert caught.value.message in {
        "the image is empty",
        "the image cannot be read; send a whole JPEG, PNG, WebP or GIF",
    }


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.com/a.png", ImageFault.URL),
        ("http://169.254.169.254/", ImageFault.URL),
        ("file:///etc/passwd", ImageFault.URL),
        ("/etc/passwd", ImageFault.URL),
        ("", ImageFault.URL),
        ("data:text/html;base64,aGk=", ImageFault.URL),
        ("data:image/svg+xml;base64,aGk=", ImageFault.URL),
        ("data:image/png,rawbytes", ImageFault.URL),
        ("data:image/png;base64,", ImageFault.EMPTY),
        ("data:image/png;base64,a", ImageFault.BASE64),
        ("data:image/png;base64,aGk=!!", ImageFault.BASE64),
        ("data:image/png;base64,aG\u2460=", ImageFault.BASE64),
        ("data:image/png;base64," + "A" * 20_000, ImageFault.TOO_MANY_BYTES),
    ],
)
def test_only_strict_data_urls_are_taken(url: str, expected: ImageFault) -> None:
    with pytest.raises(ImageError) as caught:
        read_data_url(url, 10_000)
    assert caught.value.fault is expected


def test_a_data_url_is_read_whatever_its_case() -> None:
    payload = base64.b64encode(b"hi").decode()
    assert read_data_url(f"DATA:image/JPEG;base64,{payload}", 10) == b"hi"


@pytest.mark.anyio
async def test_a_bad_image_names_its_place_and_nothing_else_suffers(connect: Connect) -> None:
    engine = FakeEngine()
    async with connect(engine) as client:
        reply = await client.post(CHAT, json=with_images(RED, data_url(b"nonsense")))
        good = await client.post(CHAT, json=with_images(RED))
    assert (reply.status_code, good.status_code) == (400, 200)
    assert reply.json()["error"]["param"] == "messages[0].content[1].image_url"
    assert len(engine.requests) == 1


@pytest.mark.anyio
async def test_a_remote_image_is_told_why(connect: Connect) -> None:
    async with connect() as client:
        reply = await client.post(CHAT, json=with_images("https://example.com/a.png"))
    assert reply.status_code == 400
    assert "until the operator names hosts" in reply.json()["error"]["message"]


@pytest.mark.anyio
async def test_the_engine_gets_pictures_in_order(connect: Connect) -> None:
    engine = FakeEngine()
    blue = data_url(encoded(Image.new("RGB", (1, 1), "blue")))
    async with connect(engine) as client:
        assert (await client.post(CHAT, json=with_images(RED, blue))).status_code == 200
        assert (await client.post(CHAT, json=body("text only"))).status_code == 200
    parts = engine.messages[0][0]["content"]
    assert [part["image"].size for part in parts[:2]] == [(8, 6), (1, 1)]


@pytest.mark.anyio
async def test_the_engine_is_told_each_pictures_detail(connect: Connect) -> None:
    engine = FakeEngine()
    asked = with_images(RED, RED, RED, RED)
    parts = asked["messages"][0]["content"]
    for part, detail in zip(parts, ["low", "high", None], strict=False):
        part["image_url"]["detail"] = detail
    async with connect(engine) as client:
        assert (await client.post(CHAT, json=asked)).status_code == 200
        parts[1]["image_url"]["detail"] = "huge"
        refused = await client.post(CHAT, json=asked)
    given = engine.messages[0][0]["content"]
    assert [part["detail"] for part in given[:4]] == ["low", "high", "auto", "auto"]
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "messages[0].content[1].image_url.detail"


def test_a_photograph_of_twenty_megapixels_is_read() -> None:
    data = encoded(Image.new("RGB", (5472, 3648), "red"), "JPEG")
    limits = ImageLimits(32 * 2**20, 50_000_000)
    assert decode_image(data, limits).size == (5472, 3648)
