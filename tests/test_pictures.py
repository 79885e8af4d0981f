"""The size of pictures, read from their headers, and what they cost."""

import base64
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_agent.prompt.pictures import K2_PATCHES, K3_PATCHES, picture_tokens, size_of


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\x08\x06\0\0\0"


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\xf7\0\0"


def bmp(width: int, height: int) -> bytes:
    return b"BM" + bytes(12) + struct.pack("<Iii", 40, width, height)


def top_down_bmp(width: int, height: int) -> bytes:
    return bmp(width, -height)


def old_bmp(width: int, height: int) -> bytes:
    return b"BM" + bytes(12) + struct.pack("<IHH", 12, width, height)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg(width: int, height: int, marker: int = 0xC0, beside: bytes = b"JFIF\0") -> bytes:
    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes(9)
    return b"\xff\xd8" + segment(0xE0, beside) + segment(0xC4, b"tables") + b"\xff" + segment(marker, frame)


def progressive_jpeg(width: int, height: int) -> bytes:
    return jpeg(width, height, 0xC2)


def photo(width: int, height: int) -> bytes:
    """With more beside the picture than is looked at first."""
    return jpeg(width, height, beside=b"Exif" + bytes(60_000))


def webp(kind: bytes, content: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def lossy_webp(width: int, height: int) -> bytes:
    return webp(b"VP8 ", b"\x30\x01\0\x9d\x01\x2a" + struct.pack("<HH", width | 1 << 14, height))


def lossless_webp(width: int, height: int) -> bytes:
    return webp(b"VP8L", b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14 | 1 << 28))


def extended_webp(width: int, height: int) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return webp(b"VP8X", b"\x10\0\0\0" + sizes)


FORMATS = (
    png,
    gif,
    bmp,
    top_down_bmp,
    old_bmp,
    jpeg,
    progressive_jpeg,
    photo,
    lossy_webp,
    lossless_webp,
    extended_webp,
)


def url(content: bytes) -> str:
    return "data:image/any;base64," + base64.b64encode(content).decode()


@pytest.mark.parametrize("made", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (1500, 500), (4096, 2160)])
def test_the_size_is_read_from_the_header(made, size: tuple[int, int]):
    assert size_of(url(made(*size))) == size


@pytest.mark.parametrize("made", FORMATS)
def test_a_header_that_was_cut_off_anywhere_has_no_size_or_the_right_one(made):
    content = made(640, 480)
    for length in range(min(len(content), 60)):
        assert size_of(url(content[:length] or b"-")) in (None, (640, 480))


@given(start=st.sampled_from([made(64, 48)[:14] for made in FORMATS]), noise=st.binary(max_size=64))
def test_noise_behind_a_beginning_is_a_size_or_none(start: bytes, noise: bytes):
    size = size_of(url(start + noise))
    assert size is None or min(size) > 0
    if size:
        assert 0 < picture_tokens(size, K3_PATCHES) <= 34_000


def test_a_jpeg_that_never_says_its_size_has_none():
    assert size_of(url(b"\xff\xd8" + segment(0xE0, b"JFIF") + segment(0xDA, b"scan") + b"pixels")) is None


@pytest.mark.parametrize("where", ["ms://file_1", "https://example.com/a.png", "http://example.com/a.png", "", "a"])
def test_the_size_of_what_is_elsewhere_is_not_known(where: str):
    assert size_of(where) is None


@pytest.mark.parametrize("content", [b"\0\0\0\x18ftypheic", b"<svg/>", b"RIFF\0\0\0\0WAVE", png(0, 4)])
def test_a_format_without_a_reader_has_no_size(content: bytes):
    assert size_of(url(content)) is None


@pytest.mark.parametrize("broken", ["data:image/png;base64,", "data:image/png;base64", "data:image/png;base64,a*b?"])
def test_what_is_no_data_is_refused(broken: str):
    with pytest.raises(ValueError, match="data"):
        size_of(broken)


def test_lines_and_escapes_in_the_data_do_not_matter():
    encoded = base64.encodebytes(png(20, 10) * 3).decode()
    assert size_of(f"DATA:image/png;BASE64,{encoded}") == (20, 10)
    assert size_of("data:image/gif," + "".join(f"%{byte:02x}" for byte in gif(20, 10))) == (20, 10)


# ==== tokens ====


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        ((1, 1), 1),
        ((640, 480), 414),
        ((1024, 1024), 1369),
        ((1500, 500), 972),
        ((1920, 1080), 2691),
        ((4096, 2160), 11_466),
    ],
)
def test_kimi_k3_pays_a_token_per_block(size: tuple[int, int], tokens: int):
    assert picture_tokens(size, K3_PATCHES) == tokens


@pytest.mark.parametrize(("size", "tokens"), [((1, 1), 1), ((1920, 1080), 2691), ((4096, 2160), 4183)])
def test_kimi_k2_scales_large_pictures_down(size: tuple[int, int], tokens: int):
    assert picture_tokens(size, K2_PATCHES) == tokens


@given(width=st.integers(1, 2**31), height=st.integers(1, 2**31), patches=st.sampled_from([K2_PATCHES, K3_PATCHES]))
def test_no_picture_costs_much_more_than_its_patches(width: int, height: int, patches: int):
    tokens = picture_tokens((width, height), patches)
    assert 1 <= tokens <= patches / 4 + 2 * math.isqrt(patches) + 512
    assert tokens == picture_tokens((height, width), patches)
