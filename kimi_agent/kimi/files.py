"""Files on the platform: pictures and films to show to the model, documents to read the text of."""

from __future__ import annotations

import asyncio
import mimetypes
import reprlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, overload
from urllib.parse import quote

from ..errors import InvalidRequestError, StreamProtocolError
from ..message import ImageURLPart, MediaURL, VideoURLPart
from .endpoints import asked

if TYPE_CHECKING:
    from .http import HttpTransport

__all__ = ["KimiFile", "KimiFiles"]

Source: TypeAlias = str | Path | bytes
"""A path, or the bytes themselves."""
Purpose: TypeAlias = Literal["file-extract", "image", "video", "batch"]

LARGEST_FILE: Final = 100 * 1024 * 1024
"""Bytes. Kimi keeps no larger file, 1000 files at most, and 10 GB in all."""


@dataclass(frozen=True, slots=True)
class KimiFile:
    """A file on the platform.

    Args:
        id: names it there; `ms://<id>` is its address in a message.
        filename: as it was uploaded.
        purpose: what it is for.
        size: in bytes.
        created: when it was uploaded.
        status: what has become of it, in the platform's word.
    """

    id: str
    filename: str
    purpose: str
    size: int
    created: datetime | None
    status: str


class KimiFiles:
    """The files of an account. Get it as `kimi.files`."""

    def __init__(self, http: HttpTransport) -> None:
        self._http = http

    async def upload(self, file: Source, *, purpose: Purpose, filename: str | None = None) -> KimiFile:
        """Send a file.

        Args:
            file: a path, or bytes.
            purpose: `file-extract` for documents whose text you want; `image` and `video` for what the model is to see.
            filename: under which it is kept; needed for bytes, as its ending says what they are.

        Raises:
            InvalidRequestError: it is larger than 100 MB, empty, without a name, or no picture or film but to be one.
            OSError: the file cannot be read.
            ChatProviderError: the platform did not take it.
        """
        name, content = await asyncio.to_thread(_named, file, filename)
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        if purpose in ("image", "video") and (not kind.startswith(("image/", "video/")) or "svg" in kind):
            raise InvalidRequestError(f"{name} is {kind}, which Kimi does not see; it takes pictures and films")
        form: dict[str, Any] = {"data": {"purpose": purpose}, "files": {"file": (name, content, kind)}}
        return _file(await asked(self._http, "POST", "/files", repeatable=False, **form))

    async def upload_image(self, image: Source, *, filename: str | None = None) -> ImageURLPart:
        """Send a picture and get the part of a message that shows it. Raises like `upload`."""
        file = await self.upload(image, purpose="image", filename=filename or _default_name(image, "image.png"))
        return ImageURLPart(image_url=MediaURL(url=f"ms://{file.id}"))

    @overload
    async def upload_video(self, video: Source, *, filename: str | None = None) -> VideoURLPart: ...

    @overload
    async def upload_video(self, *, data: bytes, mime_type: str) -> VideoURLPart: ...

    async def upload_video(
        self,
        video: Source | None = None,
        *,
        filename: str | None = None,
        data: bytes | None = None,
        mime_type: str | None = None,
    ) -> VideoURLPart:
        """Send a film and get the part of a message that shows it. Raises like `upload`.

        Args:
            video: a path, or bytes.
            filename: under which it is kept; its ending says what bytes are, which are MP4 unless said.
            data: in place of `video`: its bytes, with `mime_type`.
            mime_type: what `data` is, such as `video/webm`.
        """
        if video is None:
            video, filename = _typed(data, mime_type)
        file = await self.upload(video, purpose="video", filename=filename or _default_name(video, "video.mp4"))
        return VideoURLPart(video_url=MediaURL(url=f"ms://{file.id}"))

    async def extract(self, document: Source, *, filename: str | None = None) -> str:
        """Send a document and get its text, as a message of the user or the system may carry it. Raises like `upload`.

        The document stays among the files of the account.
        """
        file = await self.upload(document, purpose="file-extract", filename=filename)
        return await self.content(file.id)

    async def list(self) -> list[KimiFile]:
        """All files of the account."""
        entries: Any = (await asked(self._http, "GET", "/files")).get("data")
        if not isinstance(entries, list):
            raise StreamProtocolError("the answer of /files has no list of files")
        return [_file(entry) for entry in cast("list[Any]", entries)]

    async def get(self, file_id: str) -> KimiFile:
        """What is known of a file.

        Raises:
            NotFoundError: there is none with this id.
        """
        return _file(await asked(self._http, "GET", _path(file_id)))

    async def delete(self, file_id: str) -> None:
        """Remove a file.

        Raises:
            NotFoundError: there is none with this id.
        """
        await asked(self._http, "DELETE", _path(file_id))

    async def content(self, file_id: str) -> str:
        """The text of a document that was uploaded for `file-extract`.

        Raises:
            NotFoundError: there is none with this id.
            BadRequestError: it has no text.
        """
        return (await self._http.fetch("GET", f"{_path(file_id)}/content")).decode(errors="replace")


def _named(file: Source, filename: str | None) -> tuple[str, bytes]:
    name = filename or ("" if isinstance(file, bytes) else Path(file).name)
    if not name:
        raise InvalidRequestError("bytes need a filename=, whose ending says what they are")
    size = len(file) if isinstance(file, bytes) else Path(file).stat().st_size
    if not 0 < size <= LARGEST_FILE:
        raise InvalidRequestError(f"{name} has {size:,} bytes; Kimi takes 1 to {LARGEST_FILE:,}")
    return name, file if isinstance(file, bytes) else Path(file).read_bytes()


def _typed(data: bytes | None, mime_type: str | None) -> tuple[bytes, str]:
    """Bytes of a type, and a file name that says so."""
    if data is None or mime_type is None:
        raise InvalidRequestError("pass a film, or data= and mime_type=")
    ending = mimetypes.guess_extension(mime_type) if mime_type.startswith("video/") else None
    if ending is None:
        raise InvalidRequestError(f"{mime_type!r} is no type of film that is known here; pass the film and a filename=")
    return data, f"video{ending}"


def _default_name(file: Source, name: str) -> str | None:
    return name if isinstance(file, bytes) else None


def _path(file_id: str) -> str:
    return f"/files/{quote(file_id, safe='')}"


def _file(fields: Any) -> KimiFile:
    entry = cast("dict[str, Any]", fields) if isinstance(fields, dict) else {}
    if not isinstance(entry.get("id"), str):
        raise StreamProtocolError(f"the platform sent something else than a file: {reprlib.repr(entry)}")
    created, size = entry.get("created_at"), entry.get("bytes")
    return KimiFile(
        id=entry["id"],
        filename=str(entry.get("filename") or ""),
        purpose=str(entry.get("purpose") or ""),
        size=size if isinstance(size, int) else 0,
        created=_time(created),
        status=str(entry.get("status") or ""),
    )


def _time(seconds: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (TypeError, ValueError, OverflowError, OSError):  # milliseconds, for one
        return None
