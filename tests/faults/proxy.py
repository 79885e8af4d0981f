"""A TCP proxy on which things go wrong: bytes come late, in odd pieces, or not at all, and connections break.

It changes no byte, and of HTTP it knows only what the end of a streamed body looks like. What befalls an answer, and
where, depends on the seed, on the number of its connection and on its number there. As in HTTP/1.1, an answer begins
when bytes have gone the other way.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from random import Random
from typing import Final, Self

__all__ = ["FAULTS", "Link", "Proxy"]

READ: Final = 65_536
LINGER_NOT: Final = struct.pack("ii", 1, 0)
"""`SO_LINGER` on, for 0 seconds: closing resets the connection."""
END_OF_BODY: Final = b"\r\n0\r\n\r\n"
"""How an answer in chunks ends."""
REACH: Final = 4096
"""Bytes of an answer, with its head, within which a fault strikes."""
LATE: Final = 0.01
"""Seconds that an answer is held back at most."""
HELD: Final = 0.002
"""Seconds that a piece waits for more to be glued to."""
THROTTLED: Final = 1024
"""Bytes of an answer that come a few at a time."""


class Proxy:
    """Stands before a server on the loopback interface.

    Args:
        port: of the server.
    """

    injected: Counter[str]
    """How often each fault has struck."""

    def __init__(self, port: int) -> None:
        self.server_port = port
        self.injected = Counter()
        self._links: set[Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._is_open = False
        self.begin(0, 0.0)

    def begin(self, seed: int, rate: float, faults: Collection[str] = ()) -> None:
        """From now on faults are those of this seed.

        Args:
            seed: the same one gives the same faults.
            rate: the share of the answers that get one.
            faults: those that may befall an answer; all of them unless given.
        """
        self.seed, self.rate = seed, rate
        self.weights = {name: weight for name, weight in _WEIGHTS.items() if name in (faults or _WEIGHTS)}
        self.accepted = 0

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._links)

    # ---- its life ----

    async def __aenter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._door = socket.socket()  # bound to a port by its number, which it keeps while it does not listen
        self._door.bind(("127.0.0.1", self.port))
        self._door.setblocking(False)
        self.admit()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.refuse()
        self._door.close()
        await asyncio.gather(*self._serving)

    def admit(self) -> None:
        """Take connections, again if it has refused them."""
        if not self._is_open:
            self._is_open = True
            self._share_port(True)
            self._door.listen()
            asyncio.get_running_loop().add_reader(self._door, self._accept)

    def refuse(self) -> None:
        """Be gone: connections are reset, and new ones refused, until it admits them again."""
        if self._is_open:
            self._is_open = False
            asyncio.get_running_loop().remove_reader(self._door)
            with suppress(OSError):  # not everywhere; then who comes waits
                self._door.shutdown(socket.SHUT_RD)
            self._share_port(False)
        for link in self._links:
            link.reset()

    def _share_port(self, shared: bool) -> None:
        """With the connections that have ended just now, so that it can listen again; with nobody while it does not."""
        self._door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(shared))

    def _accept(self) -> None:
        with suppress(BlockingIOError, ConnectionError):
            client, _ = self._door.accept()
            self.accepted += 1
            task = asyncio.get_running_loop().create_task(self._serve(client, self.accepted))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, client: socket.socket, number: int) -> None:
        link = Link(self, number, *await asyncio.open_connection(sock=client))
        self._links.add(link)
        try:
            await link.serve()
        finally:
            self._links.discard(link)


class Link:
    """One connection through a proxy. Requests pass as they are, and answers with what befalls them.

    Args:
        proxy: whose it is.
        number: of the connection, from 1.
        reader: what the client says.
        writer: to the client.
    """

    def __init__(self, proxy: Proxy, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._number = proxy, number
        self._reader, self._writer = reader, writer
        self._answers = 0
        self._is_answered = True
        self._fault = Fault()

    async def serve(self) -> None:
        """Pass on bytes until one side, or a fault, ends the connection."""
        try:
            source, sink = await asyncio.open_connection("127.0.0.1", self._proxy.server_port)
        except OSError:
            self.reset()
            return
        asking = asyncio.create_task(self._pass_requests(sink))
        try:
            while data := await source.read(READ):
                self._is_answered = True
                await self._fault.carry(data, self)
        except ConnectionError:
            pass
        finally:
            sink.close()
            self._writer.close()
            asking.cancel()
            await asyncio.wait([asking])

    async def _pass_requests(self, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await self._reader.read(READ):
                if self._is_answered:
                    self._is_answered = False
                    self._fault = self._next_fault()
                    self._fault.asked(self)
                sink.write(data)
        except ConnectionError:
            pass
        finally:
            sink.close()

    def _next_fault(self) -> Fault:
        proxy = self._proxy
        self._answers += 1
        dice = Random(f"{proxy.seed}/{self._number}/{self._answers}")
        if dice.random() >= proxy.rate:
            return Fault()
        (name,) = dice.choices(list(proxy.weights), list(proxy.weights.values()))
        return _KINDS[name](dice, name)

    # ---- what a fault does ----

    def struck(self, fault: str) -> None:
        """A fault has struck."""
        self._proxy.injected[fault] += 1

    def write(self, data: bytes) -> None:
        """Pass bytes to the client."""
        if not self._writer.is_closing():
            self._writer.write(data)

    def reset(self) -> None:
        """End the connection with an RST."""
        if self._writer.is_closing():
            return
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self._writer.transport.abort()

    def finish(self) -> None:
        """End the connection with a FIN, in the middle of whatever it is."""
        self._writer.close()

    def be_silent(self) -> None:
        """Leave it half-open: nothing more comes, until the client gives up."""


# ==== what befalls an answer ====


class Fault:
    """What befalls one answer: nothing, unless a subclass says what."""

    def asked(self, link: Link) -> None:
        """The request has begun to come."""

    async def carry(self, data: bytes, link: Link) -> None:
        """More of the answer has come: pass it on."""
        link.write(data)


class Late(Fault):
    """The first byte is late."""

    def __init__(self, dice: Random, name: str) -> None:
        self._name = name
        self._seconds = dice.uniform(0, LATE)

    async def carry(self, data: bytes, link: Link) -> None:
        """Wait once."""
        seconds, self._seconds = self._seconds, 0.0
        if seconds:
            link.struck(self._name)
            await asyncio.sleep(seconds)
        link.write(data)


class Throttled(Fault):
    """A few bytes at a time."""

    def __init__(self, dice: Random, name: str) -> None:
        self._dice, self._name = dice, name
        self._left = THROTTLED

    async def carry(self, data: bytes, link: Link) -> None:
        """Pass on a few bytes for each turn of the event loop, and now and then wait."""
        if self._left == THROTTLED:
            link.struck(self._name)
        while data and self._left > 0:
            size = self._dice.randint(1, 32)
            link.write(data[:size])
            data = data[size:]
            self._left -= size
            await asyncio.sleep(0.001 if self._dice.random() < 0.1 else 0)
        link.write(data)


class Odd(Fault):
    """Cut at any place, and glued to what comes next."""

    def __init__(self, dice: Random, name: str) -> None:
        self._dice, self._name = dice, name
        self._held = b""
        self._size = 0
        self._release: asyncio.TimerHandle | None = None

    async def carry(self, data: bytes, link: Link) -> None:
        """Pass on pieces of odd sizes; hold back the last one until more comes, or nothing does for a moment."""
        if self._release is None:
            link.struck(self._name)
        else:
            self._release.cancel()
        self._held += data
        self._size = self._size or self._next_size()
        while len(self._held) >= self._size:
            link.write(self._held[: self._size])
            self._held = self._held[self._size :]
            self._size = self._next_size()
            await asyncio.sleep(0)
        self._release = asyncio.get_running_loop().call_later(HELD, self._let_go, link)

    def _next_size(self) -> int:
        return int(REACH ** self._dice.random())

    def _let_go(self, link: Link) -> None:
        held, self._held = self._held, b""
        link.write(held)


class Ended(Fault):
    """The connection ends somewhere in the answer; never, if that is too short.

    Args:
        place: how many bytes of the answer come.
        end: how.
        name: of the fault.
    """

    def __init__(self, place: int, end: Callable[[Link], None], name: str) -> None:
        self._left, self._end, self._name = place, end, name
        self._ended = False

    async def carry(self, data: bytes, link: Link) -> None:
        """Pass on what comes before the end, and nothing behind it."""
        if self._ended:
            return
        kept = data[: self._left]
        self._left -= len(kept)
        if kept:
            link.write(kept)
        if len(kept) < len(data):
            self._ended = True
            link.struck(self._name)
            if kept:
                await asyncio.sleep(0)  # else a reset takes back what was sent
            self._end(link)


class EndedAfter(Fault):
    """The connection is reset when the answer is whole, while the client may think that it can be used again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tail = b""

    async def carry(self, data: bytes, link: Link) -> None:
        """Pass it on, and reset behind the end."""
        link.write(data)
        self._tail = (self._tail + data)[-len(END_OF_BODY) :]
        if self._tail == END_OF_BODY:
            link.struck(self._name)
            await asyncio.sleep(0.001)
            link.reset()


