"""From what an MCP server answers to what the model reads. It takes any JSON and never raises."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic_core import to_json

from ...message import AudioURLPart, ContentPart, ImageURLPart, MediaURL, TextPart, VideoURLPart
from ..base import ToolError, ToolOk, ToolReturnValue
from ..results import truncate

__all__ = ["Limits", "result_from"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a result the model gets.

    Args:
        text: characters of all texts together.
        media: bytes of all pictures, sounds and films together.
    """

    text: int
    media: int


REPORTED: Final = "The tool reports an error."
_LONGEST_BRIEF: Final = 100


def result_from(answer: Mapping[str, Any], limits: Limits) -> ToolReturnValue:
    """The result of a call from the answer to `tools/call`, as it came."""
    parts = [part for block in _list(answer.get("content")) for part in _parts(block)]
    structured = answer.get("structuredContent")
    if not answer.get("content") and structured is not None:
        parts = [TextPart(text=_json(structured))]
    if not parts and answer.get("resultType") == "input_required":
        return ToolError(message="The tool asks for input from the user, which this client cannot give.", brief="Input")
    output = _plain(_Cut(limits).of(parts))
    if answer.get("isError") is True:
        return ToolError(message=REPORTED, brief=_brief(output), output=output)
    return ToolOk(output=output)


def _plain(parts: Sequence[ContentPart]) -> str | tuple[ContentPart, ...]:
    """One text as a text."""
    match parts:
        case []:
            return ""
        case [TextPart(text=text)]:
            return text
        case _:
            return tuple(parts)


def _brief(output: str | tuple[ContentPart, ...]) -> str:
    text = output if isinstance(output, str) else next((part.text for part in output if isinstance(part, TextPart)), "")
    return truncate(" ".join(text.split()), _LONGEST_BRIEF) or REPORTED


# ==== blocks ====


def _parts(block: Any) -> Iterator[ContentPart]:
    """What a block is to the model; nothing for an empty text."""
    fields = _dict(block)
    make = _MAKERS.get(str(fields.get("type")), _unknown)
    part = make(fields)
    if not (isinstance(part, TextPart) and not part.text):
        yield part


def _text(block: Mapping[str, Any]) -> ContentPart:
    return TextPart(text=_said(block.get("text")))


def _media(block: Mapping[str, Any]) -> ContentPart:
    return _media_part(block.get("mimeType"), block.get("data"), f"{block['type']}")


def _resource(block: Mapping[str, Any]) -> ContentPart:
    resource = _dict(block.get("resource"))
    label = f"resource {_said(resource.get('uri'))}".strip()
    if "blob" in resource:
        return _media_part(resource.get("mimeType"), resource["blob"], label)
    return TextPart(text=_said(resource.get("text")) or f"[{label}: empty]")


def _link(block: Mapping[str, Any]) -> ContentPart:
    title = _said(block.get("title")) or _said(block.get("name"))
    kind = _said(block.get("mimeType"))
    head = " ".join(word for word in ("resource", title, _said(block.get("uri")), kind and f"({kind})") if word)
    description = _said(block.get("description"))
    return TextPart(text=f"[{head}: {description}]" if description else f"[{head}]")


def _unknown(block: Mapping[str, Any]) -> ContentPart:
    kind = truncate(_said(block.get("type")) or "of no type", 50)
    return TextPart(text=f"[a block that cannot be shown: {kind}]")


_MAKERS: Final[Mapping[str, Callable[[Mapping[str, Any]], ContentPart]]] = {
    "text": _text,
    "image": _media,
    "audio": _media,
    "resource": _resource,
    "resource_link": _link,
}

_PICTURES: Final[Sequence[tuple[str, re.Pattern[bytes]]]] = (
    ("image/png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("image/jpeg", re.compile(rb"\xff\xd8\xff")),
    ("image/gif", re.compile(rb"GIF8[79]a")),
    ("image/webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("image/bmp", re.compile(rb"BM")),
    ("image/heic", re.compile(rb"....ftyp(hei|hev|mif)", re.DOTALL)),
)
"""How the pictures begin that Kimi takes. One that is something else would have the whole conversation refused."""

_SOUND_OR_FILM: Final = re.compile(r"(audio|video)/[a-z0-9.+-]+")
_TEXT_KINDS: Final = re.compile(r"text/.*|image/svg\+xml|application/(.*\+)?(json|xml|yaml|javascript)")


def _media_part(mime: Any, data: Any, label: str) -> ContentPart:
    """Bytes by their kind: a picture, a sound, a film, a text; else words that say what it is."""
    kind = mime.partition(";")[0].strip().lower() if isinstance(mime, str) else ""
    content = _decoded(data)
    if content is None:
        return TextPart(text=f"[{label}: damaged]")
    if _TEXT_KINDS.fullmatch(kind):
        return TextPart(text=content.decode(errors="replace"))
    if _SOUND_OR_FILM.fullmatch(kind):
        url = _data_url(kind, content)
        return AudioURLPart(audio_url=url) if kind.startswith("audio/") else VideoURLPart(video_url=url)
    if picture := next((name for name, beginning in _PICTURES if beginning.match(content)), None):
        return ImageURLPart(image_url=_data_url(picture, content))
    return TextPart(text=f"[{label}: {len(content)} bytes of {truncate(kind, 50) or 'an unknown kind'}]")


def _data_url(kind: str, content: bytes) -> MediaURL:
    return MediaURL(url=f"data:{kind};base64,{b64encode(content).decode()}")


def _decoded(data: Any) -> bytes | None:
    try:
        return b64decode("".join(data.split()), validate=True) or None if isinstance(data, str) else None
    except (NotBase64, ValueError):
        return None


# ==== length ====


class _Cut:
    """Parts with no more text and media than there is room for."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._text, self._media = limits.text, limits.media

    def of(self, parts: Sequence[ContentPart]) -> list[ContentPart]:
        """The parts that fit; a note says what is missing, and where."""
        kept: list[ContentPart] = []
        for place, part in enumerate(parts):
            shown = self._fitting(part)
            if isinstance(shown, TextPart):
                if len(shown.text) > self._text:
                    return [*kept, self._end(shown.text, parts[place + 1 :])]
                self._text -= len(shown.text)
            kept.append(shown)
        return kept

    def _fitting(self, part: ContentPart) -> ContentPart:
        size = _media_size(part)
        if size > self._media:
            return TextPart(text=f"[{part.type.removesuffix('_url')}: {size} bytes, too large to be shown]")
        self._media -= size
        return part

    def _end(self, text: str, rest: Sequence[ContentPart]) -> TextPart:
        """The text that does not fit, cut, with a note about it and about what comes after it."""
        lost = len(text) + sum(len(part.text) for part in rest if isinstance(part, TextPart)) - self._text
        more = sum(not isinstance(part, TextPart) for part in rest)
        note = f"[cut: the result has {lost} more characters{f' and {more} more parts' if more else ''}]"
        kept = truncate(text, self._text)
        return TextPart(text=f"{kept}\n{note}" if kept else note)


def _media_size(part: ContentPart) -> int:
    """The bytes of a part that is no text."""
    match part:
        case ImageURLPart(image_url=media) | AudioURLPart(audio_url=media) | VideoURLPart(video_url=media):
            return len(media.url.partition(",")[2]) * 3 // 4
        case _:
            return 0


# ==== any JSON ====


def _dict(value: Any) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], value) if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return cast(Sequence[Any], value) if isinstance(value, list) else ()


def _said(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return to_json(value, inf_nan_mode="null", fallback=str).decode()
