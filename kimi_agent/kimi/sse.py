"""Server-sent events: bytes in, events out. No I/O.

Lines end with LF, CR or CRLF and nothing else: U+2028 and U+0085 may stand inside JSON, so `str.splitlines` and
`httpx.aiter_lines` would tear it. A byte order mark at the start, comments and unknown fields are skipped.
https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

from typing import Final, TypeAlias

from ..errors import StreamProtocolError

__all__ = ["Event", "SSEDecoder"]

Event: TypeAlias = tuple[bytes, bytes]
"""The type of an event (`message` unless it says otherwise) and its data."""

MESSAGE: Final = b"message"
LARGEST_EVENT: Final = 16 * 1024 * 1024
"""Bytes. No delta of a model is that long; a server that never ends its event must not fill the memory."""


class SSEDecoder:
    """Splits a body into events, however its bytes are cut."""

    def __init__(self) -> None:
        self._tail: list[bytes] = []
        """The beginning of an event whose blank line has not come yet, in the pieces in which it came."""
        self._tail_size = 0
        self._after_cr = False
        self._at_start = True

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes.

        Raises:
            StreamProtocolError: an event is larger than `LARGEST_EVENT`.
        """
        if self._after_cr or b"\r" in data:
            data = self._with_plain_newlines(data)
        if not data:
            return []
        if self._is_one_event(data):
            self._at_start = False
            return [(MESSAGE, data[6:-2])]
        ends_event = b"\n\n" in data or (data[0] == 10 and bool(self._tail) and self._tail[-1].endswith(b"\n"))
        self._tail.append(data)
        if not ends_event:
            self._tail_size += len(data)
            check_size("an event of the stream", self._tail_size, LARGEST_EVENT)
            return []
        joined = b"".join(self._tail)
        blocks = joined.split(b"\n\n")
        if len(joined) > LARGEST_EVENT:
            check_size("an event of the stream", max(map(len, blocks)), LARGEST_EVENT)
        self._tail = [tail] if (tail := blocks.pop()) else []
        self._tail_size = len(tail)
        return self._events(blocks)

    def _is_one_event(self, data: bytes) -> bool:
        """Whether `data` is one whole event of one line, as servers send them."""
        first_line = data.find(b"\n")
        return (
            first_line == len(data) - 2 < LARGEST_EVENT
            and not self._tail
            and data.startswith(b"data: ")
            and data.endswith(b"\n")
        )

    def close(self) -> list[Event]:
        """The event that the end of the body completes: hosts forget the last blank line."""
        block = b"".join(self._tail)
        self._tail = []
        return self._events([block]) if block else []

    def _with_plain_newlines(self, data: bytes) -> bytes:
        """`data` with LF as its only line end; a CRLF may be cut in two."""
        rest = data[1:] if self._after_cr and data[:1] == b"\n" else data
        if data:
            self._after_cr = data.endswith(b"\r")
        return rest.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _events(self, blocks: list[bytes]) -> list[Event]:
        if self._at_start and blocks:
            self._at_start = False
            blocks[0] = blocks[0].removeprefix(b"\xef\xbb\xbf")
        events: list[Event] = []
        for block in blocks:
            if block.startswith(b"data: ") and b"\n" not in block:
                events.append((MESSAGE, block[6:]))
            elif event := _parse(block):
                events.append(event)
        return events


def check_size(what: str, size: int, largest: int) -> None:
    """Refuse what is larger than it may be, in bytes."""
    if size > largest:
        raise StreamProtocolError(f"{what} is larger than {largest:,} bytes")


def _parse(block: bytes) -> Event | None:
    """One event, field by field; `None` when it has no data."""
    kind = MESSAGE
    data: list[bytes] = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            kind = value or MESSAGE
    return (kind, b"\n".join(data)) if data else None