class EndedAsking(Fault):
    """The connection is reset while the request is sent."""

    def __init__(self, name: str) -> None:
        self._name = name

    def asked(self, link: Link) -> None:
        """Reset it."""
        link.struck(self._name)
        link.reset()


def _place(dice: Random) -> int:
    """Somewhere within reach, in the head as in the body."""
    return dice.randint(1, REACH)


_KINDS: Final[dict[str, Callable[[Random, str], Fault]]] = {
    "late": Late,
    "throttled": Throttled,
    "odd pieces": Odd,
    "reset asking": lambda dice, name: EndedAsking(name),
    "reset before": lambda dice, name: Ended(0, Link.reset, name),
    "reset inside": lambda dice, name: Ended(_place(dice), Link.reset, name),
    "reset after": lambda dice, name: EndedAfter(name),
    "ended before": lambda dice, name: Ended(0, Link.finish, name),
    "ended inside": lambda dice, name: Ended(_place(dice), Link.finish, name),
    "silent before": lambda dice, name: Ended(0, Link.be_silent, name),
    "silent inside": lambda dice, name: Ended(_place(dice), Link.be_silent, name),
}
_WEIGHTS: Final[dict[str, int]] = {name: 1 if name.startswith("silent") else 4 for name in _KINDS}
"""Silence lasts until the client gives up: there is less of it, so that a campaign ends."""

FAULTS: Final = (*_KINDS, "refused")
"""What an answer can suffer, and a connection that is refused."""
