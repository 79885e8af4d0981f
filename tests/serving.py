"""The command against a Kimi on the loopback interface, in this process: `main` has an event loop of its own."""

import asyncio
import io
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from kimi_agent.terminal.command.cli import main
from kimi_agent.testing import KimiServer
from kimi_agent.testing.script import ScriptSource

NAMES = (
    "KIMI_API_KEY",
    "MOONSHOT_API_KEY",
    "KIMI_BASE_URL",
    "MOONSHOT_BASE_URL",
    "MOONSHOT_API_BASE",
)


@contextmanager
def serving(script: ScriptSource | None = None) -> Generator[KimiServer]:
    """A server with an event loop of its own, in a thread."""
    ready, stop = threading.Event(), threading.Event()
    servers: list[KimiServer] = []

    async def serve() -> None:
        async with KimiServer(script) as server:
            servers.append(server)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield servers[0]
    finally:
        stop.set()
        thread.join()


@dataclass(frozen=True)
class Done:
    """What a command gave."""

    code: int | str | None
    out: str
    err: str


Run = Callable[..., Done]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs the command with nothing piped, and without a key, or with a server's."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.path", [*sys.path])

    def run(*arguments: str, server: KimiServer | None = None) -> Done:
        if server is not None:
            monkeypatch.setenv("KIMI_API_KEY", server.api_key)
            monkeypatch.setenv("KIMI_BASE_URL", server.base_url)
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as left:
            code = left.code
        printed = capsys.readouterr()
        return Done(code, printed.out, printed.err)

    return run


Type = Callable[..., None]


def typist(monkeypatch: pytest.MonkeyPatch) -> Type:
    """A function that sets what is typed, line by line, then Ctrl-D. It is shown, as a terminal does."""

    def set_lines(*lines: str) -> None:
        left = iter(lines)

        def read(prompt: str = "") -> str:
            print(prompt, end="")
            if (line := next(left, None)) is None:
                raise EOFError
            print(line)
            return line

        monkeypatch.setattr("builtins.input", read)

    return set_lines
