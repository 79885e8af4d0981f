"""What a picture costs: its size in pixels, read from the file's header, and the tokens of that size.

Kimi cuts a picture into patches of 14 by 14 pixels and makes a token of every 2 by 2 of them. A picture with more
patches than the model takes is scaled down first.
"""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Callable
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

__all__ = ["K2_PATCHES", "K3_PATCHES", "UNKNOWN_COST", "Size", "picture_tokens", "size_of"]

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""

UNKNOWN_COST: Final = 2_000
"""Tokens that are assumed for what cannot be measured here: an uploaded file (`ms://`), a link, a film, a sound, a
format without a reader. Moonshot AI's own client assumes the same."""

K2_PATCHES: Final = 16_384
"""Patches that Kimi K2.5 to K2.7 take of a picture."""
K3_PATCHES: Final = 65_536
"""Patches that Kimi K3 takes of a picture."""
PATCH: Final = 14
"""Pixels of a patch, each way."""
SIDE: Final = 512
"""Patches that one side may have."""


def picture_tokens(size: Size, patches: int) -> int:
    """Tokens of the picture itself, without what stands around it.

    Args:
        size: in pixels.
        patches: that the model takes of a picture.
    """
    width, height = size
    longest = SIDE * PATCH
    grid = max(1, width // PATCH) * max(1, height // PATCH)
    scale = min(1.0, math.sqrt(patches / grid), longest / width, longest / height)
    return _blocks(width * scale) * _blocks(height * scale)


def _blocks(pixels: float) -> int:
    return math.ceil(min(max(1, int(pixels)), SIDE * PATCH) / (2 * PATCH))


# ==== size ====


def size_of(url: str) -> Size | None:
    """The size of the picture in a `data:` URL; `None` when it is elsewhere, or in a format that is not read here.

    Raises:
        ValueError: the data is no base64, or there is none.
    """
    if url[:5].lower() != "data:":
        return None
    kind, comma, data = url.partition(",")
    if not comma or not data:
        raise ValueError("a data: URL without data")
    if not kind.lower().endswith(";base64"):
        return _size(unquote_to_bytes(data[:_FAR]))
    return _size(_decoded(_beginning(data, _BEGINNING))) or _size(_decoded(_beginning(data, _FAR)))


_BEGINNING: Final = 16_384  # characters; enough for any header but that of a photo with much beside the picture
_FAR: Final = 524_288  # characters; what lies behind is not looked for
_SPACES: Final = {ord(space): None for space in " \t\r\n"}


def _beginning(data: str, length: int) -> str:
    """The first base64 of the data, as far as it is whole bytes; the whole of what is shorter."""
    if len(data) <= length:
        return data
    clean = data[:length].translate(_SPACES)
    return clean[: len(clean) // 4 * 4]


def _decoded(data: str) -> bytes:
    """The bytes of base64, which may lack the padding."""
    clean = data.translate(_SPACES).rstrip("=")
    try:
        return binascii.a2b_base64(clean + "=" * (-len(clean) % 4), strict_mode=True)
    except ValueError as error:
        raise ValueError("the data is no base64") from error


def _size(data: bytes) -> Size | None:
    """The size in the header; `None` when there is none."""
    reader = next((reader for beginning, reader in _READERS if data.startswith(beginning)), None)
    try:
        size = reader(data) if reader else None
    except (struct.error, IndexError):  # cut off
        return None
    return size if size and min(size) > 0 else None


def _png(data: bytes) -> Size:
    return struct.unpack_from(">II", data, 16)


def _gif(data: bytes) -> Size:
    return struct.unpack_from("<HH", data, 6)


def _bmp(data: bytes) -> Size:
    """The oldest headers have short numbers; a negative height tells that the rows begin at the top."""
    old = struct.unpack_from("<I", data, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
    return width, abs(height)


def _webp(data: bytes) -> Size | None:
    reader = _WEBP.get(data[12:16]) if data[8:12] == b"WEBP" else None
    return reader(data) if reader else None


def _webp_lossy(data: bytes) -> Size:
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _webp_lossless(data: bytes) -> Size:
    bits = struct.unpack_from("<I", data, 21)[0]
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _webp_extended(data: bytes) -> Size:
    width, width_high, height, height_high = struct.unpack_from("<HBHB", data, 24)
    return (width | width_high << 16) + 1, (height | height_high << 16) + 1


_WEBP: Final = {b"VP8 ": _webp_lossy, b"VP8L": _webp_lossless, b"VP8X": _webp_extended}

_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""The markers of a JPEG behind which its size stands."""
_BARE: Final = frozenset((0x01, *range(0xD0, 0xD9)))
"""The markers without a length."""


def _jpeg(data: bytes) -> Size | None:
    place = 2
    while data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        place += _step(data, place, marker)
    return None


def _step(data: bytes, place: int, marker: int) -> int:
    """How far the next marker is; filling bytes may stand before it."""
    if marker == 0xFF:
        return 1
    return 2 if marker in _BARE else 2 + int(struct.unpack_from(">H", data, place + 2)[0])


_READERS: Final[tuple[tuple[bytes, Callable[[bytes], Size | None]], ...]] = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8", _jpeg),
    (b"GIF87a", _gif),
    (b"GIF89a", _gif),
    (b"RIFF", _webp),
    (b"BM", _bmp),
)
