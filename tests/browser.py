"""A headless browser for tests, spoken to over two pipes: what it shows, what it complains of, what it asks for."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
STARTED = """
import fcntl, os, sys
for at, pipe in enumerate([fcntl.fcntl(int(pipe), fcntl.F_DUPFD, 10) for pipe in sys.argv[1:3]], 3):
    os.dup2(pipe, at)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Starts the browser with the pipes where it looks for them: it reads from 3 and writes to 4."""
PATIENCE = 20.0
"""Seconds until an answer of the browser is given up."""
FIRST_PATIENCE = 120.0
"""Seconds until its first answer is: read from a cold disk, a browser of 280 MB has taken half a minute to begin."""


def browser_path() -> str | None:
    """Where a browser is, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page at a time, in a process of its own with an empty profile.

    Args:
        path: of the browser.
        folder: for its profile.
    """

    def __init__(self, path: str, folder: Path) -> None:
        self._patience = FIRST_PATIENCE
        read, to_browser = os.pipe()
        from_browser, write = os.pipe()
        command = [path, *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", STARTED, str(read), str(write), *command],
            pass_fds=(read, write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "HOME": str(folder), "TZ": "UTC"},
        )
        os.close(read)
        os.close(write)
        self._in, self._out = to_browser, from_browser
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        """What happened since the last page was opened."""
        try:
            self._attach()
        except BaseException:
            self.close()
            raise
        self._patience = PATIENCE

    def _attach(self) -> None:
        targets = self.ask("Target.getTargets")["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        for pipe in (self._in, self._out):
            os.close(pipe)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    # ---- asking ----

    def ask(self, method: str, **params: Any) -> Any:
        """Ask for something and wait for the answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        asked = message | ({"sessionId": self._session} if self._session else {})
        self._send(json.dumps(asked).encode() + b"\0")
        answer = self._until(lambda each: each.get("id") == self._number)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._in, data) :]

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = monotonic() + self._patience
        while True:
            while b"\0" in self._rest:
                line, self._rest = self._rest.split(b"\0", 1)
                message = json.loads(line)
                if "method" in message:
                    self.events.append(message)
                if wanted(message):
                    return message
            self._rest += self._read(deadline)

    def _read(self, deadline: float) -> bytes:
        ready, _, _ = select.select([self._out], [], [], max(deadline - monotonic(), 0))
        assert ready, "the browser does not answer"
        data = os.read(self._out, 2**20)
        assert data, "the browser has ended"
        return data

    # ---- a page ----

    def look(self, *, width: int = 1000, scheme: str = "light", media: str = "screen") -> None:
        """How pages are looked at from now on: so wide, in light or dark, on a screen or in print."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=media, features=features)

    def open(self, path: Path, *, width: int = 1000) -> None:
        """Open a page on a light screen and wait until it is loaded."""
        self.look(width=width)
        self.events.clear()
        self.ask("Page.navigate", url=path.as_uri())
        if not self.happened("Page.loadEventFired"):
            self._until(lambda each: each.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives on the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def happened(self, *methods: str) -> list[Any]:
        """What the events of these names said."""
        return [each["params"] for each in self.events if each["method"] in methods]

    @property
    def complaints(self) -> list[Any]:
        """Whatever stands in the console, and what was thrown."""
        self.value("new Promise(done => setTimeout(done, 0))")  # what is being told is told
        return self.happened("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")

    @property
    def requested(self) -> Sequence[str]:
        """The beginnings of the addresses of whatever was asked for."""
        return [each["request"]["url"][:60] for each in self.happened("Network.requestWillBeSent")]
